"""Requesters on one channel: the co-simulation against a plain twin, the remembered answer against both."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.test_sim_dram_twin import _Request, _Twin
from tilewright.dataflow.errors import InputError
from tilewright.sim.dram_channel import channel_requests
from tilewright.sim.dram_config import DramConfig
from tilewright.sim.dram_contention import (
    Requester,
    addresses_of,
    cosimulate,
    finish_ns,
    slowdown,
    steady_mix,
)
from tilewright.sim.dram_contention_validation import companies, compare
from tilewright.sim.memory import simulate_trace

PATIENCE_NS = 300.0


@dataclass
class _Port:
    """A requester as sentences: what it has asked for and when the answers come."""

    one: Requester
    table: np.ndarray
    slots: int
    gap_cycles: float
    asked: list[int] = field(default_factory=list)  # origins in the controller, in order
    answered: int = 0
    due: float = 0.0


class _SharedTwin(_Twin):
    """The plain controller behind an arbiter that lets in one request a cycle."""

    def __init__(
        self, config: DramConfig, requesters: Sequence[Requester], tables: Sequence[np.ndarray]
    ) -> None:
        super().__init__(config)
        burst = config.transaction_bytes
        self.way_back = -(-config.fabric_latency_ns // config.tck_ns)
        self.accepted: list[int] = []
        self.requests: list[_Request] = []
        self.turn, self.left = 0, 0
        self.ports = []
        for one, table in zip(requesters, tables, strict=True):
            turn_bytes = self.per_turn(one) * burst
            gap = turn_bytes / one.pace_gb_per_s / config.tck_ns if one.pace_gb_per_s else 0.0
            self.ports.append(_Port(one, table, one.max_outstanding * self.per_turn(one), gap))

    def per_turn(self, one: Requester) -> int:
        return -(-min(one.burst_bytes, one.run_bytes) // self.config.transaction_bytes)

    def answer(self, port: _Port, origin: int) -> float:
        done = self.accepted[origin] if port.one.is_write else self.done.get(origin, np.inf)
        return done + self.way_back

    def may_ask(self, port: _Port, hungry: bool, goes_on: bool) -> bool:
        while port.answered < len(port.asked) and self.answer(port, port.asked[port.answered]) <= self.clock:
            port.answered += 1
        if len(port.asked) == port.table.shape[1] or (hungry and port.one.is_write):
            return False
        return len(port.asked) - port.answered < port.slots and (goes_on or self.clock >= port.due)

    def is_hungry(self, port: _Port) -> bool:
        if port.one.is_write or port.answered == len(port.asked):
            return False
        origin = port.asked[port.answered]
        return (
            origin not in self.done
            and (self.clock - self.accepted[origin]) * self.config.tck_ns > PATIENCE_NS
        )

    def let_in(self) -> None:
        hungry = bool(self.queue[True]) and any(self.is_hungry(port) for port in self.ports)
        n, first = len(self.ports), self.turn if self.left else self.turn + 1
        for i in range(n):
            index = (first + i) % n
            port = self.ports[index]
            goes_on = i == 0 and self.left > 0
            if not self.may_ask(port, hungry, goes_on):
                continue
            if not goes_on:
                self.left = self.per_turn(port.one)
                port.due = max(port.due, self.clock) + port.gap_cycles
            self.turn = index
            if len(self.queue[port.one.is_write]) < self.config.controller.read_queue:
                self.ask(port)
            return

    def ask(self, port: _Port) -> None:
        bank, row, burst, is_write = (int(v) for v in port.table[:, len(port.asked)])
        origin = len(self.accepted)
        self.accepted.append(self.clock)
        if any(r.burst == burst and r.bank == bank for r in self.queue[True]):
            self.done[origin] = self.clock + (0 if is_write else 1)
        else:
            self.queue[port.one.is_write].append(
                _Request(origin, self.clock, port.one.is_write, bank, row, burst)
            )
        port.asked.append(origin)
        self.left -= 1

    def share(self) -> list[list[int]]:
        while any(len(port.asked) < port.table.shape[1] for port in self.ports) or len(self.done) < len(
            self.accepted
        ):
            self.let_in()
            self.cycle()
        ends = [[self.accepted[o] if p.one.is_write else self.done[o] for o in p.asked] for p in self.ports]
        return ends


def requesters() -> st.SearchStrategy[Requester]:
    return st.builds(
        Requester,
        run_bytes=st.sampled_from((64, 128, 256)),
        is_write=st.booleans(),
        random=st.booleans(),
        transfer_bytes=st.sampled_from((256, 512)),
        burst_bytes=st.sampled_from((64, 256)),
        max_outstanding=st.integers(1, 4),
    )


@settings(max_examples=15)
@given(
    name=st.sampled_from(("hbm2_pc_bg", "hbm2_ch_bg", "ddr4_3200")),
    company=st.lists(requesters(), min_size=1, max_size=4),
    pace_gb_per_s=st.sampled_from((0.0, 0.5, 4.0)),
    seed=st.integers(0, 1000),
)
def test_the_co_simulation_is_that_of_its_plain_twin(
    name: str, company: list[Requester], pace_gb_per_s: float, seed: int
) -> None:
    config = DramConfig.named(name)
    controller = replace(config.controller, read_queue=8, write_queue=8)
    config = replace(config, controller=controller, refresh_interval_cycles=700, fabric_latency_ns=20.0)
    # paces that are whole in the kernel's fractions of a tick
    company[0] = replace(company[0], pace_gb_per_s=pace_gb_per_s)
    n_bytes = [40 * config.transaction_bytes] * len(company)
    tables = []
    for i, one in enumerate(company):
        address = addresses_of(config, one, i, len(company), 40, seed)
        tables.append(channel_requests(config, address, np.full(40, one.is_write))[1])
    run = cosimulate(config, company, n_bytes, seed)
    expected = _SharedTwin(config, company, tables).share()
    assert [list(np.rint(done / config.tck_ns)) for done in run.done_ns] == expected


@pytest.mark.parametrize("name", ["u280_hbm2", "hbm2_pc_bg", "ddr4_2400", "lpddr5_6400", "d3_hbm2_pc_bg"])
def test_one_requester_with_many_slots_is_a_saturating_trace(name: str) -> None:
    """It only enters one burst a tick where a trace enters a queue at once: a few ticks of difference."""
    config = DramConfig.named(name)
    one = Requester(256, random=True, burst_bytes=4096, max_outstanding=256)
    n = 4000
    trace = simulate_trace(config, addresses_of(config, one, 0, 1, n, 3), np.zeros(n, np.bool_))
    (ours,) = cosimulate(config, [one], [n * config.transaction_bytes], 3).finish_ns
    assert ours == pytest.approx(trace.time_ns, rel=0.01)


def test_every_request_is_served_once() -> None:
    config = DramConfig.named("hbm2_ch_bg")
    company = [Requester(1024), Requester(64, is_write=True), Requester(256, random=True)]
    run = cosimulate(config, company, [64000, 32000, 6400])
    assert [done.size for done in run.done_ns] == [2000, 1000, 200]
    assert all((np.sort(done) > 0).all() for done in (run.done_ns[0], run.done_ns[2]))


def test_a_paced_requester_gets_no_more_than_it_asks_for() -> None:
    got = steady_mix("hbm2_pc_bg", (Requester(16384, pace_gb_per_s=2.0), Requester(16384)))
    assert 1.7 < got.gb_per_s[0] <= 2.01  # it waits for its turn, and what is late is not made up for
    assert got.gb_per_s[0] + got.gb_per_s[1] <= DramConfig.named("hbm2_pc_bg").peak_gb_per_s


def test_reads_are_not_starved_by_writes_that_keep_coming() -> None:
    reader = Requester(64, max_outstanding=1)
    rates = steady_mix("hbm2e_3200", (Requester(4096, True), Requester(4096, True), reader)).gb_per_s
    assert rates[2] > 0.05


def test_a_reader_and_a_writer_lose_time_to_turning_the_bus() -> None:
    assert slowdown("hbm2_pc_bg", (Requester(16384), Requester(16384, True))) > 1.1
    assert slowdown("hbm2_pc_bg", (Requester(16384),)) == 1.0


def test_equal_requesters_end_together_and_a_shorter_one_sooner() -> None:
    ends = finish_ns("hbm2_pc_bg", [Requester(4096)] * 3, [3_000_000, 3_000_000, 1_000_000])
    assert ends[0] == pytest.approx(ends[1], rel=0.02)
    assert ends[2] < 0.5 * ends[0]


def test_what_cannot_share_is_refused_in_one_line() -> None:
    config = DramConfig.named("hbm2_pc_bg")
    with pytest.raises(InputError, match=r"1\.\.8 requesters may share, got 9"):
        cosimulate(config, [Requester(64)] * 9, [64] * 9)
    with pytest.raises(InputError, match="run_bytes must be >= 1, got 0"):
        Requester(0)
    with pytest.raises(InputError, match="n_bytes must be >= 1 for each of 1, got"):
        cosimulate(config, [Requester(64)], [0])
    with pytest.raises(InputError, match="its transfer spans"):
        steady_mix("hbm2_pc_bg", (Requester(64, transfer_bytes=1 << 30),))


@pytest.mark.slow
def test_twenty_random_companies_are_answered_within_two_percent() -> None:
    """The whole company within 2 %; a single requester, whose end is a sample of few transfers, within 5 %."""
    points = [compare(company, 1000 + index) for index, company in enumerate(companies())]
    assert len(points) == 20
    overall = [abs(ours / reference - 1) for (reference, ours), *_ in points]
    single = [abs(ours / reference - 1) for _, *rest in points for reference, ours in rest]
    assert max(overall) < 0.02
    assert sum(single) / len(single) < 0.01
    assert max(single) < 0.05
