"""The `map` verb: a contraction onto a hierarchy that a YAML file declares."""

import re
from collections.abc import Mapping
from math import inf
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from tilewright.dataflow.errors import InputError, nearest
from tilewright.dataflow.graph import Graph
from tilewright.dataflow.operator import Kind
from tilewright.files import _File, _Model, problem_line, read_yaml
from tilewright.sim.hierarchy import Axis, Buffering, Hierarchy, Level, VectorLanes
from tilewright.sim.mapspace_problem import Contraction, contraction_of, gemm

_Energy = Annotated[float, Field(ge=0, le=1e12)]
_Rate = Annotated[float, Field(gt=0, le=1e12)]
_Number = Annotated[int, Field(gt=0, le=1 << 40)]


class AxisFile(_Model):
    """One axis of a fan-out; without `ranks` any rank may lie on it."""

    name: str
    size: Annotated[int, Field(gt=0, le=1 << 20)]
    ranks: tuple[str, ...] = ()
    multicast: bool = True
    reduction: bool = True


class LevelFile(_Model):
    """One level; the first has no capacity."""

    name: str
    capacity_bytes: _Number | None = None
    read_pj: _Energy
    write_pj: _Energy
    read_words_per_cycle: _Rate | None = None
    write_words_per_cycle: _Rate | None = None
    shared_words_per_cycle: _Rate | None = None
    may_bypass: tuple[str, ...] = ()
    must_bypass: tuple[str, ...] = ()
    buffering: Buffering = "ideal"
    axes: tuple[AxisFile, ...] = ()

    def level(self) -> Level:
        return Level(
            self.name,
            None if self.capacity_bytes is None else 8 * self.capacity_bytes,
            self.read_pj,
            self.write_pj,
            self.read_words_per_cycle or inf,
            self.write_words_per_cycle or inf,
            self.shared_words_per_cycle or inf,
            self.may_bypass,
            self.must_bypass,
            self.buffering,
            tuple(Axis(**dict(axis)) for axis in self.axes),
        )


class VectorFile(_Model):
    """The unit for everything but contractions."""

    lanes: Annotated[int, Field(gt=0, le=1 << 20)]
    evaluation_pj: _Energy
    level: str
    words_per_cycle: _Rate | None = None


class HierarchyFile(_File):
    """Levels from the backing store inwards."""

    name: str = "declared"
    word_bits: Annotated[int, Field(gt=0, le=4096)] = 16
    element_bits: Annotated[int, Field(gt=0, le=4096)] | None = None
    mac_pj: _Energy
    rest_pj_per_cycle: _Energy = 0.0
    levels: Annotated[tuple[LevelFile, ...], Field(min_length=1, max_length=8)]
    mac_axes: tuple[AxisFile, ...] = ()
    vector: VectorFile | None = None

    def hierarchy(self) -> Hierarchy:
        """Raises InputError for what no hierarchy can be."""
        vector = None
        if self.vector is not None:
            unit = self.vector
            vector = VectorLanes(unit.lanes, unit.evaluation_pj, unit.level, unit.words_per_cycle or inf)
        return Hierarchy(
            self.name,
            tuple(level.level() for level in self.levels),
            self.mac_pj,
            self.word_bits,
            self.element_bits,
            tuple(Axis(**dict(axis)) for axis in self.mac_axes),
            self.rest_pj_per_cycle,
            vector,
        )


class StatedLevelFile(_Model):
    """One level of a mapping to price."""

    tiles: dict[str, int] = Field(default_factory=dict)
    order: tuple[str, ...] = ()
    keeps: tuple[str, ...] | None = None
    spread: dict[str, dict[str, int]] = Field(default_factory=dict)


def load_hierarchy(path: str | Path) -> Hierarchy:
    """Raises InputError: file, field, limit, value."""
    file = HierarchyFile.load(path)
    try:
        return file.hierarchy()
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def load_mapping(path: Path) -> Mapping[str, StatedLevelFile]:
    """The levels of a mapping to price, by name."""
    content = read_yaml(path)
    found = {}
    for name, level in content.items():
        try:
            found[str(name)] = TypeAdapter(StatedLevelFile).validate_python(level, strict=False)
        except ValidationError as error:
            raise InputError(f"{path}: level {name!r}: {problem_line(StatedLevelFile, error)}") from None
    return found


