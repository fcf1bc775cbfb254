"""Named patterns and the comparison with published cycles."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilewright.dataflow.errors import InputError
from tilewright.sim.dram_patterns import trace_of
from tilewright.sim.dram_validation import OWN_MEASURED, OWN_POINTS, validate_dram

_HEAD = "config,pattern,injection,n_requests,cycles,avg_read_latency_ns,activates\n"


def test_patterns_are_what_their_names_say() -> None:
    assert trace_of("stride_4K", 4, 32)[0].tolist() == [0, 32, 4096, 4128]
    assert trace_of("streams_2_g1M", 4, 64)[0].tolist() == [0, 1 << 20, 64, (1 << 20) + 64]
    assert trace_of("tile_w128_p8K", 5, 64)[0].tolist() == [0, 64, 8192, 8256, 16384]
    address, is_write = trace_of("mix_2r1w_c64", 4, 64)
    assert address.tolist() == [0, 64, 1 << 28, 128]
    assert is_write.tolist() == [False, False, True, False]
    address, is_write = trace_of("rmix_1r1w_1M", 1000, 32)
    assert address.min() >= 0
    assert address.max() < 1 << 20
    assert is_write.sum() == 500
    with pytest.raises(InputError, match="unknown form 'zigzag_4K'"):
        trace_of("zigzag_4K", 4, 32)


@cache
def _reference_module(folder: Path) -> Any:
    import importlib.util

    spec = importlib.util.spec_from_file_location("dram_traces", folder / "dram_traces.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_project_matches_the_reference_traces(reference_folder: Path) -> None:
    module = _reference_module(reference_folder)
    names = {line.split(",")[1] for line in OWN_POINTS.read_text().splitlines()[3:]}
    for name in sorted(names):
        theirs, ours = module.generate(name, 5000, 32), trace_of(name, 5000, 32)
        np.testing.assert_array_equal(theirs[0].astype(np.int64), ours[0], err_msg=name)
        np.testing.assert_array_equal(theirs[1], ours[1], err_msg=name)


@settings(max_examples=60)
@given(data=st.data())
def test_any_pattern_of_the_reference_generator_is_accepted(
    reference_folder: Path, data: st.DataObject
) -> None:
    """Other strides, tiles, footprints, mixes and element sizes than those of the table."""
    size = st.sampled_from(["64", "128", "192", "320", "1K", "1536", "3K", "12288", "64K", "1M", "33556480"])
    count = st.integers(1, 5)
    name = data.draw(
        st.one_of(
            st.builds("mix_{}r{}w_c{}".format, count, count, size),
            st.builds("stride_{}".format, size),
            st.builds("random_{}".format, st.sampled_from(["1M", "16M", "256M", "8G"])),
            st.builds("random_{}_e{}".format, st.sampled_from(["1M", "1G"]), size),
            st.builds("rmix_{}r{}w_{}".format, count, count, st.sampled_from(["1M", "512M"])),
            st.builds("tile_w{}_p{}".format, size, size),
            st.builds("streams_{}_g{}_c{}".format, st.integers(1, 16), size, size),
            st.builds("streams_{}_g{}".format, st.integers(1, 16), size),
        )
    )
    tx, n = data.draw(st.sampled_from([32, 64])), data.draw(st.integers(1, 3000))
    theirs, ours = _reference_module(reference_folder).generate(name, n, tx), trace_of(name, n, tx)
    np.testing.assert_array_equal(theirs[0].astype(np.int64), ours[0], err_msg=name)
    np.testing.assert_array_equal(theirs[1], ours[1], err_msg=name)


def test_an_address_beyond_a_published_memory_wraps_as_its_decoder_does(tmp_path: Path) -> None:
    # sixteen streams 64 MiB apart overrun 512 MiB: streams 8 .. 15 hit the rows of 0 .. 7
    file = tmp_path / "points.csv"
    file.write_text(_HEAD + "hbm2_pc_bg,streams_16_g64M,saturate,64,1,,\n")
    (point,) = validate_dram(file)
    assert point.skipped_because is None
    assert point.ours


def test_measurements_on_boards_are_met() -> None:
    points = {point.id: point for point in validate_dram(OWN_MEASURED)}
    assert len(points) == 15
    for point in points.values():
        assert point.skipped_because is None, point
        assert point.error_fraction is not None
        bandwidth = "latency" in point.set or "vadd" in point.set
        assert abs(point.error_fraction) < (0.03 if bandwidth else 0.2), point


def test_other_measurements_in_the_same_words_can_be_expressed(tmp_path: Path) -> None:
    # a sequence of columns of one bank group keeps tCCD_L: half of 13.3 GB/s under RBC
    rows = [
        "HBM2 on U280,dram_latency,state=page_hit switch=on,idle read latency,122.2",  # 48 + 7 cycles of 450 MHz
        "HBM2 on U280,dram_latency,state=page_hit distance=7,idle read latency,171.1",  # 48 + 29
        "HBM2 on U280,dram_bandwidth,burst_B=64 stride_B=64 window_B=268435456 policy=RBC,bandwidth,6.7",
        "HBM2 on U280,dram_bandwidth,channels=4 pattern=sequential op=write,bandwidth,53",
        "HBM2 on U280,dram_address_mapping,burst_B=32 stride_B=1024 RBC vs RCB,bandwidth ratio,1",
        "DDR4 on U280,dram_bandwidth,burst_B=64 stride_B=4096 window_B=8192,bandwidth,1",
        "HBM2 on U280,dram_latency,state=page_open,idle read latency,1",
        "HBM2 on U280,dram_bandwidth,channels=33 pattern=sequential,bandwidth,1",
        "HBM2 on U280,dram_bandwidth,burst_B=32 stride_B=64 policy=XYZ,bandwidth,1",
        "A100,matmul,m=1,latency,1",
    ]
    file = tmp_path / "measured.csv"
    file.write_text("device,op,other_dims,metric,value\n" + "\n".join(rows) + "\n")
    points = validate_dram(file)
    for point in points[:4]:
        assert point.error_fraction == pytest.approx(0, abs=0.03), point
    assert all(point.ours and point.ours > 0 for point in points[4:6])
    reasons = [str(point.skipped_because) for point in points[6:]]
    assert "state must be page_hit, page_closed or page_miss" in reasons[0]
    assert "channels must be at most 32" in reasons[1]
    assert "unknown configuration 'u280_hbm2_xyz'" in reasons[2]
    assert "no measurement of a memory" in reasons[3]
    assert points[9].set == "A100_matmul"


def test_every_seventh_published_point_is_met_to_the_cycle(tmp_path: Path) -> None:
    lines = [line for line in OWN_POINTS.read_text().splitlines() if not line.startswith("#")]
    file = tmp_path / "points.csv"
    file.write_text("\n".join([lines[0], *lines[1::7]]) + "\n")
    points = validate_dram(file)
    assert len(points) > 150
    for point in points:
        assert point.skipped_because is None
        assert point.error_fraction is not None
        limit = 1e-3 if point.set.endswith("_latency") else 1e-5  # latencies are printed to 0.01 ns
        assert abs(point.error_fraction) <= limit, point


def test_a_row_that_cannot_be_run_is_a_skip_with_its_reason(tmp_path: Path) -> None:
    file = tmp_path / "points.csv"
    file.write_text(_HEAD + "hbm2_pc_bg,zigzag_1K,saturate,10,5,,\nhbm9,seq_read,saturate,10,5,,\n")
    first, second = validate_dram(file)
    assert (first.id, first.ours, first.error_fraction) == ("dram_hbm2_pc_bg|1", None, None)
    assert "zigzag_1K" in str(first.skipped_because)
    assert "hbm9" in str(second.skipped_because)
    file.write_text("config,pattern\n")
    with pytest.raises(InputError, match="column 'injection' is missing"):
        validate_dram(file)
