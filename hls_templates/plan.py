"""A kernel's plan: engines, words of the ports, and the stages at full size and at the simulation's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tilewright.dataflow.errors import InputError
from tilewright.dataflow.program import Program
from tilewright.hls_templates.analyse import analyse, is_matrix_stage
from tilewright.hls_templates.engine import (
    Engine,
    Machine,
    group,
    port_lanes,
    structure,
)
from tilewright.hls_templates.layout import ACTIVATIONS, SIDES, Placement, Strides, place
from tilewright.hls_templates.order import compute_tree, feed_tree
from tilewright.hls_templates.quantise import Quantisation, StageScales, default_scales, table_of
from tilewright.hls_templates.shrink import shrink
from tilewright.hls_templates.stage import GemmStage, NotCoveredError
from tilewright.sim.architecture import Architecture

#: Pointer arguments in the order of the kernel's signature.
PORT_ORDER = ("x", "x_down", "w", "a", "b", "bias", *SIDES, "y")
_SUM_BITS = 32
_NO_PRODUCT = "no nest runs on the matrix unit"
#: The simulation's shapes are cut until they hold at most this many multiply-accumulates.
_SMALL_MACS = 12_000_000
_SMALL_EXTENTS = (128, 96, 64, 48, 32, 24, 16)


@dataclass(frozen=True, slots=True)
class Uncovered:
    """A stage of the program that the kernel does not compute, and why."""

    stage: str
    reason: str


@dataclass(frozen=True, slots=True)
class PlacedStage:
    """A stage with its place in memory and its scales."""

    stage: GemmStage
    scales: StageScales
    placements: tuple[Placement, ...]
    strides: tuple[tuple[str, Strides], ...]
    table: int  # index into the function tables, 0 if it has none


@dataclass(frozen=True, slots=True)
class Shapes:
    """All stages of a kernel at one size; `memory_words` are the words behind every pointer."""

    stages: tuple[PlacedStage, ...]
    memory_words: tuple[tuple[str, int], ...]
    function_tables: tuple[tuple[int, ...], ...]

    @property
    def macs(self) -> int:
        return sum(placed.stage.macs for placed in self.stages)


@dataclass(frozen=True, slots=True)
class KernelPlan:
    """Everything that the texts are made of."""

    machine: Machine
    engines: tuple[Engine, ...]
    lanes: Mapping[str, int]
    bits: Mapping[str, int]
    full: Shapes
    small: Shapes
    uncovered: tuple[Uncovered, ...]
    quantisation: Quantisation

    @property
    def ports(self) -> tuple[str, ...]:
        used = {o.name for engine in self.engines for o in (*engine.first.operands, engine.first.output)}
        return tuple(name for name in PORT_ORDER if name in used)

    def engine_of(self, stage: str) -> tuple[int, int]:
        """(engine, row in its table) of a stage."""
        for index, engine in enumerate(self.engines):
            for row, member in enumerate(engine.stages):
                if member.name == stage:
                    return index, row
        raise KeyError(stage)


def plan_kernel(program: Program, architecture: Architecture, quantisation: Quantisation) -> KernelPlan:
    """Sort the program's stages into engines and place their tensors.

    Raises InputError when no stage is covered, with the reason of the first product, and for unknown scales.
    """
    machine = Machine.of(architecture)
    stages, uncovered = _cover(program)
    if not stages:
        worth_saying = [one for one in uncovered if one.reason != _NO_PRODUCT] or uncovered
        reason = f"; {worth_saying[0].stage}: {worth_saying[0].reason}" if worth_saying else ""
        raise InputError(f"program {program.name!r} has no stage that a kernel can compute{reason}")
    unknown = [name for name in quantisation.stages if name not in {stage.name for stage in program.stages}]
    if unknown:
        raise InputError(f"scales are given for stage {unknown[0]!r}, which the program does not have")
    engines = group(stages, machine)
    lanes = port_lanes(engines, machine)
    bits = {o.name: o.bits for stage in stages for o in (*stage.operands, stage.output)}
    return KernelPlan(
        machine, engines, lanes, bits,
        _place(stages, lanes, quantisation),
        _place(_small(program, stages), lanes, quantisation),
        uncovered, quantisation,
    )  # fmt: skip


def _cover(program: Program) -> tuple[list[GemmStage], tuple[Uncovered, ...]]:
    stages: list[GemmStage] = []
    uncovered: list[Uncovered] = []
    bits: dict[str, int] = {}
    for stage in program.stages:
        if not is_matrix_stage(stage):
            uncovered.append(Uncovered(stage.name, _NO_PRODUCT))
            continue
        try:
            found = analyse(stage, program)
            _check(found, bits)
        except NotCoveredError as reason:
            uncovered.append(Uncovered(stage.name, str(reason)))
            continue
        stages.append(found)
    return stages, tuple(uncovered)


def _check(stage: GemmStage, bits: dict[str, int]) -> None:
    """Refuse what the code could not compute; `bits` are those of the ports so far."""
    compute_tree(stage)
    for operand in stage.operands:
        if operand.name in ("x", "x_down", "w", "a", "b"):
            feed_tree(stage, operand.name)
        elif _inner_trips(stage, operand.name) != 1:
            raise NotCoveredError(f"a block of the {operand.name} is loaded in several parts")
    own = {operand.name: operand.bits for operand in (*stage.operands, stage.output)}
    activation_bits = own["x"]
    for name, width in own.items():
        if name in ACTIVATIONS and width != activation_bits:
            raise NotCoveredError(f"{name} has {width} bits and x has {activation_bits}")
        if width not in (4, 8, 16) or (name in ACTIVATIONS and width < 8):
            raise NotCoveredError(f"{name} has {width} bits")
        if bits.get(name, width) != width:
            raise NotCoveredError(f"{name} has {width} bits here and {bits[name]} in an earlier stage")
    if own["x"] != 8 and any(step.kind == "table" for step in stage.post_steps):
        raise NotCoveredError("a function by table needs results of 8 bits")
    longest = stage.extent("k") + (stage.extent("r") if stage.has_adapter else 0)
    if own["x"] + max(own["w"], own.get("b", 0)) - 2 + longest.bit_length() > _SUM_BITS - 2:
        raise NotCoveredError(f"sums of {longest} products may exceed {_SUM_BITS} bits")
    bits |= own


def _inner_trips(stage: GemmStage, operand: str) -> int:
    trips = 1
    walk = stage.operand(operand).walk
    for name in walk.axes[walk.depth if operand == "bias" else len(walk.axes) :]:
        trips *= stage.axis(name).trips
    return trips


def _small(program: Program, stages: Sequence[GemmStage]) -> list[GemmStage]:
    """The same stages, shrunk until a simulation of all of them is quick."""
    found: list[GemmStage] = []
    for extent in _SMALL_EXTENTS:
        small = shrink(program, extent)
        by_name = {stage.name: stage for stage in small.stages}
        found = [analyse(by_name[stage.name], small, like=stage) for stage in stages]
        for new, old in zip(found, stages, strict=True):
            assert structure(new) == structure(old), new.name
        if sum(stage.macs for stage in found) <= _SMALL_MACS:
            break
    return found


def _place(stages: Sequence[GemmStage], lanes: Mapping[str, int], quantisation: Quantisation) -> Shapes:
    used: dict[str, int] = {}
    activations: dict[tuple[str, int, int], int] = {}
    tables: list[tuple[int, ...]] = []
    placed = []
    for stage in stages:
        stated = quantisation.stages.get(stage.name)
        scales = _complete(stage, stated) if stated else _default(stage)
        placements, strides = [], []
        for operand in (*stage.operands, stage.output):
            memory = "activations" if operand.name in ACTIVATIONS else operand.name
            key = (operand.tensor, operand.rows, operand.cols)
            known = activations.get(key) if memory == "activations" else None
            base = used.get(memory, 0) if known is None else known
            placement, stride, n_words = place(stage, operand, lanes[operand.name], base)
            if known is None:
                used[memory] = base + n_words
            if memory == "activations":
                activations[key] = base
            placements.append(placement)
            strides.append((operand.name, stride))
        table = 0
        for step in stage.post_steps:
            if step.kind == "table":
                values = table_of(step.function, scales)
                if values not in tables:
                    tables.append(values)
                table = tables.index(values)
        placed.append(PlacedStage(stage, scales, tuple(placements), tuple(strides), table))
    return Shapes(tuple(placed), tuple(sorted(used.items())), tuple(tables))


def _default(stage: GemmStage) -> StageScales:
    bits = (stage.operand("x").bits, stage.operand("w").bits)
    return default_scales(stage.extent("k"), stage.has_adapter, bits, stage.output.bits, side_step(stage))


def side_step(stage: GemmStage) -> str:
    """The kind of the step that needs a scale for a second matrix, "" for none."""
    return next((step.kind for step in stage.post_steps if step.kind in ("scaled", "product")), "")


def _complete(stage: GemmStage, scales: StageScales) -> StageScales:
    """Stated scales. Raises InputError if one that the stage needs is missing, or a bias leaves the sums."""
    for name, needed in (("adapter", stage.has_adapter), ("side", side_step(stage) != "")):
        if needed and getattr(scales, name) is None:
            raise InputError(f"scales of stage {stage.name!r} lack {name!r}")
    bits = next((o.bits for o in stage.operands if o.name == "bias"), 0)
    if not 0 <= scales.bias_shift <= _SUM_BITS - 2 - bits:
        limit = f"0..{_SUM_BITS - 2 - bits}"
        raise InputError(f"bias_shift of stage {stage.name!r} must be in {limit}, got {scales.bias_shift}")
    return scales
