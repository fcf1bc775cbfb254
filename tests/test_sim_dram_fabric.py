"""Ports and the switch in front of an FPGA's memory."""

import pytest

from tilewright.dataflow.errors import InputError
from tilewright.sim.dram_config import DramConfig
from tilewright.sim.memory import AxiPort, idle_read_latency_ns, port_gb_per_s, switch_latency_ns

_STREAM = 1 << 16


def test_the_switch_adds_seven_cycles_at_home_and_twenty_nine_at_the_far_end() -> None:
    assert switch_latency_ns("u280_hbm2", 0) == pytest.approx(7 / 0.45)
    assert switch_latency_ns("u280_hbm2", 7) == pytest.approx(29 / 0.45)
    with pytest.raises(InputError, match=r"distance must be in 0\.\.7 switches, got 8"):
        switch_latency_ns("u280_hbm2", 8)
    with pytest.raises(InputError, match="ddr4_3200: has no switch"):
        switch_latency_ns("ddr4_3200", 0)


def test_a_full_width_port_streams_at_the_rate_of_the_memory() -> None:
    rate = port_gb_per_s("u280_hbm2", AxiPort(), _STREAM, is_write=False, random=False)
    assert rate == pytest.approx(13.27, rel=0.02)


def test_a_slow_clock_a_short_queue_and_a_lateral_path_each_bind() -> None:
    slow = port_gb_per_s("u280_hbm2", AxiPort(clock_mhz=225.0), _STREAM, False, False)
    assert slow == 32 * 0.225
    # one burst of 64 bytes in flight over the idle latency
    few = port_gb_per_s("u280_hbm2", AxiPort(burst_beats=2, max_outstanding=1), _STREAM, False, False)
    assert few == pytest.approx(64 / idle_read_latency_ns(DramConfig.named("u280_hbm2")))
    near = port_gb_per_s("u280_hbm2", AxiPort(), _STREAM, False, False, n_switches=0)
    far = port_gb_per_s("u280_hbm2", AxiPort(), _STREAM, False, False, n_switches=3)
    assert near == far > 13  # a lateral link carries one port's rate
    shared = port_gb_per_s("u280_hbm2", AxiPort(), _STREAM, False, False, n_switches=3, n_masters=2)
    assert shared == pytest.approx(7.2, rel=1e-4)  # half of 14.4 for each of two
    with pytest.raises(InputError, match="n_masters of a lateral link must be 1 or 2, got 3"):
        port_gb_per_s("u280_hbm2", AxiPort(), _STREAM, False, False, n_switches=3, n_masters=3)
    with pytest.raises(InputError, match="max_outstanding must be > 0, got 0"):
        AxiPort(max_outstanding=0)


def test_the_far_end_needs_more_bursts_in_flight_and_short_runs_cut_them_short() -> None:
    idle_ns = idle_read_latency_ns(DramConfig.named("u280_hbm2"))
    port = AxiPort(burst_beats=16, max_outstanding=2)
    assert port.burst_bytes == 512
    near, far = (port_gb_per_s("u280_hbm2", port, _STREAM, False, False, n) for n in (0, 7))
    assert near == pytest.approx(1024 / (idle_ns + 7 / 0.45))
    assert far == pytest.approx(1024 / (idle_ns + 29 / 0.45))
    short = port_gb_per_s("u280_hbm2", port, 128, False, False)
    assert short == pytest.approx(2 * 128 / idle_ns)


def test_a_narrow_port_on_its_own_clock_crosses_at_its_own_rate() -> None:
    # 512 bits at 200 MHz give 12.8 GB/s and are the limit before a memory of 13.3; at 250 MHz the memory is
    assert port_gb_per_s("u280_hbm2", AxiPort(width_bits=512, clock_mhz=200.0), _STREAM, False, False) == 12.8
    assert port_gb_per_s("u280_hbm2", AxiPort(width_bits=512, clock_mhz=250.0), _STREAM, False, False) > 13
