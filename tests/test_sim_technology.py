"""Constants: published points come back, tables differ where sources do, every row has a source."""

import math
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilewright.dataflow.errors import InputError
from tilewright.sim import technology
from tilewright.sim.device import device_named, devices
from tilewright.sim.technology import (
    ASIC_TABLES,
    FPGA_TABLES,
    asic_table,
    fpga_table,
    leakage_w_per_mm2,
    memory_energy,
    power_law,
    resolve_table,
    stillmaker_factor,
    tables_used,
    vector_operations,
)

ASICS = [name for name, device in devices().items() if not device.is_fpga and device.gpu is None]


def test_45_nm_returns_the_published_figures_in_both_tables() -> None:
    for name in ASIC_TABLES:
        table = asic_table(device_named("asic45"), name)
        assert table.int_multiply_pj(8, 8) == pytest.approx(0.2)
        assert table.int_multiply_pj(32, 32) == pytest.approx(3.1)
        assert table.int_add_pj(16) == pytest.approx(0.05)
        assert table.float_multiply_pj(16) == pytest.approx(1.1)
        assert 64 * table.sram_pj_per_bit(32 * 1024) == pytest.approx(20)


def test_7_nm_returns_the_measured_figures_by_default() -> None:
    table = asic_table(device_named("asic7"))
    assert table.name == "horowitz_jouppi"
    assert table.int_multiply_pj(8, 8) == pytest.approx(0.07)
    assert table.int_add_pj(32) == pytest.approx(0.03)
    assert 64 * table.sram_pj_per_bit(1024 * 1024) == pytest.approx(14)


def test_the_sources_disagree_three_to_ten_times_on_7_nm_arithmetic() -> None:
    measured = asic_table(device_named("asic7"), "horowitz_jouppi")
    scaled = asic_table(device_named("asic7"), "horowitz_stillmaker")
    assert 3 < measured.int_multiply_pj(8, 8) / scaled.int_multiply_pj(8, 8) < 10
    assert 3 < measured.int_add_pj(32) / scaled.int_add_pj(32) < 10


def test_stillmaker_factors_follow_the_polynomials() -> None:
    # by hand at 0.9 V: 45 nm 1.103*0.81 - 0.362*0.9 + 0.2767 = 0.84433
    assert stillmaker_factor(45, 0.9) == 1.0
    by_hand = (0.1776 * 0.5625 - 0.09097 * 0.75 + 0.02447) / 0.84433
    assert stillmaker_factor(7, 0.75) == pytest.approx(by_hand)
    assert stillmaker_factor(28, 0.9) == pytest.approx(0.5066, abs=1e-3)


@pytest.mark.parametrize("name", ASIC_TABLES)
def test_energy_never_rises_from_one_node_to_the_next(name: str) -> None:
    tables = [asic_table(device_named(asic), name) for asic in ASICS]
    for older, newer in pairwise(tables):
        assert newer.node_nm < older.node_nm
        for bits in (4, 8, 16, 32):
            assert newer.int_multiply_pj(bits, bits) < older.int_multiply_pj(bits, bits)
            assert newer.float_add_pj(max(bits, 16)) < older.float_add_pj(max(bits, 16))
        for capacity in (512, 4096, 65536, 1 << 22):
            assert newer.sram_pj_per_bit(capacity) <= older.sram_pj_per_bit(capacity)


@given(
    st.sampled_from(ASICS), st.sampled_from(ASIC_TABLES), st.integers(64, 1 << 24), st.integers(1, 1 << 20)
)
def test_a_larger_sram_never_costs_less_per_bit(asic: str, name: str, capacity: int, more: int) -> None:
    table = asic_table(device_named(asic), name)
    assert table.sram_pj_per_bit(capacity + more) >= table.sram_pj_per_bit(capacity)
    assert table.sram_pj_per_bit(capacity) >= table.register_pj_per_bit


def test_a_power_law_is_exact_on_a_power_law() -> None:
    points = ((2.0, 4.0), (8.0, 64.0), (32.0, 1024.0))
    for size in (1.0, 2.0, 3.0, 10.0, 100.0):
        assert power_law(points, size) == pytest.approx(size**2)


def test_fpga_figures_are_ranges() -> None:
    u280 = device_named("u280")
    low, mid, high = (fpga_table(u280, f"vivado_{level}") for level in ("low", "mid", "high"))
    for name in ("lut_pj", "ff_pj", "dsp_pj", "bram36_pj", "uram_pj", "static_w"):
        assert getattr(low, name) < getattr(mid, name) < getattr(high, name)
    assert fpga_table(u280) == mid
    assert mid.dsp_pj_at(8) == pytest.approx(0.8 * 3.2)
    assert mid.dsp_pj_at(27) == 3.2


@pytest.mark.parametrize("name", [name for name, device in devices().items() if device.gpu is None])
def test_every_device_has_its_constants(name: str) -> None:
    device = device_named(name)
    memory = memory_energy(device.memory_config)
    assert memory.core_pj_per_bit > 0
    assert memory.n_stacks(device.memory_channels) >= 1
    if device.is_fpga:
        assert all(fpga_table(device, table).static_w > 0 for table in FPGA_TABLES)
    else:
        assert leakage_w_per_mm2(device.node_nm, "low") < leakage_w_per_mm2(device.node_nm)


def test_u280_channels_lie_on_two_stacks_of_16() -> None:
    memory = memory_energy("u280_hbm2")
    assert [memory.n_stacks(channels) for channels in (1, 16, 17, 32)] == [1, 1, 2, 2]


def test_an_unknown_table_names_the_closest_one_of_the_device_class() -> None:
    with pytest.raises(InputError, match="did you mean 'vivado_low'"):
        resolve_table(device_named("u280"), "vivado_lo")
    with pytest.raises(InputError, match="unknown on asic7"):
        resolve_table(device_named("asic7"), "vivado_low")


def test_a_report_can_say_which_tables_it_used() -> None:
    assert "energy:horowitz_jouppi" in tables_used(device_named("asic7"))
    assert "energy:vivado_high" in tables_used(device_named("u280"), "vivado_high")


def test_an_unnamed_function_is_a_multiply_and_an_add() -> None:
    assert vector_operations("exp").lookups == 2
    assert vector_operations("no_such_function") == vector_operations("default")


@pytest.mark.parametrize(
    "file", sorted(path.name for path in (Path(technology.__file__).parent / "data").glob("*.csv"))
)
def test_every_row_has_a_value_and_a_source(file: str) -> None:
    found = technology.rows(file)
    assert found
    for row in found:
        if file == "validated_errors.csv":  # names what it was held against, where it was
            assert row["against"] or not row["mean_abs_error_fraction"]
        elif "source" in row:
            assert row["source"]
        assert all(value is not None for value in row.values()), row
        for column in ("value", "low", "mid", "high"):
            if row.get(column) and file not in ("devices.csv", "gpu_devices.csv"):
                assert math.isfinite(float(row[column]))