def gemm_named(text: str, bits: int) -> Contraction:
    """The product that MxNxK names."""
    if not re.fullmatch(r"\d{1,15}x\d{1,15}x\d{1,15}", text):
        raise InputError(f"--gemm takes MxNxK, three whole numbers, got {text!r}")
    m, n, k = (int(word) for word in text.split("x"))
    return gemm(m, n, k, bits)


def problem_of(
    gemm_text: str | None, model: str | None, operator: str | None, terms: Mapping[str, Any]
) -> Contraction:
    """The contraction that the options of `map` name."""
    if (gemm_text is None) == (model is None):
        raise InputError("give either --gemm MxNxK or --model MODEL with --op")
    if gemm_text is not None:
        return gemm_named(gemm_text, 16)
    from tilewright import api, runs

    workload = api.workload_of(*runs.workload_file(str(model), terms))
    return contraction_named({layer.name: layer.graph for layer in workload.network}, operator)


def map_layer_of(
    hierarchy_file: Path,
    model: str,
    terms: Mapping[str, Any],
    objective: str,
    tiles: Literal["divisors", "remainders", "all"],
) -> tuple[dict[str, Any], str]:
    """The layer class with most of the work, divided into fused groups: figures by group, and their nests."""
    from tilewright import api, runs
    from tilewright.sim.mapper_fused import FusedMapping
    from tilewright.sim.mapper_graph import map_layer

    if objective not in ("latency", "energy"):
        raise InputError(f"a layer is mapped for latency or energy, got {objective!r}")
    workload = api.workload_of(*runs.workload_file(model, terms))
    layer = max(
        workload.network, key=lambda one: one.count * sum(one.graph.macs(o) for o in one.graph.operators)
    )
    hierarchy = load_hierarchy(hierarchy_file)
    found = map_layer(layer.graph, hierarchy, "energy" if objective == "energy" else "latency", tiles)
    groups, texts = [], []
    for part in found.parts:
        name = part.group.name if isinstance(part, FusedMapping) else part.problem.name
        certificate = part.certificate
        groups.append({
            "group": name, "cycles": part.cycles, "energy_pj": part.energy_pj,
            "backing_words": part.backing_words, "optimal": certificate is not None and certificate.optimal,
        })  # fmt: skip
        texts.append(f"{name}:\n" + "\n".join(f"  {line}" for line in part.text().splitlines()))
    answer = {
        "layer": layer.name, "hierarchy": hierarchy.name, "objective": objective, "cycles": found.cycles,
        "energy_pj": found.energy_pj, "backing_words": found.backing_words, "optimal": found.optimal,
        "groups": groups, "copies_left_out": list(found.left_out),
    }  # fmt: skip
    return answer, "\n".join(texts)


def contraction_named(graphs: Mapping[str, Graph], name: str | None) -> Contraction:
    """One contraction of a workload's layer classes, by its operator's name; the only one if it is not named."""
    found = {
        operator.name: (graph, operator)
        for graph in graphs.values()
        for operator in graph.operators
        if operator.kind is Kind.CONTRACTION
    }
    if name is None or name not in found:
        what = "--op is missing" if name is None else f"--op {name!r} is unknown{nearest(name, list(found))}"
        raise InputError(f"{what}; contractions: {', '.join(found)}")
    return contraction_of(*found[name])


def map_contraction(
    hierarchy_file: Path,
    problem: Contraction,
    objective: Literal["latency", "energy", "edp", "mix"],
    tiles: Literal["divisors", "remainders", "all"],
    mapping_file: Path | None,
    weights: tuple[float, float] = (0.0, 0.0),
) -> tuple[dict[str, Any], str]:
    """The best mapping, or the price of the stated one: as plain data, and its loop nest as text."""
    from tilewright.sim.mapper_onto import StatedLevel, map_onto, score

    hierarchy = load_hierarchy(hierarchy_file)
    if mapping_file is None:
        found = map_onto(problem, hierarchy, objective, tiles, *weights)
    else:
        levels = load_mapping(mapping_file)
        stated = {n: StatedLevel(one.tiles, one.order, one.keeps, one.spread) for n, one in levels.items()}
        try:
            found = score(problem, hierarchy, stated)
        except InputError as error:
            raise InputError(f"{mapping_file}: {error}") from None
    return found.to_dict(), found.text()
