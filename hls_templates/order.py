"""The order of the array's work in a stage: its nests merged into one tree of loops.

Nests that share a resource slot run on one piece of hardware, so one process computes them all. They share
their outer loops as far as their data allow: a nest that reads what another one writes stays inside the
loops that select the tile handed over, and comes after it below them.
"""

from dataclasses import dataclass

from tilewright.hls_templates.stage import GemmStage, MatrixLeaf, NotCoveredError


@dataclass(frozen=True, slots=True)
class LoopNode:
    axis: str
    body: "tuple[Node, ...]"


@dataclass(frozen=True, slots=True)
class LeafNode:
    leaf: MatrixLeaf


@dataclass(frozen=True, slots=True)
class BlockNode:
    """A block is held over `body`: the sums while they are computed, or an operand while it is fed."""

    body: "tuple[Node, ...]"


@dataclass(frozen=True, slots=True)
class HandOnNode:
    """u is complete: requantise it."""

    leaf: MatrixLeaf


Node = LoopNode | LeafNode | BlockNode | HandOnNode
_Items = list[tuple[MatrixLeaf, tuple[str, ...]]]


def compute_tree(stage: GemmStage) -> tuple[Node, ...]:
    """The loops of the process that owns the array.

    Raises NotCoveredError where the low-rank path cannot continue the sums that the array holds.
    """
    gemm = next(leaf for leaf in stage.leaves if leaf.role == "gemm")
    up = next((leaf for leaf in stage.leaves if leaf.role == "up"), None)
    if up and up.axes[: up.c_depth] != gemm.axes[: gemm.c_depth]:
        raise NotCoveredError("the low-rank path continues other tiles than the product hands on")
    tree = _merge([(leaf, leaf.axes) for leaf in stage.leaves], 0)
    return _with_blocks(_with_hand_on(tree, 0), 0, {"gemm", "up"}, gemm.c_depth)


def feed_tree(stage: GemmStage, operand: str) -> tuple[Node, ...]:
    """The loops of the process that feeds one operand to the array, in the array's order.

    Raises NotCoveredError where two nests need a block at different times.
    """
    readers = [leaf for leaf in stage.leaves if operand in (leaf.a, leaf.b)]
    depths = {leaf.a_depth if leaf.a == operand else leaf.b_depth for leaf in readers}
    if len(depths) != 1:
        raise NotCoveredError(f"the blocks of {operand} are shared by nests that hold them differently")
    merged = _merge([(leaf, leaf.axes) for leaf in stage.leaves], 0)
    roles: set[str] = {leaf.role for leaf in readers}
    return _with_blocks(_prune(merged, roles), 0, roles, depths.pop())


def roles_below(node: Node) -> set[str]:
    """The roles of the leaves in a node."""
    if isinstance(node, LeafNode):
        return {node.leaf.role}
    if isinstance(node, HandOnNode):
        return set()
    found: set[str] = set()
    return found.union(*(roles_below(child) for child in node.body))


def _shared_depth(first: MatrixLeaf, second: MatrixLeaf) -> int:
    """How many outer loops two leaves may share, `second` reading what `first` wrote or not."""
    if first.role == "down" and second.role == "up":
        return min(first.c_depth, second.a_depth)
    if first.role == "gemm" and second.role == "up":
        return min(first.c_depth, second.c_depth)
    return len(first.axes)


def _merge(items: _Items, depth: int) -> tuple[Node, ...]:
    nodes: list[Node] = []
    position = 0
    while position < len(items):
        leaf, axes = items[position]
        group = [items[position]]
        position += 1
        if not axes:
            nodes.append(LeafNode(leaf))
            continue
        while position < len(items) and _joins(items[position], group, depth):
            group.append(items[position])
            position += 1
        nodes.append(LoopNode(axes[0], _merge([(other, rest[1:]) for other, rest in group], depth + 1)))
    return tuple(nodes)


def _joins(item: tuple[MatrixLeaf, tuple[str, ...]], group: _Items, depth: int) -> bool:
    leaf, axes = item
    same = bool(axes) and axes[0] == group[0][1][0]
    return same and all(depth < _shared_depth(other, leaf) for other, _ in group)


def _with_hand_on(nodes: tuple[Node, ...], depth: int) -> tuple[Node, ...]:
    found: list[Node] = []
    for node in nodes:
        down = _down_leaf(node)
        if down is not None and depth == down.c_depth:
            found += [node, HandOnNode(down)]
        elif isinstance(node, LoopNode):
            found.append(LoopNode(node.axis, _with_hand_on(node.body, depth + 1)))
        else:
            found.append(node)
    return tuple(found)


def _down_leaf(node: Node) -> MatrixLeaf | None:
    if isinstance(node, LeafNode):
        return node.leaf if node.leaf.role == "down" else None
    if isinstance(node, HandOnNode):
        return None
    return next((leaf for child in node.body if (leaf := _down_leaf(child))), None)


def _with_blocks(nodes: tuple[Node, ...], depth: int, roles: set[str], at: int) -> tuple[Node, ...]:
    """Wrap what uses the block at the depth that selects it."""
    users = [position for position, node in enumerate(nodes) if roles_below(node) & roles]
    if not users:
        return nodes
    if depth == at:
        first, last = users[0], users[-1]
        return (*nodes[:first], BlockNode(nodes[first : last + 1]), *nodes[last + 1 :])
    if len(users) > 1:
        raise NotCoveredError("two nests of the array need the same blocks at different times")
    node = nodes[users[0]]
    assert isinstance(node, LoopNode)
    inner = LoopNode(node.axis, _with_blocks(node.body, depth + 1, roles, at))
    return (*nodes[: users[0]], inner, *nodes[users[0] + 1 :])


def _prune(nodes: tuple[Node, ...], roles: set[str]) -> tuple[Node, ...]:
    """Only what leads to leaves of `roles`."""
    kept: list[Node] = []
    for node in nodes:
        if not roles_below(node) & roles:
            continue
        kept.append(LoopNode(node.axis, _prune(node.body, roles)) if isinstance(node, LoopNode) else node)
    return tuple(kept)
