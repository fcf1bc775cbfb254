"""Every timing constraint in a sequence small enough to work out its cycles by hand.

HBM2 at 1 GHz unless said otherwise. A request that arrives in cycle t is seen in t + 1. ACT takes two cycles of
the row bus and opens its row with the second: ACT-RD 14 + 1 = 15, ACT-WR 12 + 1 = 13, PRE-ACT 14 - 1 = 13. Data
ends 14 + 2 = 16 after RD; a write is done when WR issues. Address bits of hbm2_pc_bg: 5-6 bank group,
7-11 column, 12-13 bank, from 14 row.
"""

import numpy as np
import pytest

from tilewright.dataflow.errors import InputError
from tilewright.sim import dram_state as at
from tilewright.sim.dram_channel import Requests, channel_requests, new_channel, run
from tilewright.sim.dram_config import DramConfig
from tilewright.sim.dram_timing import COMMANDS, BankRefresh, Constraint, on_slots

_ROW, _BANK, _COLUMN, _GROUP = 1 << 14, 1 << 12, 1 << 7, 1 << 5

Request = tuple[int, int, bool]  # cycle of arrival, byte address, is write


def _serve(name: str, *requests: Request) -> tuple[list[int], list[tuple[int, str]]]:
    """The cycle in which each request is done, and the commands in their order."""
    config = DramConfig.named(name)
    cycle, address, is_write = (np.array(column) for column in zip(*requests, strict=True))
    _, table = channel_requests(config, address, is_write)
    channel = new_channel(config, at.PACED, n_requests=len(requests), log_room=1000)
    run(channel, Requests(table, cycle * config.ticks_per_cycle), drain=True)
    log = channel.out[:, : channel.count(at.N_LOGGED)]
    commands = [(int(t), COMMANDS[c]) for t, c in zip(log[at.LOG_TICK], log[at.LOG_COMMAND], strict=True)]
    return channel.out[at.DONE, : len(requests)].tolist(), commands


def test_columns_of_other_bank_groups_follow_after_the_short_gap() -> None:
    # ACT 1 and 1 + tRRD 4 = 5; RD 16, 5 + 15 = 20; third: 16 + tCCD_L 4 = 20, but 20 + tCCD_S 2 = 22; fourth 20 + 4
    done, commands = _serve("hbm2_pc_bg", *((0, a, False) for a in (0, _GROUP, _COLUMN, _COLUMN + _GROUP)))
    assert commands == [(1, "ACT"), (5, "ACT"), (16, "RD"), (20, "RD"), (22, "RD"), (24, "RD")]
    assert done == [32, 36, 38, 40]


def test_activates_of_one_bank_group_keep_the_long_distance() -> None:
    # DDR4-3200, bits 15-16 are the bank: tRRD_L 8, so ACT 1 and 9; another group comes at tRRD_S 4: ACT 1 and 5
    _, same = _serve("ddr4_3200", (0, 0, False), (0, 1 << 15, False))
    _, other = _serve("ddr4_3200", (0, 0, False), (0, 1 << 6, False))
    assert same[:2] == [(1, "ACT"), (9, "ACT")]
    assert other[:2] == [(1, "ACT"), (5, "ACT")]


def test_a_row_closes_no_sooner_than_read_to_precharge() -> None:
    # tRAS is long over: RD 101, PRE 101 + tRTP 5 = 106, ACT 106 + 13 = 119, RD 134, data 150
    done, commands = _serve("hbm2_pc_bg", (0, 0, False), (100, _COLUMN, False), (100, _ROW, False))
    assert commands[2:] == [(101, "RD"), (106, "PRE"), (119, "ACT"), (134, "RD")]
    assert done[1:] == [117, 150]


def test_a_row_closes_no_sooner_than_write_recovery() -> None:
    # WR 101, its data end at 101 + tCWL 5 + 2, tWR 16 later PRE 124, ACT 137, WR 137 + 13 = 150
    done, commands = _serve("hbm2_pc_bg", (0, 0, False), (100, _COLUMN, True), (100, _ROW, True))
    assert commands[2:] == [(101, "WR"), (124, "PRE"), (137, "ACT"), (150, "WR")]
    assert done[1:] == [101, 150]


