"""What the templates print, as plain dicts and strings; all decisions are made in the plan."""

from collections.abc import Sequence
from functools import cache
from math import prod
from typing import Any

from tilewright.hls_templates.engine import (
    Block,
    Engine,
    fifo_words,
    operand_block,
    sums_block,
    u_block,
)
from tilewright.hls_templates.layout import SIDES, operand_axes
from tilewright.hls_templates.order import BlockNode, HandOnNode, LoopNode, Node
from tilewright.hls_templates.plan import KernelPlan, PlacedStage, Shapes, side_step
from tilewright.hls_templates.stage import Axis, Dim, GemmStage, MatrixLeaf, Operand, PostStep

#: Beats that may wait between a feeder and the grid.
VECTOR_DEPTH = 8
_RESULT_DEPTH = 32

Context = dict[str, Any]


@cache
def environment() -> Any:
    """The templates of this package; undefined names are errors."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("tilewright.hls_templates", "hls"),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )


def render(template: str, context: Context) -> str:
    """One text: no spaces at line ends, directives at the line's start, few empty lines."""
    text = environment().get_template(template).render(context)
    lines: list[str] = []
    for line in text.splitlines():
        stripped = line.rstrip()
        if template.endswith(".cpp.jinja") or template.endswith(".h.jinja"):
            is_directive = stripped.lstrip().startswith("#")
            stripped = stripped.lstrip() if is_directive else stripped
            closes = stripped.lstrip().startswith("}") or (is_directive and not stripped.startswith("#if"))
            if closes and lines and not lines[-1]:
                lines.pop()
        opens = lines and (lines[-1].endswith("{") or lines[-1].startswith("#ifndef TRIPS"))
        if stripped or (lines and lines[-1] and not opens):
            lines.append(stripped)
    return "\n".join(lines).rstrip("\n") + "\n"


def kernel_context(plan: KernelPlan) -> Context:
    """Everything that kernel.cpp, kernel.h and params.h print about the engines."""
    post_lanes = post_width(plan)
    return {
        "operand_bits": max(plan.bits.values()),
        "rounding": plan.quantisation.rounding,
        "vector_depth": VECTOR_DEPTH,
        "engines": [_engine(engine, plan, post_lanes) for engine in plan.engines],
        "full": _shapes(plan.full, plan),
        "small": _shapes(plan.small, plan),
    }


def post_width(plan: KernelPlan) -> int:
    """Elements that the post stage finishes per cycle: a power of two, at most a word and the vector unit."""
    width = plan.lanes["y"]
    while width > plan.machine.vector_lanes:
        width //= 2
    return width


# ---- expressions


def _size(stage: GemmStage, dim: Dim, axes: Sequence[str]) -> str:
    """Elements of `dim` inside the given loops."""
    mine = [stage.axis(name) for name in axes if stage.axis(name).dim == dim]
    for axis in mine:
        if axis.sizes:
            return f"size_at(s.{axis.name}, {axis.name})"
    if mine:
        return f"s.{min(mine, key=lambda axis: axis.step).name}.step"
    return f"s.{dim}_extent"


def _offset(stage: GemmStage, dim: Dim | None, axes: Sequence[str]) -> str:
    """Where the tile of the given loops starts, in elements of `dim`."""
    mine = [name for name in axes if stage.axis(name).dim == dim]
    return " + ".join(f"{name} * s.{name}.step" for name in mine) or "0"


def _tree(nodes: Sequence[Node], engine: Engine, leaf: Any) -> list[Context]:
    found: list[Context] = []
    for node in nodes:
        if isinstance(node, LoopNode):
            low, high = engine.trips(node.axis)
            body = _tree(node.body, engine, leaf)
            found.append({"kind": "loop", "axis": node.axis, "min": low, "max": high, "body": body})
        elif isinstance(node, BlockNode):
            found.append({"kind": "block", "body": _tree(node.body, engine, leaf)})
        elif isinstance(node, HandOnNode):
            held = node.leaf.axes[: node.leaf.c_depth]
            sizes = {"i_size": _size(engine.first, "m", held), "j_size": _size(engine.first, "r", held)}
            found.append({"kind": "hand_on", **sizes})
        else:
            found.append({"kind": "leaf", **leaf(node.leaf)})
    return found


def _loops(axes: Sequence[str], depth: int | None, engine: Engine, leaf: Context) -> list[Context]:
    """Plain loops around one leaf; the block is held below `depth` of them, None for no block."""
    nodes = [leaf]
    for position in range(len(axes), -1, -1):
        if position == depth:
            nodes = [{"kind": "block", "body": nodes}]
        if position:
            low, high = engine.trips(axes[position - 1])
            nodes = [{"kind": "loop", "axis": axes[position - 1], "min": low, "max": high, "body": nodes}]
    return nodes


