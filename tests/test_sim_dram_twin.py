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
        # ("rank", r) is to be refreshed, ("bank", b) to be closed
        self.maintenance: list[tuple[str, int]] = []
        self.columns = [0] * self.n_banks
        self.last_use = [0] * self.n_banks
        self.due: list[list[int]] = [[] for _ in range(config.organisation.ranks)]  # sets of banks to refresh
        self.n_sets_asked = 0
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
        if command in ("PRE", "RDA", "WRA"):
            self.open[bank], self.columns[bank] = None, 0
        elif command in ("RD", "WR"):
            self.columns[bank] += 1
        self.last_use[bank] = now
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
        command = "WR" if request.is_write else "RD"
        c = self.config.controller
        if c.page_policy == "closed" and self.columns[request.bank] >= c.column_cap:
            command += "A"
        self.issue(command, request.bank, now)
        self.done[request.origin] = now if request.is_write else now + self.config.read_latency_cycles

    def from_active(self, now: int) -> bool:
        ready = [r for r in self.active if self.legal("WR" if r.is_write else "RD", r.bank, now)]
        if not ready:
            return False
        request = min(ready, key=lambda r: r.arrived)
        self.active.remove(request)
        self.retire(request, now)
        return True

    def ask_for_closing(self, now: int) -> None:
        """Closed pages: rows that have had their column accesses are closed as soon as that is legal."""
        for bank in range(self.n_banks):
            asked = ("bank", bank) in self.maintenance
            if (
                self.columns[bank] >= self.config.controller.column_cap
                and not asked
                and self.legal("PRE", bank, now)
            ):
                self.maintenance.append(("bank", bank))

    def set_of(self, rank: int) -> range:
        """The banks of the set of a rank that is to be refreshed next."""
        size = self.organisation.banks_per_rank
        return range(rank * size + self.due[rank][0], (rank + 1) * size, self.config.refresh_sets)

    def held_banks(self) -> set[int]:
        return {bank for rank, due in enumerate(self.due) if due for bank in self.set_of(rank)}

    def from_due_sets(self, now: int) -> bool:
        """Close or refresh the banks of a set that is due."""
        for rank in range(self.organisation.ranks):
            if not self.due[rank]:
                continue
            banks = self.set_of(rank)
            busy = {r.bank for r in self.active}
            for bank in banks:
                if self.open[bank] is not None and bank not in busy and self.legal("PRE", bank, now):
                    self.issue("PRE", bank, now)
                    return True
            if all(self.open[b] is None and self.legal("REFB", b, now) for b in banks):
                for bank in banks:
                    self.issue("REFB", bank, now)
                self.due[rank].pop(0)
                return True
        return False

    def close_idle(self, now: int) -> bool:
        """Timeout pages: the row that has been idle longest past its time, unless somebody waits for it."""
        wanted = {(r.bank, r.row) for queue in self.queue.values() for r in queue}
        busy = {r.bank for r in self.active}
        idle = [
            bank
            for bank, row in enumerate(self.open)
            if row is not None
            and (bank, row) not in wanted
            and bank not in busy
            and self.legal("PRE", bank, now)
            if now >= self.last_use[bank] + self.config.controller.page_timeout_cycles
        ]
        if not idle or self.config.controller.page_policy != "timeout":
            return False
        self.issue("PRE", min(idle, key=lambda bank: self.last_use[bank]), now)
        return True

    def from_maintenance(self, now: int) -> bool:
        kind, rank = self.maintenance[0]
        if kind == "bank":
            if any(r.bank == rank for r in self.active) or not self.legal("PRE", rank, now):
                return False
            self.issue("PRE", rank, now)
            self.maintenance.pop(0)
            return True
        first = rank * self.organisation.banks_per_rank
        banks = range(first, first + self.organisation.banks_per_rank)
        if any(self.open[b] is not None for b in banks):
            if any(r.bank in banks for r in self.active) or not self.legal("PREA", first, now):
                return False
            self.issue("PREA", first, now)
            for b in banks:
                self.open[b], self.columns[b] = None, 0
            self.maintenance[1:] = [(k, v) for k, v in self.maintenance[1:] if k == "rank" or v not in banks]
            return True
        if not self.legal("REF", first, now):
            return False
        self.issue("REF", first, now)
        self.maintenance.pop(0)
        return True

    def from_queue(self, now: int, kinds: tuple[str, ...]) -> bool:
        self.choose_mode()
        queue = self.queue[self.write_mode]
        held = self.held_banks()
        for request in queue:  # in order of arrival, so the first that may issue is the oldest
            command = self.need(request)
            if request.bank in held:
                continue
            if command not in kinds or (command == "PRE" and self.held(request, queue)):
                continue
            if not self.legal(command, request.bank, now):
                continue
            if command == "PRE":
                self.issue("PRE", request.bank, now)
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
        interval = self.config.refresh_interval_cycles // self.config.refresh_sets
        if interval and now % interval == 0:
            if self.config.bank_refresh is None:
                self.maintenance.extend(("rank", r) for r in range(self.organisation.ranks))
            else:
                for due in self.due:
                    due.append(self.n_sets_asked % self.config.refresh_sets)
                self.n_sets_asked += 1
        if self.config.controller.page_policy == "closed":
            self.ask_for_closing(now)
        if self.config.separate_command_buses:
            if not self.from_active(now) and not self.maintenance:
                self.from_queue(now, ("RD", "WR"))
            if self.maintenance:
                self.from_maintenance(now)
            elif not self.from_due_sets(now) and not self.from_queue(now, ("ACT", "PRE")):
                self.close_idle(now)
        elif not self.from_active(now):
            if self.maintenance:
                self.from_maintenance(now)
            elif not self.from_due_sets(now) and not self.from_queue(now, ("ACT", "PRE", "RD", "WR")):
                self.close_idle(now)

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
    timeout = 60 if config.controller.page_policy == "timeout" else 0
    controller = replace(
        config.controller,
        read_queue=8,
        write_queue=8,
        row_hit_protection=protect,
        page_timeout_cycles=timeout,
    )
    gap = config.bank_refresh.to_refresh_cycles if config.bank_refresh else 0
    interval = max(700, config.refresh_sets * (gap + 40))
    return replace(config, controller=controller, refresh_interval_cycles=interval)


_NAMES = (
    "hbm2_pc_bg", "hbm2_ch_bg", "hbm2_ch_mop", "ddr4_3200", "hbm2_ch_bg_closed", "hbm2_ch_bg_refpb", "lpddr4_3200",
    "ddr5_4800_refsb", "hbm2_pc_bg_timeout",
)  # fmt: skip


@settings(max_examples=40)
@given(
    name=st.sampled_from(_NAMES),
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


@pytest.mark.parametrize("name", _NAMES)
def test_the_twin_and_the_kernel_agree_across_a_refresh(name: str) -> None:
    config = _small_queues(name, True)
    n = 800
    address = np.arange(n, dtype=np.int64) * config.transaction_bytes
    _, table = channel_requests(config, address, np.zeros(n, dtype=np.bool_))
    channel = new_channel(config, at.SATURATE, n_requests=n)
    run(channel, Requests(table, np.zeros(0, dtype=np.int64)), drain=True)
    twin = _Twin(config)
    assert channel.out[at.DONE, :n].tolist() == [end for _, end in sorted(twin.serve(table).items())]
    size = config.organisation.banks_per_rank
    refreshes = {(now, bank // size) for now, command, bank in twin.issued if command.startswith("REF")}
    assert channel.count(at.N_REFRESHES) == len(refreshes) > 0
