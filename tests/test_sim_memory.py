"""The face of the memory model: cycles worked out by hand, wrong input, devices, service rates."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilewright.dataflow.errors import InputError
from tilewright.sim import dram_state as at
from tilewright.sim.dram_channel import Requests, channel_requests, new_channel, run
from tilewright.sim.dram_config import AddressMapping, config_from_fields
from tilewright.sim.memory import (
    DramConfig,
    Stream,
    config_names,
    energy_of,
    energy_pj_per_bit,
    energy_tree,
    idle_read_latency_ns,
    service_table,
    simulate_stream,
    simulate_trace,
)


def _reads(*address: int) -> tuple[np.ndarray, np.ndarray]:
    return np.array(address, dtype=np.int64), np.zeros(len(address), dtype=np.bool_)


# --- sequences by hand. HBM2: a command is seen in the cycle after its request arrives; ACT-RD 15 (14 and the
# second bus cycle of ACT), data ends 16 after RD.


def test_one_read_of_a_closed_row_is_act_read_data() -> None:
    # ACT 1, RD 1 + 15 = 16, data 16 + 16 = 32
    result = simulate_trace(DramConfig.named("hbm2_pc_bg"), *_reads(0))
    assert result.n_cycles == 32
    assert result.mean_read_latency_ns == 32.0
    assert (result.n_activates, result.row_hit_fraction) == (1, 0.0)


def test_a_second_read_of_a_row_waits_for_the_long_column_gap() -> None:
    # same bank group: RD 16 and 16 + tCCD_L 4 = 20, data 36; bits 5 and 6 are the group, 128 is column 1
    assert simulate_trace(DramConfig.named("hbm2_pc_bg"), *_reads(0, 128)).n_cycles == 36


def test_reads_of_two_bank_groups_are_held_apart_by_the_activates() -> None:
    # ACT 1 and 1 + tRRD 4 = 5, RD 16 and 5 + 15 = 20, data 36
    assert simulate_trace(DramConfig.named("hbm2_pc_bg"), *_reads(0, 32)).n_cycles == 36


def test_another_row_of_a_bank_pays_the_row_cycle() -> None:
    # ACT 1, RD 16, PRE 1 + 35 = 36, ACT 36 + 13 = 49 = 1 + tRC 48, RD 64, data 80
    config = DramConfig.named("hbm2_pc_bg")
    assert simulate_trace(config, *_reads(0, 1 << 14)).n_cycles == 80


def test_two_pseudo_channels_share_the_row_bus() -> None:
    # ACT 1 holds the bus for 2 cycles, ACT 3 for the other pseudo channel, RD 18, data 34
    assert simulate_trace(DramConfig.named("hbm2_ch_bg"), *_reads(0, 32)).n_cycles == 34


def test_a_read_after_a_write_waits_for_the_turnaround() -> None:
    # one at a time: ACT 1, WR 1 + 13 = 14; the read arrives at 14 and may follow WR by 15: RD 29, data 45
    config = DramConfig.named("hbm2_pc_bg")
    result = simulate_trace(config, np.array([0, 128]), np.array([True, False]), load="single")
    assert result.n_cycles == 45


def test_a_write_after_a_read_waits_for_the_bus() -> None:
    # the read leaves its queue with its ACT at 1, so the write may follow: ACT 5, ready 5 + 13 = 18, but
    # RD at 16 and RD-WR 13 make it 29
    config = DramConfig.named("hbm2_pc_bg")
    _, table = channel_requests(config, np.array([0, 32]), np.array([False, True]))
    channel = new_channel(config, at.SATURATE, n_requests=2)
    run(channel, Requests(table, np.zeros(0, dtype=np.int64)), drain=True)
    assert channel.out[at.DONE, :2].tolist() == [32, 29]


def test_the_fifth_activate_waits_for_the_window_and_then_for_the_bus() -> None:
    # DDR4, one bus: ACT 1 5 9 13, window 1 + 34 = 35, but RD of the fourth takes 35: ACT 36, RD 58, data 84
    config = DramConfig.named("ddr4_3200")
    assert simulate_trace(config, *_reads(0, 64, 128, 192, 1 << 15)).n_cycles == 84


def test_a_read_that_meets_a_refresh_waits_for_it() -> None:
    # second read offered at 3899: PREA 3900, REF 3914, ACT 3914 + 259 = 4173, RD 4188, data 4204
    config = DramConfig.named("hbm2_pc_bg")
    result = simulate_trace(config, *_reads(0, 1 << 14), load=("period", 3899))
    assert (result.n_cycles, result.n_refreshes) == (4204, 1)


def test_a_burst_of_hbm3_may_begin_on_a_half_cycle_only_with_a_precharge() -> None:
    # half cycles: ACT 1, RD 1 + 63 = 64 is even, columns issue on odd ones: 65; data 65 + 44 = 109 halves
    assert simulate_trace(DramConfig.named("hbm3_ch_bg"), *_reads(0)).n_cycles == 54.5


def test_the_first_column_command_of_lpddr5_starts_the_data_clock() -> None:
    # ACT1 1, CAS 16, RD 17, data 17 + 19 = 36; the next read of the row needs no CAS: RD 37 arrives at 36
    config = DramConfig.named("lpddr5_6400")
    assert simulate_trace(config, *_reads(0)).n_cycles == 36


def test_a_bank_queue_takes_a_cycle_more_and_drains_no_small_rest() -> None:
    # to the queue in cycle 0, ACT 1, RD 15, data 31; up to 8 writes stay in the buffer
    config = DramConfig.named("d3_hbm2_pc_bg")
    assert simulate_trace(config, *_reads(0)).n_cycles == 31
    mixed = simulate_trace(config, np.arange(9) * 32, np.array([False] + [True] * 8))
    assert mixed.n_cycles == 31


# --- wrong input


def test_wrong_input_names_field_and_value() -> None:
    config = DramConfig.named("hbm2_pc_bg")
    flags = np.zeros(1, dtype=np.bool_)
    cases = [
        (lambda: DramConfig.named("hbm2_pc_bq"), "did you mean 'hbm2_pc_b"),
        (lambda: simulate_trace(config, np.array([1 << 40]), flags), f"{1 << 40} is beyond the capacity"),
        (lambda: simulate_trace(config, np.array([-32]), flags), "address -32 is beyond"),
        (
            lambda: simulate_trace(config, np.array([33]), flags),
            r"address\[0\] = 33 is not aligned to the 32",
        ),
        (lambda: simulate_trace(config, np.array([0.5]), flags), "integer array, got float64"),
        (lambda: simulate_trace(config, np.array([0]), np.array([0])), "is_write must be bool"),
        (lambda: simulate_trace(config, np.array([0]), flags, load="fast"), "got 'fast'"),
        (lambda: simulate_trace(config, np.array([0]), flags, load=("paced", 0)), "got 0"),
        (lambda: simulate_stream(config, Stream(0, 33, 10)), "stride_bytes must be a multiple of the 32"),
        (
            lambda: simulate_stream(config, Stream(0, 32, 0)),
            r"n_requests must be a whole number in 1..10000000000000, got 0",
        ),
        (
            lambda: simulate_trace(config, np.zeros((1, 1), np.int64), flags),
            r"1-d integer array, got int64 with",
        ),
        (lambda: simulate_trace(config, np.zeros(0, np.int64), flags[:0]), "at least one request, got 0"),
        (
            lambda: simulate_trace(config, np.zeros(2, np.int64), flags),
            r"is_write must be bool of shape \(2,\)",
        ),
        (
            lambda: simulate_trace(config, np.array([2**63], np.uint64), flags),
            "9223372036854775808 is beyond",
        ),
        (
            lambda: simulate_stream(config, Stream(1 << 40, 32, 10)),
            r"stream.base must be a whole number in 0\.\.",
        ),
        (
            lambda: simulate_stream(config, Stream(0, 32, 10, footprint_bytes=33)),
            "footprint_bytes must be a multi",
        ),
        (lambda: service_table("hbm2_pc_bg", 0, 300.0), "n_channels must be >= 1, got 0"),
    ]
    for call, message in cases:
        with pytest.raises(InputError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_timing_that_contradicts_itself_is_refused() -> None:
    config = DramConfig.named("hbm2_pc_bg")
    short = tuple(
        dataclasses.replace(c, cycles=40) if c.scope == "bank" and c.before == ("ACT",) == c.after else c
        for c in config.constraints
    )
    with pytest.raises(InputError, match=r"tRC 40 is less than tRAS \+ tRP, 35 \+ 13"):
        dataclasses.replace(config, constraints=short)
    with pytest.raises(InputError, match="tREFI 100 must exceed tRFC 260"):
        dataclasses.replace(config, refresh_interval_cycles=100)
    with pytest.raises(InputError, match="unknown 'HBM9'"):
        dataclasses.replace(config, standard="HBM9")
    with pytest.raises(InputError, match="transaction_bytes must be a power of two, got 48"):
        dataclasses.replace(config, transaction_bytes=48)
    with pytest.raises(InputError, match="offset_bits 5 does not match 64 byte bursts"):
        dataclasses.replace(config, transaction_bytes=64)
    with pytest.raises(InputError, match=r"organisation\.bank_groups must be a power of two, got 3"):
        dataclasses.replace(config.organisation, bank_groups=3)


def test_a_controller_that_cannot_be_is_refused() -> None:
    controller = DramConfig.named("hbm2_pc_bg").controller
    for change, message in (
        ({"page_policy": "lazy"}, "page_policy must be one of open, closed, timeout, got 'lazy'"),
        ({"page_policy": "timeout"}, "page_timeout_cycles must be > 0 with timeout pages"),
        ({"page_timeout_cycles": 9}, "0 without, got 9 with 'open'"),
        ({"read_queue": 0}, "read_queue must be in 1..4096, got 0"),
        ({"write_low_fraction": 0.9}, "write_low_fraction <= write_high_fraction"),
        ({"policy": "fifo"}, "policy must be one of frfcfs, bank_queues, got 'fifo'"),
    ):
        with pytest.raises(InputError, match=message):
            dataclasses.replace(controller, **change)


def test_mapping_bits_must_neither_overlap_nor_leave_a_hole() -> None:
    config = DramConfig.named("hbm2_pc_bg")
    whole = config.mapping.slices
    for slices, message in (
        ((*whole, ("bank", 1)), "bank bits overlap, 3 given for 2"),
        (whole[:-1], "row leaves a hole, 0 bits given for 15"),
        ((("lane", 2), *whole), "unknown field 'lane'"),
    ):
        with pytest.raises(InputError, match=message):
            dataclasses.replace(config, mapping=AddressMapping(5, slices))


@given(name=st.sampled_from(config_names()), seed=st.integers(0, 10**6))
def test_decoding_undoes_encoding(name: str, seed: int) -> None:
    config = DramConfig.named(name)
    address = int(np.random.default_rng(seed).integers(0, config.capacity_bytes // 64)) * 64
    values = {k: int(v[0]) for k, v in config.mapping.decode(np.array([address])).items()}
    assert config.mapping.encode(values) == address


def test_derived_constraints_are_those_of_the_listed_set() -> None:
    listed = DramConfig.named("hbm2_pc_bg")
    row = {
        "CL": 14, "CWL": 5, "BL": 2, "RCDRD": 14, "RCDWR": 12, "RP": 14, "RAS": 34, "RC": 48, "WR": 16,
        "RTP": 5, "CCDS": 2, "CCDL": 4, "WTRS": 6, "WTRL": 8, "RRDS": 4, "RRDL": 4, "FAW": 15, "RFC": 260,
        "REFI": 3900,
    }  # fmt: skip
    from tilewright.sim.dram_timing import derive_constraints

    derived = dataclasses.replace(listed, constraints=derive_constraints(row, {"ACT": 2}, True))
    random = np.random.default_rng(7).integers(0, 1 << 20, size=4000) * 32
    flags = np.random.default_rng(8).random(4000) < 0.4
    assert simulate_trace(derived, random, flags) == simulate_trace(listed, random, flags)


# --- devices


def test_the_u280_streams_at_the_measured_rate_and_answers_at_the_measured_latencies() -> None:
    """Shuhai (FCCM 2020): 13.27 GB/s a pseudo-channel; 106.7, 122.2, 137.8 ns hit, closed, miss."""
    config = DramConfig.named("u280_hbm2")
    rate = service_table("u280_hbm2", 1, 450.0).bytes_per_cycle(1 << 16, False, False) * 0.45
    assert rate == pytest.approx(13.27, rel=0.02)
    closed = simulate_trace(config, *_reads(0), load="single").mean_read_latency_ns
    both = simulate_trace(config, *_reads(0, 64), load="single").mean_read_latency_ns * 2
    conflict = simulate_trace(config, *_reads(0, 1 << 14), load=("period", 200)).mean_read_latency_ns * 2
    assert closed == pytest.approx(122.2, rel=0.03)
    assert both - closed == pytest.approx(106.7, rel=0.03)
    assert conflict - closed == pytest.approx(137.8, rel=0.03)


def _u280_gb_per_s(name: str, stride: int, window: int) -> float:
    address, flags = _reads(*((np.arange(20000) * stride) % window))
    return simulate_trace(DramConfig.named(name), address, flags).bandwidth_gb_per_s


def test_locality_and_maps_of_the_u280_count_as_measured() -> None:
    """Shuhai: bursts of 32 bytes 4 KiB apart run at 6.7 GB/s in a window of 8 KiB and at 2.4 in 256 MiB.

    At a stride of 1 KiB the default map is almost 10 times faster than bank-row-column.
    """
    assert _u280_gb_per_s("u280_hbm2", 4096, 8192) == pytest.approx(6.7, rel=0.05)
    assert _u280_gb_per_s("u280_hbm2", 4096, 1 << 28) == pytest.approx(2.4, rel=0.05)
    ratio = _u280_gb_per_s("u280_hbm2", 1024, 1 << 28) / _u280_gb_per_s("u280_hbm2_brc", 1024, 1 << 28)
    assert ratio == pytest.approx(10, rel=0.2)


@pytest.mark.parametrize("name", config_names())
def test_every_named_memory_stays_under_its_peak_and_streams_at_most_of_it(name: str) -> None:
    table = service_table(name, 2, 1000.0)
    for is_write in (False, True):
        stream = table.bytes_per_cycle(1 << 16, is_write, False)
        scattered = table.bytes_per_cycle(table.config.transaction_bytes, is_write, True)
        assert 0 < scattered <= table.peak_bytes_per_cycle
        assert 0 < stream <= table.peak_bytes_per_cycle
    assert table.latency_cycles >= idle_read_latency_ns(table.config)


@given(
    n_bytes=st.integers(1, 1 << 22),
    more=st.integers(0, 1 << 16),
    run_bytes=st.integers(1, 1 << 18),
    channels=st.integers(1, 31),
    is_write=st.booleans(),
    random=st.booleans(),
)
def test_more_bytes_never_take_less_and_more_channels_never_more(
    n_bytes: int, more: int, run_bytes: int, channels: int, is_write: bool, random: bool
) -> None:
    small, large = (
        service_table("u280_hbm2", channels, 300.0),
        service_table("u280_hbm2", channels + 1, 300.0),
    )
    time = small.service_cycles(n_bytes, run_bytes, is_write, random)
    assert time <= small.service_cycles(n_bytes + more, run_bytes, is_write, random)
    assert time >= large.service_cycles(n_bytes, run_bytes, is_write, random)
    assert time >= n_bytes / small.peak_bytes_per_cycle


def test_energy_is_by_command_where_command_energies_are_known() -> None:
    row = energy_of("u280_hbm2")
    assert row.by_command
    assert row.total_pj(read_bits=256, write_bits=0, n_activates=1, n_refreshes=0) == 256 * 3.04 + 909.0
    # a streamed bit carries its share of the 8192 bit row
    assert energy_pj_per_bit("u280_hbm2", is_write=False) == pytest.approx(3.04 + 909 / 8192)
    assert not energy_of("hbm3_ch_bg").by_command


def test_the_energy_of_a_trace_is_a_tree_by_command() -> None:
    # four reads of one row and a write of another, one refresh interval later
    config = DramConfig.named("hbm2_pc_bg")
    address = np.array([0, 128, 256, 384, 1 << 14])
    result = simulate_trace(config, address, np.arange(5) == 4, load=("period", 1000))
    tree = energy_tree(config, result)
    parts = {child.name: child.value for child in tree.children}
    assert (result.n_activates, result.n_refreshes) == (2, 1)
    assert parts["activate"] == 2 * 909.0
    assert parts["read"] == pytest.approx(4 * 256 * 3.04)
    assert parts["write"] == pytest.approx(256 * 3.04)
    assert parts["refresh"] == 30420
    assert parts["background"] == pytest.approx(33.0 * result.time_ns)  # mW by ns is pJ
    assert tree.value == sum(parts.values())


def test_a_refresh_of_one_bank_of_sixteen_costs_a_sixteenth_and_bits_hold_all_where_no_currents_are_known() -> (
    None
):
    whole, banks = (DramConfig.named(n) for n in ("hbm2_pc_bg", "hbm2_pc_bg_refpb"))
    stream = Stream(0, 32, 10**6)
    costs = [
        next(
            leaf.value
            for leaf in energy_tree(c, simulate_stream(c, stream)).children
            if leaf.name == "refresh"
        )
        for c in (whole, banks)
    ]
    assert costs[1] == pytest.approx(costs[0], rel=0.1)
    hbm3 = DramConfig.named("hbm3_ch_bg")
    tree = energy_tree(hbm3, simulate_stream(hbm3, stream))
    assert tree.value == pytest.approx(10**6 * 256 * 3.2)


def test_a_configuration_can_be_stated_by_fields() -> None:
    config = DramConfig.named("ddr4_2400")
    row = {
        "standard": "DDR4", "note": "", "source": "a test", "tck_ns": 0.833, "ticks_per_cycle": 1,
        "transaction_bytes": 64, "burst_cycles": 4, "read_latency_cycles": 20,
        "organisation": {
            "channels": 1, "ranks": 2, "stack_ids": 1, "bank_groups": 4, "banks_per_group": 4,
            "rows_per_bank": 1024, "bursts_per_row": 128,
        },
        "timing_set": "own", "refresh_interval_cycles": 9363, "refresh_cycles": 420,
        "separate_command_buses": False,
        "mapping": {
            "offset_bits": 6, "xor": [["bank", "row", 0, 2]],
            "fields": [["bank_group", 2], ["column", 7], ["bank", 2], ["rank", 1], ["row", 10]],
        },
        "controller": dataclasses.asdict(config.controller), "energy": "ddr4_4Gb_x8_2400",
    }  # fmt: skip
    sets = {"own": [dataclasses.asdict(c) for c in config.constraints]}
    two_ranks = config_from_fields("two_ranks", row, sets)
    assert two_ranks.capacity_bytes == 2 * 16 * 1024 * 128 * 64
    assert simulate_trace(two_ranks, *_reads(0, 64, 128)).n_activates == 3


@pytest.mark.parametrize(
    "name", ["d3_hbm2_ch_stock", "d3_ddr4_3200", "u280_hbm2", "hbm2_ch_bg_closed", "lpddr5_6400"]
)
@pytest.mark.parametrize("load", ["saturate", "single", ("paced", 70)])
def test_reads_and_writes_of_the_same_bursts_come_to_an_end(name: str, load: object) -> None:
    config = DramConfig.named(name)
    random = np.random.default_rng(3)
    bursts = random.integers(0, 2000, 3000)  # many repeats: reads that wait for writes and the reverse
    result = simulate_trace(config, bursts * config.transaction_bytes, random.random(3000) < 0.5, load)  # type: ignore[arg-type]
    assert 0 < result.n_cycles < 3000 * 200


def test_a_controller_without_reordering_answers_reads_in_order() -> None:
    # without refresh, which lets the activated requests go first
    config = dataclasses.replace(DramConfig.named("u280_hbm2"), refresh_interval_cycles=0)
    address = np.random.default_rng(5).integers(0, 1 << 16, 500) * 32
    _, table = channel_requests(config, address, np.zeros(500, dtype=np.bool_))
    channel = new_channel(config, at.SATURATE, n_requests=500)
    run(channel, Requests(table, np.zeros(0, dtype=np.int64)), drain=True)
    ends = channel.out[at.DONE, :500]
    assert (np.diff(ends) > 0).all()
