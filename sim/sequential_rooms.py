"""How a program divides the three buffers: what each kind of tile may take, fixed for the whole program."""

from collections.abc import Iterable
from dataclasses import dataclass

from tilewright.dataflow.graph import Graph
from tilewright.dataflow.operator import Access
from tilewright.sim.mapper_machine import Machine
from tilewright.sim.sequential_plan import (
    AttentionPlan,
    GemmPlan,
    GraphPlan,
    LowRank,
    MovePlan,
    VectorPlan,
)
from tilewright.sim.sequential_recurrence import carried_tensors

# Shares of a buffer, reserved only while a stage of the program needs them; the rest goes to the main tiles.
_SIDE_SHARE = 0.25  # of the input buffer, for each second operand of a map
_INDEX_SHARE = 1 / 8  # of the input buffer, for the row numbers of all gathers of a stage
_VALUE_SHARE = 0.5  # of the weight buffer, the most for values beside keys, which mostly are as wide
_CONSTANT_SHARE = 0.25  # of the weight buffer, the most for whole biases and norm weights together
_FACTOR_SHARE = 0.25  # of the weight buffer, the most that whole low-rank factors may take
_LOW_SHARE = 1 / 16  # of the output buffer, for u of a low-rank path
_EXTRA_SHARE = 0.25  # of the output buffer, for each further result of a stage, and at most half for all
_MIXED_SHARE = 0.5  # of the sums, the most for attention's mixed rows beside its scores

#: Sums and results are handed on tile by tile: a third copy would only wait.
OUTPUT_COPIES = 2


@dataclass(frozen=True, slots=True)
class AttentionNeed:
    """What a chosen attention tiling really takes of the rooms that it was offered."""

    value_bytes: int
    mixed: int  # sums
    shares: int  # elements


def largest_need(needs: Iterable[AttentionNeed]) -> AttentionNeed:
    """What covers all of `needs`, which must not be empty."""
    every = list(needs)
    return AttentionNeed(
        max(need.value_bytes for need in every),
        max(need.mixed for need in every),
        max(need.shares for need in every),
    )


@dataclass(frozen=True, slots=True)
class Rooms:
    """Room for one copy of one tile of each kind; a constant has a single copy."""

    input_bytes: int
    side_bytes: int
    index_bytes: int
    weight_bytes: int
    value_bytes: int
    constant_bytes: int
    sums: int  # elements of a tile of C, or of scores
    mixed: int  # elements of a second tile of sums: a product with its low-rank path, or mixed rows
    output_bytes: int
    low_bytes: int
    extra_bytes: int  # a further result of a stage


@dataclass(frozen=True, slots=True)
class _Needs:
    """What the stages of a program ask for besides their main tiles."""

    n_sides: int
    n_constants: int
    largest_constant: int  # bytes
    n_gathers: int
    attention: bool
    low_rank: bool
    factor_bytes: int
    result_bits: int
    share_bits: int  # of an exponent that attention hands to its second product
    n_extra: int  # results of a stage besides the first, and what stays between steps


def factors_fit(graph: Graph, machine: Machine, plan: GraphPlan) -> bool:
    """Whether the factors of every low-rank path can stay whole in their share of the weight buffer."""
    return _needs(graph, plan).factor_bytes <= machine.weight_buffer.capacity_bytes * _FACTOR_SHARE