@pytest.mark.parametrize(("group", "gap"), [(_GROUP, 5 + 2 + 6), (0, 5 + 2 + 8)])
def test_a_read_waits_for_a_write_longer_in_the_same_bank_group(group: int, gap: int) -> None:
    # both rows open; WR 101; RD after tCWL 5 + burst 2 + tWTR_S 6 or tWTR_L 8
    opened = ((0, 0, False), (0, _GROUP, False))
    done, commands = _serve("hbm2_pc_bg", *opened, (100, _COLUMN, True), (101, 2 * _COLUMN + group, False))
    assert commands[4:] == [(101, "WR"), (101 + gap, "RD")]
    assert done[3] == 101 + gap + 16


def test_a_write_waits_for_the_read_data_and_the_turn_of_the_bus() -> None:
    # RD 101; WR after tCL 14 + burst 2 + turnaround 2 - tCWL 5 = 13
    opened = ((0, 0, False), (0, _GROUP, False))
    _, commands = _serve("hbm2_pc_bg", *opened, (100, _COLUMN, False), (100, _COLUMN + _GROUP, True))
    assert commands[4:] == [(101, "RD"), (114, "WR")]


def test_five_activates_of_a_rank_keep_the_window() -> None:
    # DDR4-3200, groups 0 1 2 3 0: ACT 1 5 9 13; the window of 34 ends at 35, the fourth RD takes 13 + 22 = 35
    _, commands = _serve("ddr4_3200", *((0, a, False) for a in (0, 64, 128, 192, 1 << 15)))
    assert [cycle for cycle, command in commands if command == "ACT"] == [1, 5, 9, 13, 36]


def test_a_row_stays_open_for_its_time_and_cycles_no_faster_than_its_parts() -> None:
    # ACT 1, PRE 1 + tRAS 34 + 1 = 36, ACT 36 + 13 = 49 = 1 + tRC 48
    _, commands = _serve("hbm2_pc_bg", (0, 0, False), (0, _ROW, False))
    assert commands == [(1, "ACT"), (16, "RD"), (36, "PRE"), (49, "ACT"), (64, "RD")]


def test_refresh_comes_every_interval_and_keeps_the_rank_for_its_time() -> None:
    # due 3900: PREA, REF 3900 + tRP 14; again at 7800 with all closed; ACT 7800 + tRFC 260 - 1 = 8059, RD 8074
    done, commands = _serve("hbm2_pc_bg", (0, 0, False), (7900, 0, False))
    assert commands[2:] == [(3900, "PREA"), (3914, "REF"), (7800, "REF"), (8059, "ACT"), (8074, "RD")]
    assert done[1] == 8090


def test_pseudo_channels_share_the_row_bus_and_have_columns_of_their_own() -> None:
    # bit 5 is the pseudo-channel: ACT 1 holds the row bus for 2 cycles, ACT 3; RD 16 and 18 on the column bus
    _, commands = _serve("hbm2_ch_bg", (0, 0, False), (0, 32, False))
    assert commands == [(1, "ACT"), (3, "ACT"), (16, "RD"), (18, "RD")]


def test_refresh_by_banks_keeps_one_bank_and_lets_the_others_go_on() -> None:
    # bank 0 due at 3900 / 16 = 243: PRE 243, REFB 243 + tRP 14 = 257, its ACT 257 + tRFCpb 160 - 1 = 416, RD 431,
    # data 447; the other bank: ACT 251, RD 266, data 282; bank 1 due at 486 is closed: REFB 486
    requests = ((0, 0, False), (250, _COLUMN, False), (250, _GROUP, False), (500, _COLUMN * 2, False))
    done, commands = _serve("hbm2_pc_bg_refpb", *requests)
    assert commands[2:8] == [
        (243, "PRE"), (251, "ACT"), (257, "REFB"), (266, "RD"), (416, "ACT"), (431, "RD"),
    ]  # fmt: skip
    assert commands[8] == (486, "REFB")
    assert done == [32, 447, 282, 517]


def test_an_activate_of_another_bank_keeps_its_distance_to_a_bank_refresh() -> None:
    # REFB 243 with all banks closed; the request arrives at 242: ACT 243 would share the row bus; tRREFD 8 - 1 = 7
    _, commands = _serve("hbm2_pc_bg_refpb", (243, _GROUP, False))
    assert commands == [(243, "REFB"), (250, "ACT"), (265, "RD")]


