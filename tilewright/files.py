"""The files that a user writes: WORKLOAD.yaml, DESIGN.yaml, STUDY.yaml, checked on entry.

Every problem is an `InputError` of one line: the file, the field, what is wrong, the value.
"""

from collections.abc import Hashable
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from tilewright.dataflow.errors import InputError, nearest
from tilewright.dataflow.textfile import read_text
from tilewright.sim.placement import KV_PAGE_BYTES

#: A study or design is a page of text; a larger file is a mistake or an attack.
MAX_FILE_BYTES = 4 * 1024 * 1024

#: Names of workloads: they become column and file names.
NAME = r"^[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}$"

Value = int | float | str | bool
Objective = Literal["latency", "energy", "edp"]
M = TypeVar("M", bound="_File")


class _UniqueKeyLoader(yaml.SafeLoader):
    """Plain data only; a key that stands twice in one mapping is refused."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(
                    None, None, "a key must be a word", key_node.start_mark
                )
            if (key := key_node.value) in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} stands twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "aliases are not used here", event.start_mark)
        return super().compose_node(parent, index)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping. Raises InputError with line and column of a syntax error."""
    try:
        content = yaml.load(read_text(path, MAX_FILE_BYTES), Loader=_UniqueKeyLoader)  # a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise InputError(f"{path}{place}: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: {str(error).splitlines()[0]}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: must be a mapping of keys to values, got {type(content).__name__}")
    return content


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _File(_Model):
    """A model that is a whole file; `load` reads and checks it, and paths in it are relative to `folder`."""

    _folder: Path = PrivateAttr(default=Path())

    @property
    def folder(self) -> Path:
        return self._folder

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Raises InputError: file, field, limit, value."""
        file = Path(path)
        found = _checked(cls, read_yaml(file), file)
        found._folder = file.parent
        return found


class Precision(_Model):
    """Data types by role, e.g. int8; what is left out takes the workload's default."""

    weights: str | None = None
    activations: str | None = None
    accumulators: str | None = None
    kv_cache: str | None = None

    def stated(self) -> dict[str, str]:
        return {name: dtype for name, dtype in self if dtype is not None}


class WorkloadFile(_File):
    """One model in one phase. Paths are relative to the file that names them."""

    name: Annotated[str, Field(pattern=NAME)] | None = None
    model: str
    adapter: str | None = None
    adapter_mode: Literal["unmerged", "merged", "none"] = "unmerged"
    phase: str = "prefill"
    batch: Annotated[int, Field(gt=0, le=65536)] = 1
    seq: Annotated[int, Field(gt=0, le=2**24)] | None = None
    decoder_seq: Annotated[int, Field(gt=0, le=2**24)] | None = None
    cache: Annotated[int, Field(ge=0, le=2**24)] | None = None
    image: Annotated[int, Field(gt=0, le=2**14)] | None = None
    samples: Annotated[int, Field(gt=0, le=2**26)] | None = None
    output_tokens: Annotated[int, Field(gt=0, le=2**20)] | None = None
    dims: dict[str, Annotated[int | float, Field(ge=-(2**31), le=2**31)]] | None = None
    precision: Precision = Precision()
    lowering: Literal["reference", "hardware"] | None = None
    logits: Literal["all", "last"] | None = None
    attention: str | None = None
    lengths: dict[Annotated[int, Field(gt=0, le=2**24)], Annotated[int, Field(gt=0, le=65536)]] | None = None
    optimizer: str | None = None
    recompute: str | None = None


class StudyWorkload(WorkloadFile):
    """A workload of a study, with its weight in the combination."""

    weight: Annotated[float, Field(gt=0, le=1e9)] = 1.0


class PlacementFields(_Model):
    """Channels of the memory by role or tensor name (patterns allowed): 3, "0-15", or a list of those."""

    channels: dict[str, int | str | list[int | str]] = {}
    interleave_bytes: Annotated[int, Field(ge=0, le=2**30)] = 0
    kv_page_bytes: Annotated[int, Field(gt=0, le=2**30)] = KV_PAGE_BYTES


