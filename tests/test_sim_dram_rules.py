"""Command streams of both controllers, replayed against every constraint."""

from collections import defaultdict
from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tilewright.sim import dram_state as at
from tilewright.sim.dram_channel import Channel, Requests, channel_requests, new_channel, run
from tilewright.sim.dram_config import DramConfig
from tilewright.sim.dram_timing import COMMANDS

_NAMES = (
    "hbm2_pc_col", "hbm2_ch_bg", "hbm2_ch_bg_frfcfs", "hbm2_ch_bg_closed", "hbm3_ch_bg", "ddr4_3200",
    "lpddr5_6400", "u280_hbm2", "ddr5_4800", "gddr6_14000", "d3_hbm2_pc_bg", "d3_hbm2_ch_closed",
    "d3_ddr4_3200", "d3_lpddr4_2400", "hbm2_ch_bg_refpb", "hbm3_ch_bg_refpb", "lpddr5_6400_refpb", "lpddr4_3200",
    "ddr5_4800_refsb", "hbm2_pc_bg_timeout", "d3_hbm2_pc_bg_timeout",
)  # fmt: skip


def _nodes(config: DramConfig, bank: int) -> dict[str, int]:
    o = config.organisation
    return {
        "channel": 0,
        "rank": bank // o.banks_per_rank,
        "stack_id": bank // (o.bank_groups * o.banks_per_group),
        "bank_group": bank // o.banks_per_group,
        "bank": bank,
    }


def _banks_of(config: DramConfig, command: str, bank: int) -> range:
    """The banks that a command acts on: a REFB on every `refresh_sets`-th bank of the rank from `bank` on."""
    size = config.organisation.banks_per_rank
    return (
        range(bank, (bank // size + 1) * size, config.refresh_sets)
        if command == "REFB"
        else range(bank, bank + 1)
    )


def _check_delays(config: DramConfig, log: np.ndarray) -> None:
    """Every command comes no sooner after each earlier one than every constraint asks."""
    times: dict[tuple[int, int], list[int]] = defaultdict(list)
    for tick, code, bank, _ in log.T.tolist():
        command = COMMANDS[code]
        for node in [_nodes(config, b) for b in _banks_of(config, command, bank)]:
            for index, rule in enumerate(config.constraints):
                if rule.sibling:
                    continue
                key = (index, node[rule.scope])
                earlier = [t for t in times[key] if t < tick]
                depth = rule.window or 1
                if command in rule.after and len(earlier) >= depth:
                    gap = (tick - earlier[-depth]) / config.ticks_per_cycle
                    assert gap >= rule.cycles, f"{command} at tick {tick} bank {bank}: {gap} cycles, {rule}"
            for index, rule in enumerate(config.constraints):
                if command in rule.before:
                    times[index, node[rule.scope]] = [*times[index, node[rule.scope]][-4:], tick]


def _check_rows(config: DramConfig, log: np.ndarray) -> None:
    """Rows are opened when closed, used when open, and all closed at a refresh; buses carry one command."""
    open_row: dict[int, int] = {}
    per_tick: dict[int, list[str]] = defaultdict(list)
    for tick, code, bank, row in log.T.tolist():
        command = COMMANDS[code]
        per_tick[tick].append("column" if command in ("RD", "WR", "RDA", "WRA") else "row")
        rank = range(bank, bank + config.organisation.banks_per_rank)
        if command == "ACT":
            assert bank not in open_row
            open_row[bank] = row
        elif command in ("RD", "WR", "RDA", "WRA"):
            assert open_row[bank] == row
        if command in ("PRE", "RDA", "WRA"):
            open_row.pop(bank, None)
        if command == "PREA":
            for b in rank:
                open_row.pop(b, None)
        if command == "REF":
            assert not any(b in open_row for b in rank)
        if command == "REFB":
            assert not any(b in open_row for b in _banks_of(config, command, bank))
    for kinds in per_tick.values():
        assert len(kinds) == len(set(kinds)) if config.separate_command_buses else len(kinds) == 1


def _check_refreshes(config: DramConfig, log: np.ndarray, last_tick: int) -> None:
    """Every bank is refreshed once an interval, late by no more than a refresh and the closing of its rows."""
    o, ticks = config.organisation, config.ticks_per_cycle
    times: dict[int, list[int]] = {bank: [0] for bank in range(o.banks_per_channel)}
    for tick, code, bank, _ in log.T.tolist():
        command = COMMANDS[code]
        if command in ("REF", "REFB"):
            first = range(bank, bank + o.banks_per_rank)
            for b in _banks_of(config, command, bank) if command == "REFB" else first:
                times[b].append(tick)
    interval = config.refresh_interval_cycles * ticks
    slack = interval // 2 * (1 if config.bank_refresh is None else 2)
    for bank, when in times.items():
        gaps = np.diff([*when, last_tick])
        assert (gaps <= interval + slack).all(), (bank, gaps)


def _served(config: DramConfig, address: np.ndarray, is_write: np.ndarray) -> tuple[Channel, np.ndarray]:
    _, table = channel_requests(config, address, is_write)
    channel = new_channel(config, at.SATURATE, n_requests=address.size, log_room=64 * address.size)
    run(channel, Requests(table, np.zeros(0, dtype=np.int64)), drain=True)
    return channel, table


@settings(max_examples=60)
@given(
    name=st.sampled_from(_NAMES),
    seed=st.integers(0, 10**6),
    n_rows=st.integers(1, 6),
    write_share=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_no_command_breaks_a_constraint_and_every_request_is_served_once(
    name: str, seed: int, n_rows: int, write_share: float
) -> None:
    config = DramConfig.named(name)
    gap = config.bank_refresh.to_refresh_cycles if config.bank_refresh else 0
    config = replace(config, refresh_interval_cycles=max(1500, config.refresh_sets * (gap + 40)))
    random = np.random.default_rng(seed)
    per_row = config.capacity_bytes // config.organisation.rows_per_bank // config.transaction_bytes
    bursts = random.permutation(n_rows * per_row)[:250]  # no burst twice: none is merged or forwarded
    address = bursts.astype(np.int64) * config.transaction_bytes
    is_write = random.random(address.size) < write_share
    channel, table = _served(config, address, is_write)
    log = channel.out[at.LOG_TICK : at.LOG_ROW + 1, : channel.count(at.N_LOGGED)]
    _check_delays(config, log)
    _check_rows(config, log)
    column = np.isin(log[1], [COMMANDS.index(c) for c in ("RD", "WR", "RDA", "WRA")])
    left = channel.count(at.N_WRITES)
    assert left <= (8 if config.controller.policy == "bank_queues" else 0)
    assert int(column.sum()) == address.size - left == channel.count(at.N_SERVED)
    _check_refreshes(config, log, channel.count(at.CLOCK))
    used = np.unique(log[2:, column], axis=1)
    asked = {(int(b), int(r)) for b, r in table[:2].T}
    assert {(int(b), int(r)) for b, r in used.T} <= asked
