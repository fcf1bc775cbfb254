"""The merged loops of the array: what they hold, and what cannot be merged."""

from dataclasses import replace

import pytest

from tests.hls_programs import Gemm, program
from tilewright.dataflow.program import Limit, Loop
from tilewright.hls_templates.analyse import analyse
from tilewright.hls_templates.order import (
    BlockNode,
    HandOnNode,
    LeafNode,
    LoopNode,
    Node,
    compute_tree,
    feed_tree,
)
from tilewright.hls_templates.stage import GemmStage, NotCoveredError


def _stage(gemm: Gemm) -> GemmStage:
    given = program(gemm)
    return analyse(given.stages[0], given)


def _text(nodes: tuple[Node, ...]) -> str:
    """Loops as `m(...)`, blocks as `[...]`, leaves by role, `u` where the low-rank operand is handed on."""
    parts = []
    for node in nodes:
        if isinstance(node, LoopNode):
            parts.append(f"{node.axis}({_text(node.body)})")
        elif isinstance(node, BlockNode):
            parts.append(f"[{_text(node.body)}]")
        elif isinstance(node, LeafNode):
            parts.append(node.leaf.role)
        else:
            assert isinstance(node, HandOnNode)
            parts.append("u")
    return " ".join(parts)


def test_a_product_holds_its_sums_over_k() -> None:
    assert _text(compute_tree(_stage(Gemm("one")))) == "m(n([k(gemm)]))"


def test_a_low_rank_path_runs_inside_the_loops_of_the_product() -> None:
    assert _text(compute_tree(_stage(Gemm("one", rank=4)))) == "m(down u n([k(gemm) up]))"


def test_columns_outside_need_the_low_rank_operand_again_for_every_column_tile() -> None:
    assert _text(compute_tree(_stage(Gemm("one", rank=4, order="nmk")))) == "n(m(down u [k(gemm) up]))"


def test_a_panel_of_x_is_held_while_all_its_readers_run() -> None:
    stage = _stage(Gemm("one", rank=4))
    assert _text(feed_tree(stage, "x")) == "m([down n(k(gemm))])"
    assert _text(feed_tree(stage, "w")) == "m(n(k([gemm])))"
    assert _text(feed_tree(stage, "a")) == "[m(down)]"
    assert _text(feed_tree(stage, "b")) == "[m(n(up))]"


def test_loops_that_run_once_beside_others_vanish() -> None:
    """A batch of one in front of m: its loop neither moves nor repeats anything."""
    given = program(Gemm("one"))
    stage = given.stages[0]
    nests = []
    for nest in stage.nests:
        leaf, loops = nest.leaf, nest.loops
        ports = {"reads": nest.reads, "writes": nest.writes}
        if any(loop.rank == "one_m" for loop in loops):
            loops = (Loop("b", 1, 1), *loops)
            ports = {
                key: tuple(replace(port, depth=port.depth + (port.depth > 0)) for port in value)
                for key, value in ports.items()
            }
        if hasattr(leaf, "m_ranks") and leaf.m_ranks:
            leaf = replace(leaf, m_ranks=("b", *leaf.m_ranks), tile=(("b", 1), *leaf.tile))
        nests.append(replace(nest, leaf=leaf, loops=loops, **ports))
    batched = replace(given, stages=(replace(stage, nests=tuple(nests)),))
    assert _text(compute_tree(analyse(batched.stages[0], batched))) == "m(n([k(gemm)]))"


def test_a_triangular_loop_is_not_covered() -> None:
    given = program(Gemm("one"))
    stage = given.stages[0]
    product = stage.nests[2]
    loops = (product.loops[0], replace(product.loops[1], limit=Limit("one_m", 3)), product.loops[2])
    changed = replace(stage, nests=(*stage.nests[:2], replace(product, loops=loops), *stage.nests[3:]))
    with pytest.raises(NotCoveredError, match="loop 'one_n' of nest 'one_gemm' is triangular"):
        analyse(changed, given)


def test_sums_that_leave_before_they_are_complete_are_not_covered() -> None:
    given = program(Gemm("one", order="mkn"))
    with pytest.raises(NotCoveredError, match="hands on sums before they are complete"):
        analyse(given.stages[0], given)