class DesignFile(_File):
    """One design: what is stated is pinned, the rest takes the template's defaults."""

    workload: WorkloadFile | str
    template: str = "sequential"
    device: str
    parameters: dict[str, Value] = {}
    objective: Objective = "latency"
    architecture: dict[str, Any] | None = None
    placement: PlacementFields | str | None = None
    tables: str = "default"


class SearchSettings(_Model):
    sampler: Literal["nsga2", "random", "exhaustive"] = "nsga2"
    evaluations: Annotated[int, Field(gt=0, le=10_000_000)] = 1000
    population: Annotated[int, Field(ge=4, le=10_000)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 1


class StudyFile(_File):
    """A search or a sweep."""

    name: Annotated[str, Field(pattern=r"^[^\x00-\x1f]{1,120}$")] | None = None
    workloads: Annotated[tuple[StudyWorkload, ...], Field(min_length=1)]
    combine: Literal["sum", "geomean", "worst"] = "sum"
    templates: Annotated[tuple[str, ...], Field(min_length=1)] = ("sequential",)
    devices: Annotated[tuple[str, ...], Field(min_length=1)]
    space: dict[str, list[Value]] = {}
    axes: dict[str, list[Value]] = {}
    objectives: Annotated[tuple[str, ...], Field(min_length=1)] = ("latency_ms", "energy_mj", "area")
    mapping_objective: Objective = "latency"
    constraints: tuple[str, ...] = ()
    search: SearchSettings = SearchSettings()
    fidelity: Literal["bound", "tile"] = "tile"
    tables: str = "default"


def _checked(model: type[M], content: dict[str, Any], file: Path) -> M:
    """`content` as `model`; pydantic's findings become one line about the first of them."""
    try:
        # YAML has one sequence type; tuples are this program's own choice, so strictness yields there.
        return model.model_validate_json(_to_json(content, file))
    except ValidationError as error:
        raise InputError(f"{file}: {problem_line(model, error)}") from None


def _to_json(content: dict[str, Any], file: Path) -> str:
    import json

    try:
        return json.dumps(content, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{file}: holds a value that is no plain data: {error}") from None


def problem_line(model: type[BaseModel], error: ValidationError) -> str:
    """The first of pydantic's findings as one line: field, what is wrong, value."""
    # An unknown key is the likeliest cause of whatever else is wrong, so it goes first.
    problems = sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    problem = problems[0]
    place = _place(problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = sorted(_fields_at(model, problem["loc"][:-1]))
        word = str(problem["loc"][-1])
        return f"unknown key {place!r}{nearest(word, known)}; known keys: {', '.join(known)}"
    if problem["type"] == "missing":
        return f"{place} is missing"
    return f"{place}: {problem['msg']}, got {_short(problem['input'])}"


def _place(location: tuple[int | str, ...]) -> str:
    """The path of a field, without what pydantic adds of its own: which alternative of a type it tried."""
    models = {one.__name__ for one in (*_Model.__subclasses__(), *_File.__subclasses__())}
    parts = [str(part) for part in location if part not in models]
    while len(parts) > 1 and (parts[-1] in ("int", "float", "bool", "str") or parts[-1].startswith("list[")):
        parts.pop()
    return ".".join(part for part in parts if not part.startswith("list["))


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _fields_at(model: type[BaseModel], location: tuple[int | str, ...]) -> set[str]:
    """The field names of the model that stands at `location` inside `model`."""
    current: set[type[BaseModel]] = {model}
    for part in location:
        if isinstance(part, int):
            continue
        fields = [m.model_fields[part].annotation for m in current if part in m.model_fields]
        current = {found for annotation in fields for found in _models_in(annotation)} or current
    return {name for m in current for name in m.model_fields}


def _models_in(annotation: Any) -> set[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {annotation}
    return {m for part in getattr(annotation, "__args__", ()) for m in _models_in(part)}
