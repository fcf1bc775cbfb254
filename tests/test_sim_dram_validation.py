"""Named patterns and the comparison with published cycles."""

from pathlib import Path

import numpy as np
import pytest

from tilewright.dataflow.errors import InputError
from tilewright.sim.dram_patterns import trace_of
from tilewright.sim.dram_validation import OWN_POINTS, validate_dram

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


def test_the_project_matches_the_reference_traces(reference_folder: Path) -> None:
    import importlib.util

    spec = importlib.util.spec_from_file_location("dram_traces", reference_folder / "dram_traces.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    names = {line.split(",")[1] for line in OWN_POINTS.read_text().splitlines()[3:]}
    for name in sorted(names):
        theirs, ours = module.generate(name, 5000, 32), trace_of(name, 5000, 32)
        np.testing.assert_array_equal(theirs[0].astype(np.int64), ours[0], err_msg=name)
        np.testing.assert_array_equal(theirs[1], ours[1], err_msg=name)


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