def divide_buffers(
    graph: Graph, machine: Machine, plan: GraphPlan, copies: int, chosen: AttentionNeed | None = None
) -> Rooms:
    """The rooms of a program of these stages with `copies` of every tile that is loaded.

    Attention is offered its largest shares first; once it has chosen, the others get what it left.
    """
    needs = _needs(graph, plan)
    weights = machine.weight_buffer.capacity_bytes
    largest = needs.largest_constant
    constant_bytes = min(int(weights * _CONSTANT_SHARE) // max(1, needs.n_constants), largest)
    weights -= constant_bytes * needs.n_constants + needs.factor_bytes
    value_bytes = int(weights * _VALUE_SHARE) // copies if needs.attention else 0
    if chosen:
        value_bytes = chosen.value_bytes

    inputs = machine.input_buffer.capacity_bytes
    side_bytes = int(inputs * min(_SIDE_SHARE, 0.75 / max(1, needs.n_sides)))
    index_bytes = int(inputs * _INDEX_SHARE / max(2, needs.n_gathers))
    inputs -= side_bytes * needs.n_sides + index_bytes * needs.n_gathers

    out_copies = min(copies, OUTPUT_COPIES)
    outputs = machine.output_buffer.capacity_bytes
    low_bytes = int(outputs * _LOW_SHARE) if needs.low_rank else 0
    extra_bytes = int(outputs * min(_EXTRA_SHARE, 0.5 / max(1, needs.n_extra))) if needs.n_extra else 0
    left_bytes = outputs - low_bytes - extra_bytes * needs.n_extra
    sums, mixed = _sums(needs, machine, left_bytes * 8 // out_copies, chosen)
    return Rooms(
        input_bytes=inputs // copies,
        side_bytes=side_bytes // copies,
        index_bytes=index_bytes // copies,
        weight_bytes=weights // copies - value_bytes,
        value_bytes=value_bytes,
        constant_bytes=constant_bytes,
        sums=sums,
        mixed=mixed,
        output_bytes=sums * needs.result_bits // 8,
        low_bytes=low_bytes // out_copies,
        extra_bytes=extra_bytes // out_copies,
    )


def _sums(needs: _Needs, machine: Machine, room_bits: int, chosen: AttentionNeed | None) -> tuple[int, int]:
    """Elements of a tile of sums, and of the second one, in one copy's room of the output buffer.

    Beside the sums stand the results, the second sums if a stage has any, and the exponents of attention.
    """
    sum_bits = machine.array.accumulator_bits
    per_sum = sum_bits + needs.result_bits
    if chosen:
        room_bits -= chosen.shares * needs.share_bits
    elif needs.attention:
        per_sum += needs.share_bits
    if needs.low_rank:
        sums = room_bits // (per_sum + sum_bits)
        return sums, sums
    if chosen:
        return (room_bits - chosen.mixed * sum_bits) // per_sum, chosen.mixed
    if needs.attention:
        sums = int(room_bits / (per_sum + sum_bits * _MIXED_SHARE))
        return sums, int(sums * _MIXED_SHARE)
    return room_bits // per_sum, 0


def _needs(graph: Graph, plan: GraphPlan) -> _Needs:
    n_sides = n_constants = largest = factor_bytes = n_gathers = n_extra = 0
    attention = low_rank = False
    result_bits = share_bits = 8
    for stage in plan.stages:
        fixed: tuple[Access, ...] = ()
        if isinstance(stage, GemmPlan):
            fixed = stage.fixed
            n_sides = max(n_sides, len(stage.moving))
            result_bits = max(result_bits, graph.tensor_by_name[stage.output.tensor].bits)
            if stage.low_rank:
                low_rank = True
                factor_bytes = max(factor_bytes, _factor_bytes(graph, stage.low_rank))
        elif isinstance(stage, VectorPlan):
            fixed = stage.fixed
            n_sides = max(n_sides, len(stage.moving) - 1)
            n_gathers = max(n_gathers, len(stage.gathers))
            carried = carried_tensors(stage.operators) if stage.serial else ()
            n_extra = max(n_extra, len(stage.outputs) + len(carried) - 1)
        elif isinstance(stage, MovePlan):
            n_gathers = max(n_gathers, 1)
        elif isinstance(stage, AttentionPlan):
            attention = True
            share_bits = max(share_bits, graph.tensor_by_name[stage.mix.inputs[0].tensor].bits)
            result_bits = max(result_bits, graph.tensor_by_name[stage.mix.output.tensor].bits)
        n_constants = max(n_constants, len(fixed))
        largest = max([largest, *(graph.n_bytes(access.tensor) for access in fixed)])
    return _Needs(
        n_sides, n_constants, largest, n_gathers, attention, low_rank, factor_bytes, result_bits, share_bits,
        n_extra,
    )  # fmt: skip


def _factor_bytes(graph: Graph, path: LowRank) -> int:
    return graph.n_bytes(path.down.inputs[1].tensor) + graph.n_bytes(path.up.inputs[1].tensor)
