"""The first-ready controller against a plain twin that looks at every request in every cycle."""

from collections import defaultdict
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilewright.sim import dram_state as at
from tilewright.sim.dram_channel import Requests, channel_requests, new_channel, run
from tilewright.sim.dram_config import DramConfig


@dataclass
class _Request:
    origin: int
    arrived: int
    is_write: bool
    bank: int
    row: int
    burst: int


class _Twin:
    """One channel, cycle by cycle: the rules of the controller as sentences, no incremental state."""

    def __init__(self, config: DramConfig) -> None:
        self.config = config
        self.organisation = config.organisation
        self.n_banks = config.organisation.banks_per_channel
        self.open: list[int | None] = [None] * self.n_banks
        self.issued: list[tuple[int, str, int]] = []
        self.times: dict[tuple[int, int], list[int]] = defaultdict(list)
        self.active: list[_Request] = []
        self.queue: dict[bool, list[_Request]] = {False: [], True: []}
        self.maintenance: list[int] = []
        self.write_mode = False
        self.done: dict[int, int] = {}
        self.clock = 0

    def node(self, bank: int, scope: str) -> int:
        o = self.organisation
        size = {
            "channel": self.n_banks, "rank": o.banks_per_rank,
            "stack_id": o.bank_groups * o.banks_per_group, "bank_group": o.banks_per_group, "bank": 1,
        }[scope]  # fmt: skip
        return bank // size

    def legal(self, command: str, bank: int, now: int) -> bool:
        for index, rule in enumerate(self.config.constraints):
            if command not in rule.after or rule.sibling:
                continue
            times = self.times[index, self.node(bank, rule.scope)]
            depth = rule.window or 1
            if len(times) >= depth and now < times[-depth] + rule.cycles:
                return False
        return True

    def issue(self, command: str, bank: int, now: int) -> None:
        self.issued.append((now, command, bank))
        for index, rule in enumerate(self.config.constraints):
            if command in rule.before:
                self.times[index, self.node(bank, rule.scope)].append(now)

    def need(self, request: _Request) -> str:
        row = self.open[request.bank]
        if row is None:
            return "ACT"
        return ("WR" if request.is_write else "RD") if row == request.row else "PRE"

    def held(self, request: _Request, queue: list[_Request]) -> bool:
        """Whether the PRE for `request` has to wait for the row's other users."""
        if any(other.bank == request.bank for other in self.active):
            return True
        return self.config.controller.row_hit_protection and any(
            other.bank == request.bank
            and other.row == self.open[request.bank]
            and other.arrived <= request.arrived
            for other in queue
        )

    def choose_mode(self) -> None:
        c = self.config.controller
        n_reads, n_writes = len(self.queue[False]), len(self.queue[True])
        if not self.write_mode:
            self.write_mode = n_writes > c.write_high_fraction * c.write_queue or n_reads == 0
        elif n_writes < c.write_low_fraction * c.write_queue and n_reads:
            self.write_mode = False

    def retire(self, request: _Request, now: int) -> None:
        self.issue("WR" if request.is_write else "RD", request.bank, now)
        self.done[request.origin] = now if request.is_write else now + self.config.read_latency_cycles

    def from_active(self, now: int) -> bool:
        ready = [r for r in self.active if self.legal("WR" if r.is_write else "RD", r.bank, now)]
        if not ready:
            return False
        request = min(ready, key=lambda r: r.arrived)
        self.active.remove(request)
        self.retire(request, now)
        return True

    def from_maintenance(self, now: int) -> bool:
        rank = self.maintenance[0]
        first = rank * self.organisation.banks_per_rank
        banks = range(first, first + self.organisation.banks_per_rank)
        if any(self.open[b] is not None for b in banks):
            if any(r.bank in banks for r in self.active) or not self.legal("PREA", first, now):
                return False
            self.issue("PREA", first, now)
            for b in banks:
                self.open[b] = None
            return True
        if not self.legal("REF", first, now):
            return False
        self.issue("REF", first, now)
        self.maintenance.pop(0)
        return True

    def from_queue(self, now: int, kinds: tuple[str, ...]) -> bool:
        self.choose_mode()
        queue = self.queue[self.write_mode]
        for request in queue:  # in order of arrival, so the first that may issue is the oldest
            command = self.need(request)
            if command not in kinds or (command == "PRE" and self.held(request, queue)):
                continue
            if not self.legal(command, request.bank, now):
                continue
            if command == "PRE":
                self.issue("PRE", request.bank, now)
                self.open[request.bank] = None
            else:
                queue.remove(request)
                if command == "ACT":
                    self.issue("ACT", request.bank, now)
                    self.open[request.bank] = request.row
                    self.active.append(request)
                else:
                    self.retire(request, now)
            return True
        return False

    def cycle(self) -> None:
        self.clock += 1
        now = self.clock
        interval = self.config.refresh_interval_cycles
        if interval and now % interval == 0:
            self.maintenance.extend(range(self.organisation.ranks))
        if self.config.separate_command_buses:
            if not self.from_active(now) and not self.maintenance:
                self.from_queue(now, ("RD", "WR"))
            if self.maintenance:
                self.from_maintenance(now)
            else:
                self.from_queue(now, ("ACT", "PRE"))
        elif not self.from_active(now):
            if self.maintenance:
                self.from_maintenance(now)
            else:
                self.from_queue(now, ("ACT", "PRE", "RD", "WR"))

    def serve(self, table: np.ndarray) -> dict[int, int]:
        n, at_request = table.shape[1], 0
        room = self.config.controller.read_queue
        while len(self.done) < n:
            while at_request < n:
                bank, row, burst, is_write = (int(v) for v in table[:, at_request])
                if any(r.burst == burst and r.bank == bank for r in self.queue[True]):
                    self.done[at_request] = self.clock + (0 if is_write else 1)
                elif len(self.queue[bool(is_write)]) >= room:
                    break
                else:
                    self.queue[bool(is_write)].append(
                        _Request(at_request, self.clock, bool(is_write), bank, row, burst)
                    )
                at_request += 1
            self.cycle()
        return self.done


