"""DFX (arXiv 2209.10797): GPT-2 token by token on one card and on a ring of four."""

from functools import cache
from itertools import product
from pathlib import Path

from tilewright.api import workload_of
from tilewright.cases.case import Case, CaseResult, Point, design_file, published
from tilewright.files import DesignFile, WorkloadFile
from tilewright.sim.design import Design

PROMPTS, OUTPUTS = (32, 64, 128), (1, 16, 256)
# The rate of the 345M model is published without its length; the tokens before it hardly matter (64 more: 1 %).
_RATE_CACHE = 64


@cache
def token_ms(model: str, n_cached: int) -> float:
    """Time of one token with `n_cached` tokens before it; the first one is taken with one."""
    from tilewright.sim.evaluate import evaluate

    path = design_file("dfx", model)
    file = DesignFile.load(path)
    workload = WorkloadFile.load(path.parent / str(file.workload))
    loaded = workload_of(workload.model_copy(update={"cache": max(1, n_cached)}), path.parent)
    return evaluate(loaded.network, Design(file.template, file.device, file.parameters)).latency_ms


def run() -> CaseResult:
    """Prompt tokens and generated ones alike go through one by one: in + out - 1 of them."""
    known = published("dfx")
    rate = 1e3 / token_ms("345m", _RATE_CACHE)
    name = "345M/tokens_per_s"
    points = [Point(name, "tokens_per_s", "tokens/s", rate, known[name])]
    for n_in, n_out in product(PROMPTS, OUTPUTS):
        name = f"({n_in},{n_out})/latency_ms"
        total = sum(token_ms("1.5b", n_cached) for n_cached in range(n_in + n_out - 1))
        points.append(Point(name, "latency_ms", "ms", total, known.get(name)))
    return CaseResult("dfx", tuple(points))


def draw(result: CaseResult, stem: Path) -> None:
    """Latency of every pair, ours beside the published ones."""
    from tilewright.reports.cases import pair_figure

    pairs = [one for one in result.points if one.quantity == "latency_ms"]
    pair_figure(
        "DFX, GPT-2 1.5B on four cards", "latency, ms",
        [(one.id.partition("/")[0], one.ours, one.published) for one in pairs], stem,
    )  # fmt: skip


CASE = Case("dfx", "DFX: GPT-2 streamed token by token on a ring of cards (arXiv 2209.10797)", run, draw)