# ---- engines


def _engine(engine: Engine, plan: KernelPlan, post_lanes: int) -> Context:
    stage = engine.first
    sums = sums_block(engine, post_lanes)
    sums_type = f"hls::stream_of_blocks<{engine.name}_sums_t, {stage.sums_copies}>"
    u = u_block(engine) if stage.has_adapter else None
    blocks = [
        _block_type(name, f"{name}_word_t", _operand_block(engine, name, plan))
        for name in engine.matrix_operands
    ]
    blocks.append(_block_type("sums", "sum_t", sums))
    if u:
        blocks += [_block_type("u_sums", "sum_t", u), _block_type("u", "operand_t", u)]
    return {
        "name": engine.name,
        "grid": engine.grid,
        "stages": [member.name for member in engine.stages],
        "blocks": blocks,
        "axes": [{"name": axis.name} for axis in stage.axes],
        "fields": [name for name, _ in _fields(plan.full.stages[0], stage)],
        "loads": [_load(engine, operand, plan) for operand in stage.operands],
        "feeds": [_feed(engine, name) for name in engine.matrix_operands],
        "sums": {"channel_type": sums_type, "block": sums},
        "u": {"block": u, "sums_block": u} if u else None,
        "compute": _compute(engine),
        "post": _post(engine, plan, post_lanes),
        "store": _store(engine, plan),
    }


def _operand_block(engine: Engine, name: str, plan: KernelPlan) -> Block:
    return operand_block(engine, name, plan.lanes[name])


def _block_type(name: str, element: str, block: Block) -> Context:
    return {"name": name, "type": element, "rows": block.rows, "cols": block.cols}


def _nest_index(stage: GemmStage, nest: str) -> int:
    return [name for name, _ in stage.nests].index(nest)


def _load(engine: Engine, operand: Operand, plan: KernelPlan) -> Context:
    stage, walk, name = engine.first, operand.walk, operand.name
    to_array = name in engine.matrix_operands
    inner = walk.axes[walk.depth :]
    leaf = _transfer_leaf(engine, operand, plan.lanes[name])
    leaf |= {"row": _offset(stage, operand.row_dim, inner), "col": _offset(stage, operand.col_dim, inner)}
    if to_array:
        channel = f"hls::stream_of_blocks<{engine.name}_{name}_t, {operand.copies}>"
    else:
        channel = f"hls::stream<{name}_word_t, {fifo_words(engine, name, plan.lanes[name])}>"
    return {
        "role": "load",
        "name": name,
        "nests": sorted({member.operand(name).walk.nest for member in engine.stages}),
        "kind": "blocks" if to_array else "words",
        "channel_type": channel,
        "block": _operand_block(engine, name, plan) if to_array else None,
        "lock": f"hls::write_lock<{engine.name}_{name}_t> block({name}_blocks);",
        "tree": _loops(walk.axes, walk.depth if to_array else None, engine, leaf),
    }


