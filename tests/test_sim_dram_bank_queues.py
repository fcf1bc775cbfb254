"""The controller with a queue per bank against a plain twin."""

from collections import defaultdict
from dataclasses import dataclass, replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tilewright.sim import dram_state as at
from tilewright.sim.dram_channel import Requests, channel_requests, new_channel, run
from tilewright.sim.dram_config import DramConfig
from tilewright.sim.dram_timing import BankRefresh


@dataclass
class _Request:
    origin: int
    is_write: bool
    bank: int
    row: int
    burst: int


class _Twin:
    """One channel with one rank, cycle by cycle, for traces in which no burst occurs twice."""

    def __init__(self, config: DramConfig) -> None:
        self.config = config
        self.n_banks = config.organisation.banks_per_channel
        self.open: list[int | None] = [None] * self.n_banks
        self.columns = [0] * self.n_banks
        self.times: dict[tuple[int, int], list[int]] = defaultdict(list)
        self.waiting: dict[bool, list[_Request]] = {False: [], True: []}
        self.commands: list[list[_Request]] = [[] for _ in range(self.n_banks)]
        self.last_bank = 0
        self.draining = 0
        self.last_use = [0] * self.n_banks
        self.due: list[int] = []  # sets of banks that wait for their refresh
        self.n_refreshes_asked = 0
        self.done: dict[int, int] = {}

    def node(self, bank: int, scope: str) -> int:
        per_group = self.config.organisation.banks_per_group
        return bank // {"rank": self.n_banks, "bank_group": per_group, "bank": 1}[scope]

    def legal(self, command: str, bank: int, now: int) -> bool:
        for index, rule in enumerate(self.config.constraints):
            times = self.times[index, self.node(bank, rule.scope)]
            depth = rule.window or 1
            if command in rule.after and len(times) >= depth and now < times[-depth] + rule.cycles:
                return False
        return True

    def issue(self, command: str, bank: int, now: int) -> None:
        self.last_use[bank] = now
        for index, rule in enumerate(self.config.constraints):
            if command in rule.before:
                self.times[index, self.node(bank, rule.scope)].append(now)

    def step_of(self, request: _Request) -> str:
        row = self.open[request.bank]
        if row is None:
            return "ACT"
        if row != request.row:
            return "PRE"
        closes = self.config.controller.page_policy == "closed"
        return ("WR" if request.is_write else "RD") + ("A" if closes else "")

    def first_ready(self, bank: int, now: int) -> _Request | None:
        queue = self.commands[bank]
        for request in queue:
            step = self.step_of(request)
            if not self.legal(step, bank, now):
                continue
            hits = any(other.row == self.open[bank] for other in queue)
            enough = self.columns[bank] >= self.config.controller.column_cap
            if step == "PRE" and (request is not queue[0] or (hits and not enough)):
                continue
            return request
        return None

    def next_request(self, now: int) -> _Request | None:
        held = self.set_due() if self.due else range(0)
        for offset in range(1, self.n_banks + 1):
            bank = (self.last_bank + offset) % self.n_banks
            if bank in held:
                continue
            if request := self.first_ready(bank, now):
                self.last_bank = bank
                return request
        return None

    def make_step(self, request: _Request, now: int) -> None:
        step, bank = self.step_of(request), request.bank
        self.issue(step, bank, now)
        if step == "ACT":
            self.open[bank], self.columns[bank] = request.row, 0
            return
        if step == "PRE":
            self.open[bank] = None
            return
        self.columns[bank] += 1
        if step.endswith("A"):
            self.open[bank] = None
        self.commands[bank].remove(request)
        end = now + 1 if request.is_write else now + self.config.read_latency_cycles
        self.done[request.origin] = end

    def set_due(self) -> range:
        return range(self.due[0], self.n_banks, self.config.refresh_sets)

    def close_idle(self, now: int) -> bool:
        """Timeout pages: the row that has been idle longest past its time, unless a command waits for it."""
        idle = [
            bank
            for bank, row in enumerate(self.open)
            if row is not None and not any(r.row == row for r in self.commands[bank])
            if now >= self.last_use[bank] + self.config.controller.page_timeout_cycles
            and self.legal("PRE", bank, now)
        ]
        if not idle or self.config.controller.page_policy != "timeout":
            return False
        bank = min(idle, key=lambda b: self.last_use[b])
        self.issue("PRE", bank, now)
        self.open[bank] = None
        return True

    def refresh(self, now: int) -> bool:
        banks = self.set_due()
        for bank in banks:
            if self.open[bank] is not None and self.legal("PRE", bank, now):
                self.issue("PRE", bank, now)
                self.open[bank] = None
                return True
        if self.config.bank_refresh is None:
            ready = self.legal("REF", 0, now)
        else:
            ready = all(self.legal("REFB", bank, now) for bank in banks)
        if ready and all(self.open[bank] is None for bank in banks):
            for bank in banks if self.config.bank_refresh else (0,):
                self.issue("REFB" if self.config.bank_refresh else "REF", bank, now)
            self.due.pop(0)
            return True
        return False

    def dispatch(self) -> None:
        c = self.config.controller
        n_writes = len(self.waiting[True])
        if self.draining == 0 and (n_writes >= c.write_queue or (n_writes > 8 and not any(self.commands))):
            self.draining = n_writes
        queue = self.waiting[self.draining > 0]
        for request in queue:
            if len(self.commands[request.bank]) < c.bank_queue:
                queue.remove(request)
                self.commands[request.bank].append(request)
                self.draining -= request.is_write
                return

    def cycle(self, now: int) -> None:
        interval = self.config.refresh_interval_cycles // self.config.refresh_sets
        if now and now % interval == 0:
            self.due.append(self.n_refreshes_asked % self.config.refresh_sets)
            self.n_refreshes_asked += 1
        issued = bool(self.due) and self.refresh(now)
        was_column = False
        if not issued and (request := self.next_request(now)):
            was_column = self.step_of(request)[0] in "RW"
            self.make_step(request, now)
            issued = True
        if not issued:
            self.close_idle(now)
        second = self.next_request(now) if issued and self.config.separate_command_buses else None
        if second is not None and (self.step_of(second)[0] in "RW") != was_column:
            self.make_step(second, now)
        self.dispatch()

    def serve(self, table: np.ndarray) -> dict[int, int]:
        n, position, now = table.shape[1], 0, 0
        room = self.config.controller.read_queue
        while True:
            while position < n:
                bank, row, burst, is_write = (int(v) for v in table[:, position])
                if len(self.waiting[bool(is_write)]) >= room:
                    break
                self.waiting[bool(is_write)].append(_Request(position, bool(is_write), bank, row, burst))
                position += 1
            busy = any(self.commands) or self.waiting[False] or self.draining
            if position == n and not busy and len(self.waiting[True]) <= 8:
                return self.done
            self.cycle(now)
            now += 1


