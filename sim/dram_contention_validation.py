"""Random companies of requesters: answered from steady rates, and held against their co-simulation."""

import random
from dataclasses import dataclass

from tilewright.sim.dram_config import DramConfig
from tilewright.sim.dram_contention import MAX_REQUESTERS, Requester, cosimulate, finish_ns

SET = "contention"
N_DESIGNS = 20
_SEED = 7
_CONFIGS = (
    "u280_hbm2", "hbm2_pc_bg", "hbm3_ch_bg", "ddr4_2400", "u55c_hbm2", "lpddr5_6400", "ddr5_4800", "hbm2e_3200",
)  # fmt: skip
_RUNS = (64, 128, 256, 512, 1024, 2048, 4096, 16384)
_TRANSFERS = (4096, 16384, 65536)
_TOTAL_BYTES = 24_000_000


@dataclass(frozen=True, slots=True)
class Company:
    """Requesters on one channel and the bytes that each of them moves."""

    config: str
    requesters: tuple[Requester, ...]
    n_bytes: tuple[int, ...]


def companies(n: int = N_DESIGNS, seed: int = _SEED) -> tuple[Company, ...]:
    """`n` random companies of 2 to 8 requesters: runs, order, reads and writes, ports, pace and bytes drawn."""
    draw = random.Random(seed)
    found = []
    for index in range(n):
        config = _CONFIGS[index % len(_CONFIGS)]
        peak = DramConfig.named(config).peak_gb_per_s
        count = draw.randint(2, MAX_REQUESTERS)
        requesters = tuple(_requester(draw, peak) for _ in range(count))
        weights = [draw.uniform(0.5, 2.0) for _ in range(count)]
        n_bytes = tuple(round(_TOTAL_BYTES * weight / sum(weights)) for weight in weights)
        found.append(Company(config, requesters, n_bytes))
    return tuple(found)


def _requester(draw: random.Random, peak_gb_per_s: float) -> Requester:
    run_bytes = draw.choice(_RUNS)
    return Requester(
        run_bytes=run_bytes,
        is_write=draw.random() < 0.35,
        random=draw.random() < 0.35,
        transfer_bytes=max(run_bytes, draw.choice(_TRANSFERS)),
        burst_bytes=draw.choice((256, 512, 1024)),
        max_outstanding=draw.choice((4, 16, 32)),
        pace_gb_per_s=peak_gb_per_s * draw.choice((0.05, 0.2)) if draw.random() < 0.25 else 0.0,
    )


def compare(company: Company, seed: int) -> list[tuple[float, float]]:
    """(co-simulated, answered) ns: the end of the whole company, then of each requester."""
    run = cosimulate(DramConfig.named(company.config), company.requesters, company.n_bytes, seed)
    ours = finish_ns(company.config, company.requesters, company.n_bytes)
    return [(max(run.finish_ns), max(ours)), *zip(run.finish_ns, ours, strict=True)]
