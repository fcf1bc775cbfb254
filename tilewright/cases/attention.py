"""What the FLAT and FuseMax cases share: models, lengths, one attention on one design."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

from tilewright.api import workload_of
from tilewright.cases.case import design_file, rows
from tilewright.files import DesignFile, WorkloadFile
from tilewright.sim.design import Design

if TYPE_CHECKING:
    from tilewright.sim.report import Report
    from tilewright.sim.space import Value

_UNITS = {"K": 1024, "M": 1024 * 1024}


@dataclass(frozen=True, slots=True)
class Model:
    """An encoder layer: widths in elements."""

    name: str
    width: int
    head_width: int
    heads: int
    ffn_width: int


@cache
def models() -> tuple[Model, ...]:
    return tuple(
        Model(
            row["model"], int(row["width"]), int(row["head_width"]), int(row["heads"]), int(row["ffn_width"])
        )
        for row in rows("attention_models.csv")
    )


def tokens(length: str) -> int:
    """4K is 4096 tokens."""
    return int(length[:-1]) * _UNITS[length[-1]] if length[-1] in _UNITS else int(length)


def choice(platform: str, model: Model, n_tokens: int) -> dict[str, "Value"]:
    """What FLAT chose, as parameters of the family: an input of the published figures."""
    for row in rows("flat_choices.csv"):
        fits = int(row["first"]) <= n_tokens <= int(row["last"])
        if row["platform"] == platform and int(row["width"]) == model.head_width and fits:
            kept = row["kept"].split()
            chosen: dict[str, Value] = {
                "granularity": row["granularity"],
                "query_tile": int(row["query_tile"]),
                "stationarity": row["stationarity"],
                "keep_scores": row["keep_scores"] == "1",
            }
            return chosen | {f"keep_{name}": name in kept for name in ("q", "k", "v", "out")}
    raise LookupError(f"no choice for {platform}, width {model.head_width}, {n_tokens} tokens")


@cache
def design(case: str, name: str) -> tuple[Design, str, WorkloadFile]:
    """The design that a DESIGN.yaml of the case states, its energy table and its workload."""
    path = design_file(case, name)
    file = DesignFile.load(path)
    workload = WorkloadFile.load(path.parent / str(file.workload))
    return Design(file.template, file.device, file.parameters, file.objective), file.tables, workload


def simulate(case: str, name: str, model: Model, n_tokens: int, pinned: Mapping[str, "Value"]) -> "Report":
    """One model and length on a design of the case; `pinned` replaces parameters."""
    from tilewright.sim.evaluate import evaluate

    stated, table, file = design(case, name)
    sizes = {"h": model.heads, "m": n_tokens, "n": n_tokens, "e": model.head_width, "f": model.head_width}
    dims = (file.dims or {}) | sizes | {"c": n_tokens}
    workload = workload_of(file.model_copy(update={"dims": dims}), design_file(case, name).parent)
    chosen = replace(stated, parameters={**stated.parameters, **pinned})
    return evaluate(workload.network, chosen, table=table)


@cache
def simulate_linear(case: str, name: str, n_tokens: int, n_in: int, n_out: int) -> "Report":
    """One product of all tokens of the batch with a weight, on a design of the case."""
    from tilewright.sim.evaluate import evaluate

    stated, table, file = design(case, name)
    folder = design_file(case, name).parent
    batch = int((file.dims or {})["b"])
    sizes = {"t": batch * n_tokens, "i": n_in, "o": n_out}
    linear = file.model_copy(update={"model": "linear.cascade", "dims": sizes})
    chosen = replace(stated, parameters={**stated.parameters, "schedule": "unfused"})
    return evaluate(workload_of(linear, folder).network, chosen, table=table)