def _small_queues(name: str, protect: bool) -> DramConfig:
    config = DramConfig.named(name)
    controller = replace(config.controller, read_queue=8, write_queue=8, row_hit_protection=protect)
    return replace(config, controller=controller, refresh_interval_cycles=700)


@settings(max_examples=12)
@given(
    name=st.sampled_from(["hbm2_pc_bg", "hbm2_ch_bg", "hbm2_ch_mop", "ddr4_3200"]),
    protect=st.booleans(),
    seed=st.integers(0, 10**6),
    n_rows=st.integers(1, 4),
    write_share=st.sampled_from([0.0, 0.3, 0.7]),
)
def test_the_kernel_serves_random_traces_as_the_plain_twin_does(
    name: str, protect: bool, seed: int, n_rows: int, write_share: float
) -> None:
    config = _small_queues(name, protect)
    random = np.random.default_rng(seed)
    per_row = config.capacity_bytes // config.organisation.rows_per_bank // config.transaction_bytes
    address = random.integers(0, n_rows * per_row, size=60) * config.transaction_bytes
    is_write = random.random(60) < write_share
    _, table = channel_requests(config, address, is_write)
    channel = new_channel(config, at.SATURATE, n_requests=60)
    run(channel, Requests(table, np.zeros(0, dtype=np.int64)), drain=True)
    twin = _Twin(config).serve(table)
    assert channel.out[at.DONE, :60].tolist() == [twin[k] for k in range(60)]


@pytest.mark.parametrize("name", ["hbm2_pc_bg", "ddr4_3200"])
def test_the_twin_and_the_kernel_agree_across_a_refresh(name: str) -> None:
    config = _small_queues(name, True)
    address = np.arange(400, dtype=np.int64) * config.transaction_bytes
    is_write = np.zeros(400, dtype=np.bool_)
    _, table = channel_requests(config, address, is_write)
    channel = new_channel(config, at.SATURATE, n_requests=400)
    run(channel, Requests(table, np.zeros(0, dtype=np.int64)), drain=True)
    twin = _Twin(config)
    assert channel.out[at.DONE, :400].tolist() == [end for _, end in sorted(twin.serve(table).items())]
    assert channel.count(at.N_REFRESHES) == sum(command == "REF" for _, command, _ in twin.issued) > 0
