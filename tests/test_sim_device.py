"""Devices come from the data file, whole and with a source each."""

import csv
from pathlib import Path

import pytest

from tilewright.dataflow.errors import InputError
from tilewright.sim import device as device_module
from tilewright.sim.device import RESOURCES, device_named, devices


def test_the_ids_of_the_contract_are_there() -> None:
    assert {"u280", "u55c", "u50", "u250", "zcu104"} <= set(devices())
    assert {"asic45", "asic28", "asic16", "asic7", "asic5"} <= set(devices())


def test_an_unknown_device_names_the_closest_one() -> None:
    with pytest.raises(InputError, match="did you mean 'u280'"):
        device_named("u28O")


@pytest.mark.parametrize("device", devices().values(), ids=list(devices()))
def test_a_device_is_whole(device: device_module.Device) -> None:
    low, high = device.clock_range_mhz
    assert low <= device.default_clock_mhz <= high
    assert device.memory_channels > 0
    totals, shell = dict(device.totals), dict(device.shell)
    if device.is_fpga:
        assert set(totals) == set(shell) == set(RESOURCES)
        assert all(shell[name] <= 0.3 * totals[name] for name in RESOURCES)
    else:
        assert not totals
        assert not shell
        assert device.max_die_mm2 == (None if device.gpu else 26 * 33)


def test_the_peak_of_a_gpu_is_the_published_one() -> None:
    # 312 TFLOPS on an A100, 989 on an H100 at its matrix clock of 1830 MHz, 14.1 in fp32 on a V100 at 1380 MHz.
    for name, kind, clock_mhz, tflops in (
        ("a100_80gb", "fp16", 1410, 312), ("h100", "fp16", 1830, 989.4), ("v100_pcie", "", 1380, 14.1),
    ):  # fmt: skip
        sheet = device_named(name).gpu
        assert sheet is not None
        macs = dict(sheet.matrix_macs).get(kind, sheet.fp32_lanes)
        peak = 2 * sheet.multiprocessors * macs * clock_mhz * 1e-6
        assert peak == pytest.approx(tflops, rel=0.005)


@pytest.mark.parametrize("name", ["devices.csv", "gpu_devices.csv"])
def test_every_row_of_the_data_has_a_source_and_a_verification(name: str) -> None:
    file = Path(device_module.__file__).parent / "data" / name
    with file.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert rows
    assert [row for row in rows if not row["source"] or not row["verification"]] == []


def test_the_u280_shell_with_ten_ports_is_what_the_routed_design_showed() -> None:
    # Vivado counted 132,845 LUT and 204,726 FF after linking ten memory ports and the PCIe path.
    u280 = device_named("u280")
    linked = {name: count + 10 * dict(u280.memory_port).get(name, 0) for name, count in u280.shell}
    assert linked["lut"] == pytest.approx(132845, rel=0.001)
    assert linked["ff"] == pytest.approx(204726, rel=0.001)


def test_reference_totals_agree(reference_folder: Path) -> None:
    with (reference_folder / "fpga_devices.csv").open(encoding="utf-8", newline="") as stream:
        rows = {row["device"]: row for row in csv.DictReader(stream)}
    for name, row in (("u280", rows["Alveo U280"]), ("zcu104", rows["ZCU104"])):
        assert dict(device_named(name).totals) == {key: int(row[key]) for key in RESOURCES}