@settings(max_examples=40)
@given(
    name=st.sampled_from(
        ["d3_hbm2_pc_bg", "d3_hbm2_ch_stock", "d3_hbm2_ch_closed", "d3_ddr4_3200", "d3_hbm2_pc_bg_timeout"]
    ),
    sets=st.sampled_from([0, 4, 16]),
    seed=st.integers(0, 10**6),
    n_rows=st.integers(1, 3),
    write_share=st.sampled_from([0.0, 0.3, 0.8]),
)
def test_the_kernel_serves_random_traces_as_the_plain_twin_does(
    name: str, sets: int, seed: int, n_rows: int, write_share: float
) -> None:
    config = replace(DramConfig.named(name), refresh_interval_cycles=800)
    timeout = 40 if config.controller.page_policy == "timeout" else 0
    controller = replace(
        config.controller, read_queue=12, write_queue=12, bank_queue=4, page_timeout_cycles=timeout
    )
    config = replace(config, controller=controller)
    if sets:
        config = config.with_bank_refresh(BankRefresh(sets, 100, 8, 12))
    random = np.random.default_rng(seed)
    per_row = config.capacity_bytes // config.organisation.rows_per_bank // config.transaction_bytes
    address = random.permutation(n_rows * per_row)[:150].astype(np.int64) * config.transaction_bytes
    is_write = random.random(150) < write_share
    _, table = channel_requests(config, address, is_write)
    channel = new_channel(config, at.SATURATE, n_requests=150)
    run(channel, Requests(table, np.zeros(0, dtype=np.int64)), drain=True)
    twin = _Twin(config).serve(table)
    ends = channel.out[at.DONE, :150].tolist()
    assert {k: end for k, end in enumerate(ends) if k in twin} == twin
    assert channel.count(at.N_SERVED) == len(twin) >= 142
