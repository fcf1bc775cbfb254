"""Streams by recurrence equal streams request by request."""

import dataclasses
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilewright.dataflow.errors import InputError
from tilewright.sim import dram_walk
from tilewright.sim.memory import DramConfig, MemoryResult, Stream, simulate_stream, simulate_trace

_SKIPPED = ("n_extrapolated", "period_requests", "period_cycles")


def _figures(result: MemoryResult) -> dict[str, object]:
    return {k: v for k, v in dataclasses.asdict(result).items() if k not in _SKIPPED}


def _by_request(config: DramConfig, stream: Stream, load: object) -> MemoryResult:
    address = stream.addresses(config, 0, stream.n_requests)
    return simulate_trace(config, address, np.full(address.size, stream.is_write), load)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "load", "stride", "is_write"),
    [
        ("hbm2_ch_bg", "saturate", 192, True),
        ("hbm2_ch_bg", "saturate", 32, False),
        ("hbm2_ch_bg_noref", "saturate", 64, False),
        ("hbm2_ch_bg", "single", 192, False),
        ("ddr4_3200", ("period", 16), 4096, False),
        ("ddr4_3200", ("paced", 50), 192, True),
        ("hbm2_ch_bg", ("paced", 90), 192, True),  # more than the stride allows: overdue for ever
        ("lpddr5_6400", "single", 32, False),
        ("d3_hbm2_pc_bg", "single", 96, False),
        ("d3_ddr4_3200", ("period", 16), 4096, False),
        ("hbm2_stack8", "saturate", 192, True),
        ("hbm2_stack8", ("paced", 50), 4096, True),
        ("hbm3_stack16", "single", 4096, False),
        ("hbm2_pc_bg_refpb", "saturate", 64, False),
        ("hbm2_pc_bg_refpb", ("paced", 40), 64, True),
        ("hbm2_pc_bg_timeout", "single", 4096, False),
        ("lpddr4_3200", "saturate", 96, True),
        ("hbm2_ch_bg_closed", "saturate", 64, False),
    ],
)
def test_a_skipped_stream_has_the_figures_of_the_whole(
    name: str, load: object, stride: int, is_write: bool
) -> None:
    config = DramConfig.named(name)
    period = simulate_stream(config, Stream(0, stride, 10**9, is_write), load).period_requests  # type: ignore[arg-type]
    assert 0 < period < 500_000
    stream = Stream(0, stride, 3 * period + period // 3 + 2000, is_write)
    skipped = simulate_stream(config, stream, load)  # type: ignore[arg-type]
    assert _figures(skipped) == _figures(_by_request(config, stream, load))


@settings(max_examples=20)
@given(
    name=st.sampled_from(["hbm2_pc_bg", "hbm2_stack8", "d3_hbm2_ch_stock", "u280_hbm2_brc"]),
    base=st.integers(0, 500),
    stride=st.integers(1, 300),
    n=st.integers(1, 20000),
    footprint=st.none() | st.integers(1, 5000),
)
def test_any_short_stream_equals_its_trace(
    name: str, base: int, stride: int, n: int, footprint: int | None
) -> None:
    config = DramConfig.named(name)
    tx = config.transaction_bytes
    stream = Stream(base * tx, stride * tx, n, footprint_bytes=None if footprint is None else footprint * tx)
    assert _figures(simulate_stream(config, stream)) == _figures(_by_request(config, stream, "saturate"))


def test_a_billion_requests_take_less_than_a_second_and_the_next_time_nothing() -> None:
    config = DramConfig.named("hbm2_pc_bg")
    simulate_stream(config, Stream(0, 32, 2000))  # compiles
    stream = Stream(base=0, stride_bytes=64, n_requests=10**9)
    begin = time.process_time()
    result = simulate_stream(config, stream, load="saturate")
    assert time.process_time() - begin < 1.0
    assert result.n_extrapolated > 0.99 * 10**9
    assert 0.9 < result.bandwidth_fraction < 0.95
    begin = time.process_time()
    for _ in range(1000):
        simulate_stream(config, stream, load="saturate")
    assert time.process_time() - begin < 0.02


def test_without_a_period_a_long_stream_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(dram_walk.SEARCH_LIMITS, "frfcfs", 20_000)
    monkeypatch.setattr(dram_walk, "SERVED_REQUESTS", 500_000)
    config = DramConfig.named("u280_hbm2_brc")
    with pytest.raises(
        InputError,
        match="does not recur within 20000 requests of a channel, 1000000 cannot be extrapolated",
    ):
        simulate_stream(config, Stream(0, 96, 10**6))
    stream = Stream(0, 96, 100_000)
    assert _figures(simulate_stream(config, stream)) == _figures(_by_request(config, stream, "saturate"))


def test_a_stream_whose_state_recurs_late_is_refused_before_it_has_been_served_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = DramConfig.named("hbm2_pc_bg")
    stream = Stream(0, 64, 50_000_000)
    period = simulate_stream(config, stream, ("paced", 37)).period_requests
    simulate_stream.__globals__["_simulate_stream"].cache_clear()
    monkeypatch.setitem(dram_walk.SEARCH_LIMITS, "frfcfs", period // 4)
    with pytest.raises(InputError, match=f"does not recur within {period // 4} requests of a channel"):
        simulate_stream(config, stream, ("paced", 37))


@pytest.mark.parametrize(
    ("field", "value"),
    [("stride_bytes", 32.5), ("n_requests", 1.5), ("n_requests", True), ("n_requests", 10**19), ("base", "a"),
     ("stride_bytes", 1 << 40), ("footprint_bytes", 0), ("footprint_bytes", 64.0)],
)  # fmt: skip
def test_a_stream_with_a_field_that_is_no_whole_number_in_range_is_refused(field: str, value: object) -> None:
    stream = dataclasses.replace(Stream(0, 32, 100), **{field: value})  # type: ignore[arg-type]
    with pytest.raises(
        InputError, match=rf"stream\.{field} must be a whole number in \d+\.\.\d+, got {value!r}"
    ):
        simulate_stream(DramConfig.named("hbm2_ch_bg"), stream)


@pytest.mark.parametrize("load", [("paced", "x"), ("paced", True), ["paced", 3], ("period", None)])
def test_a_load_that_is_none_is_refused(load: object) -> None:
    with pytest.raises(InputError, match=r"^load"):
        simulate_stream(DramConfig.named("hbm2_ch_bg"), Stream(0, 32, 100), load)  # type: ignore[arg-type]


def test_rows_of_different_lengths_are_no_addresses() -> None:
    with pytest.raises(InputError, match="address must be a 1-d array"):
        simulate_trace(DramConfig.named("hbm2_ch_bg"), [[0], [32, 64]], np.zeros(2, np.bool_))