def _transfer_leaf(engine: Engine, operand: Operand, lanes: int) -> Context:
    """One tile between a pointer and the chip."""
    stage, axes, name = engine.first, operand.walk.axes, operand.name
    rows, cols = operand_axes(stage, operand)
    moving = {axis.name for axis in (*rows, *cols)}
    terms = [f"s.{name}_base", *(f"{axis} * s.{name}_{axis}" for axis in axes if axis in moving)]
    return {
        "kind": "leaf",
        "nest_indices": [_nest_index(stage, operand.walk.nest)],
        "n_rows": _size(stage, operand.row_dim, axes) if operand.row_dim else "1",
        "n_cols": _size(stage, operand.col_dim, axes),
        "address": " + ".join(terms),
        "max_words": max(-(-_block_cols(member, name) // lanes) for member in engine.stages),
    }


def _block_cols(stage: GemmStage, name: str) -> int:
    return (stage.output if name == "y" else stage.operand(name)).block_cols


def _feed(engine: Engine, name: str) -> Context:
    stage, operand = engine.first, engine.first.operand(name)
    side = "a" if name in ("x", "x_down") else "b"

    def leaf(of: MatrixLeaf) -> Context:
        i, j, l = of.dims  # noqa: E741
        depth = of.a_depth if side == "a" else of.b_depth
        inner = of.axes[depth:]
        return {
            "nest_indices": [],
            **_leaf_sizes(engine, of),
            f"{side}_row": _offset(stage, i if side == "a" else l, inner),
            f"{side}_col": _offset(stage, l if side == "a" else j, inner),
        }

    return {
        "role": "feed",
        "name": name,
        "side": side,
        "channel_type": f"hls::stream_of_blocks<{engine.name}_{name}_t, {operand.copies}>",
        "lock": f"hls::read_lock<{engine.name}_{name}_t> block({name}_blocks);",
        "tree": _tree(engine.feed(name), engine, leaf),
    }


def _leaf_sizes(engine: Engine, leaf: MatrixLeaf) -> Context:
    sizes = {
        f"{letter}_size": _size(engine.first, dim, leaf.axes)
        for letter, dim in zip("ijl", leaf.dims, strict=True)
    }
    most = 1
    for stage in engine.stages:
        for dim in leaf.dims:
            axes = [stage.axis(name) for name in leaf.axes if stage.axis(name).dim == dim]
            most = max(most, next((axis.size for axis in axes if axis.sizes), stage.extent(dim)))
    return {**sizes, "max_beats": most}


def _compute(engine: Engine) -> Context:
    stage = engine.first

    def leaf(of: MatrixLeaf) -> Context:
        i, j, l = of.dims  # noqa: E741
        summed = [name for name in of.axes if stage.axis(name).dim == l]
        inner = of.axes[of.c_depth :]
        return {
            "nest_indices": [_nest_index(stage, of.nest)],
            **_leaf_sizes(engine, of),
            "a": of.a,
            "b": of.b,
            "c": "u_sums" if of.role == "down" else "sums",
            "c_row": _offset(stage, i, inner),
            "c_col": _offset(stage, j, inner),
            "a_row": _offset(stage, i, of.axes[of.a_depth :]),
            "a_col": _offset(stage, l, of.axes[of.a_depth :]),
            "first": "false" if of.role == "up" else _all_zero(summed),
        }

    return {
        "role": "compute",
        "nests": sorted({leaf.nest for member in engine.stages for leaf in member.leaves}),
        "lock": f"hls::write_lock<{engine.name}_sums_t> sums(sums_blocks);",
        "tree": _tree(engine.compute, engine, leaf),
    }


def _all_zero(axes: Sequence[str]) -> str:
    if not axes:
        return "true"
    return f"{axes[0]} == 0" if len(axes) == 1 else "(" + " && ".join(f"{axis} == 0" for axis in axes) + ")"


def _post(engine: Engine, plan: KernelPlan, post_lanes: int) -> Context:
    stage, walk = engine.first, engine.first.post
    kinds = [step.kind for step in stage.post_steps]
    inner = walk.axes[walk.depth :]
    leaf = {
        "kind": "leaf",
        "nest_indices": [_nest_index(stage, nest) for nest in stage.post_nests],
        "m_size": _size(stage, "m", walk.axes),
        "n_size": _size(stage, "n", walk.axes),
        "c_row": _offset(stage, "m", inner),
        "c_col": _offset(stage, "n", inner),
        "bias_col": _offset(stage, "n", walk.axes[stage.bias_depth :]),
        "max_words": max(-(-member.output.block_cols // plan.lanes["y"]) for member in engine.stages),
    }
    tree = _loops(walk.axes, walk.depth, engine, leaf)
    bias = None
    if "bias" in kinds:
        lanes = plan.lanes["bias"]
        cols = max(member.operand("bias").block_cols for member in engine.stages)
        size = _size(stage, "n", walk.axes[: stage.bias_depth])
        tree = _with_bias(tree, stage.bias_depth, {"kind": "bias", "size": size})
        bias = {
            "cols": -(-cols // max(lanes, post_lanes)) * max(lanes, post_lanes),
            "factor": max(lanes, post_lanes),
        }
    sides = [
        {
            "name": name,
            "channel_type": f"hls::stream<{name}_word_t, {fifo_words(engine, name, plan.lanes[name])}>",
        }
        for name in (operand.name for operand in stage.operands)
        if name in ("bias", *SIDES)
    ]
    depth = fifo_words(engine, "y", plan.lanes["y"]) if stage.post_nests else _RESULT_DEPTH
    steps = ", ".join(step.kind for step in stage.post_steps) or "none"
    return {
        "role": "post",
        "comment": f"Requantises the sums; other steps: {steps}.",
        "channel_type": f"hls::stream<y_word_t, {depth}>",
        "sides": sides,
        "bias": bias,
        "matrices": [step.side for step in stage.post_steps if step.side],
        "table": "table" in kinds,
        "ii": -(-plan.lanes["y"] // post_lanes),
        "lines": _post_lines(stage.post_steps),
        "lock": f"hls::read_lock<{engine.name}_sums_t> block(sums_blocks);",
        "tree": tree,
    }


def _with_bias(nodes: list[Context], depth: int, bias: Context) -> list[Context]:
    """Read a new bias first thing below `depth` loops."""
    if depth == 0:
        return [bias, *nodes]
    (node,) = nodes
    left = depth - 1 if node["kind"] == "loop" else depth
    return [node | {"body": _with_bias(node["body"], left, bias)}]


def _post_lines(steps: Sequence[PostStep]) -> list[str]:
    narrow = "int value = requantise<Y_BITS>(sum, s.y_multiplier, s.y_shift);"
    lines: list[str] = []
    for step in steps:
        if step.kind == "bias":
            lines.append("sum += bias[bias_col + col] * (1 << s.bias_shift);")
            continue
        if narrow not in lines:
            lines.append(narrow)
        other = f"element<{step.side.upper()}_BITS>({step.side}_values, lane)"
        scaled = "requantise<Y_BITS>({}, s.side_multiplier, s.side_shift)"
        if step.kind == "table":
            lines.append("value = FUNCTION_TABLES[s.table][value + 128];")
        elif step.kind == "product":
            lines.append(f"value = {scaled.format(f'value * {other}')};")
        else:
            added = scaled.format(other) if step.kind == "scaled" else other
            lines.append(f"value = saturate<Y_BITS>(value + {added});")
    return lines if narrow in lines else [*lines, narrow]


def _store(engine: Engine, plan: KernelPlan) -> Context:
    operand = engine.first.output
    leaf = _transfer_leaf(engine, operand, plan.lanes["y"])
    return {
        "role": "store",
        "nests": sorted({member.output.walk.nest for member in engine.stages}),
        "tree": _loops(operand.walk.axes, None, engine, leaf),
    }


# ---- tables


def _fields(placed: PlacedStage, stage: GemmStage) -> list[tuple[str, int]]:
    """The numbers of a stage beside its axes, by the name of the field."""
    dims: tuple[Dim, ...] = ("m", "n", "k", "r") if stage.has_adapter else ("m", "n", "k")
    found = [(f"{dim}_extent", stage.extent(dim)) for dim in dims]
    by_name = dict(placed.strides)
    for operand in (*stage.operands, stage.output):
        strides = by_name.get(operand.name)
        rows, cols = operand_axes(stage, operand)
        moving = {axis.name for axis in (*rows, *cols)}
        values = dict(strides.axes) if strides else {}
        found += [
            (f"{operand.name}_base", strides.base if strides else 0),
            (f"{operand.name}_pitch", strides.pitch if strides else 0),
        ]
        found += [
            (f"{operand.name}_{axis}", values.get(axis, 0)) for axis in operand.walk.axes if axis in moving
        ]
    scales = placed.scales
    found += [("y_multiplier", scales.output.multiplier), ("y_shift", scales.output.shift)]
    kinds = {step.kind for step in stage.post_steps}
    if "bias" in kinds:
        found.append(("bias_shift", scales.bias_shift))
    if "table" in kinds:
        found.append(("table", placed.table))
    if side_step(stage):
        side = scales.side
        found += [
            ("side_multiplier", side.multiplier if side else 1),
            ("side_shift", side.shift if side else 1),
        ]
    if stage.has_adapter:
        adapter = scales.adapter
        found += [
            ("u_multiplier", adapter.multiplier if adapter else 1),
            ("u_shift", adapter.shift if adapter else 1),
        ]
    return found


def _axis_numbers(axis: Axis) -> tuple[int, int, int, int]:
    return axis.trips, axis.step, axis.size, axis.last


def _shapes(shapes: Shapes, plan: KernelPlan) -> Context:
    places = [plan.engine_of(placed.stage.name) for placed in shapes.stages]
    rows: list[list[Context]] = [[] for _ in plan.engines]
    for index, placed in enumerate(shapes.stages):
        engine = plan.engines[places[index][0]]
        rows[places[index][0]].append({
            "stage": placed.stage.name,
            "index": index,
            "axes": [_axis_numbers(placed.stage.axis(axis.name)) for axis in engine.first.axes],
            "numbers": [value for _, value in _fields(placed, placed.stage)],
        })  # fmt: skip
    return {
        "stages": [{"engine": engine, "row": row} for engine, row in places],
        "rows": rows,
        "memory_words": shapes.memory_words,
        "function_tables": shapes.function_tables,
    }


def block_bytes(engine: Engine, plan: KernelPlan) -> int:
    """Bytes of the engine's blocks, all copies."""
    total = 0
    for name in engine.matrix_operands:
        block = _operand_block(engine, name, plan)
        word_bits = plan.lanes[name] * plan.bits[name]
        total += block.rows * block.cols * word_bits // 8 * engine.first.operand(name).copies
    sums = sums_block(engine, post_width(plan))
    return total + prod((sums.rows, sums.cols, 4, engine.first.sums_copies))