def test_the_same_bank_of_every_group_is_refreshed_together() -> None:
    # DDR5: 9375 // 4 = 2343; bank 0 of groups 0 and 1 (bits 6-8) is open: PRE 2343 and 2344; REFB 2344 + tRP 39
    requests = ((0, 0, False), (0, 64, False), (2340 + 60, 0, False))
    _, commands = _serve("ddr5_4800_refsb", *requests)
    assert commands[4:7] == [(2343, "PRE"), (2344, "PRE"), (2383, "REFB")]
    # ACT after tRFCsb 313; it takes two bus cycles and opens with the second
    assert commands[7] == (2383 + 313 - 1, "ACT")


def test_a_row_that_nobody_uses_is_closed_after_its_time() -> None:
    # RD 16, PRE 16 + 200; a row later opened there pays no PRE: ACT 301, RD 316, data 332; open pages: 345
    requests = ((0, 0, False), (300, _ROW, False))
    done, commands = _serve("hbm2_pc_bg_timeout", *requests)
    assert commands[2:] == [(216, "PRE"), (301, "ACT"), (316, "RD")]
    assert done[1] == 332
    assert _serve("hbm2_pc_bg", *requests)[0][1] == 345


def test_a_bank_queue_closes_an_idle_row_too() -> None:
    # to the queue of its bank in cycle 0, ACT 1, RD 15, PRE 15 + 200
    _, commands = _serve("d3_hbm2_pc_bg_timeout", (0, 0, False), (300, 0, False))
    assert commands[:3] == [(1, "ACT"), (15, "RD"), (215, "PRE")]


def test_a_closed_page_is_closed_after_its_access() -> None:
    # ACT 1, RD 16, PRE at tRAS: 36; another row: ACT 36 + 13 = 49
    _, commands = _serve("hbm2_ch_bg_closed", (0, 0, False), (30, 1 << 15, False))
    assert commands[:4] == [(1, "ACT"), (16, "RD"), (36, "PRE"), (49, "ACT")]


def test_commands_of_lpddr4_take_the_bus_for_four_cycles() -> None:
    # ACT 1, 1 + tRRD 16 = 17; RD 1 + tRCD 29 = 30 holds the bus to 33, so the third ACT comes at 34, not 33;
    # data end 4 - 1 + 32 + 8 = 43 after the first cycle of RD; bank bits 11-13
    done, commands = _serve("lpddr4_3200", *((0, bank << 11, False) for bank in range(3)))
    assert commands == [(1, "ACT"), (17, "ACT"), (30, "RD"), (34, "ACT"), (46, "RD"), (63, "RD")]
    assert done == [73, 89, 106]


def test_a_slow_controller_takes_whole_cycles_of_its_own() -> None:
    # slots: column 0, ACT 1, PRE 3 of four; 16 cycles from slot 1 to slot 0 are 19, from 3 to 1 they are 18
    slots = {"ACT": 1, "PRE": 3, "RD": 0}
    rules = (
        Constraint("bank", ("ACT",), ("RD",), 16),
        Constraint("bank", ("PRE",), ("ACT",), 16),
        Constraint("bank", ("ACT",), ("PRE",), 39),
        Constraint("bank", ("ACT",), ("ACT",), 55),
    )
    # ACT-PRE 39 is 42 to slot 3; a row cycle of 55 is 56, but its parts take 42 + 18 = 60
    assert [c.cycles for c in on_slots(rules, slots, 4)] == [19, 18, 42, 60]


def test_a_refresh_by_banks_that_cannot_be_is_refused() -> None:
    config = DramConfig.named("hbm2_pc_bg")
    with pytest.raises(InputError, match="sets must be a power of two from 2 on, got 3"):
        BankRefresh(3, 160, 8, 8)
    with pytest.raises(InputError, match="cycles must be >= 1, got 0"):
        BankRefresh(4, 0, 8, 8)
    with pytest.raises(InputError, match="must divide the 16 banks of a rank, got 32"):
        config.with_bank_refresh(BankRefresh(32, 160, 8, 8))
    with pytest.raises(InputError, match=r"tREFI / 16 sets = 243 cycles must exceed .*to_refresh_cycles 300"):
        config.with_bank_refresh(BankRefresh(16, 160, 8, 300))
