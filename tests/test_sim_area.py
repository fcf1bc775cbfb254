"""Area: synthesis results come back, blocks have true aspect ratios, parts sum to totals."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import architectures, small_architecture
from tilewright.dataflow.errors import InputError
from tilewright.sim.architecture import Architecture, BufferMemory, MatrixArray, MemoryKind
from tilewright.sim.area import area_of, check_fits
from tilewright.sim.asic_area import component_mm2, logic_scale, pe_um2, sram_mm2
from tilewright.sim.device import device_named
from tilewright.sim.fpga_resources import bram36_of, memory_resources

U280, ASIC7 = device_named("u280"), device_named("asic7")


def _with_array(device: str, **changes: object) -> Architecture:
    base = small_architecture(device)
    array = replace(base.components[0], **changes)
    return replace(base, components=(array, *base.components[1:]))


def _memory(kind: MemoryKind, capacity_bytes: int, banks: int, port_bits: int) -> BufferMemory:
    return BufferMemory("buffer", capacity_bytes, banks, port_bits, kind)


@pytest.mark.parametrize(
    ("depth", "width_bits", "tiles"),
    [
        (1024, 36, 1), (512, 72, 1), (512, 36, 0.5), (1024, 8, 0.5), (1024, 32, 1), (16384, 64, 32),
        (512, 73, 1.5), (513, 72, 2), (32768, 1, 1), (2048, 18, 1), (4096, 9, 1),
    ],
)  # fmt: skip
def test_bram_counts_follow_the_aspect_ratios(depth: int, width_bits: int, tiles: float) -> None:
    assert bram36_of(depth, width_bits) == tiles


def test_uram_is_4096_words_of_72_bit() -> None:
    assert memory_resources(_memory("uram", 64 * 16384 // 8, 1, 64)).uram == 4
    assert memory_resources(_memory("uram", 64 * 4097 // 8, 1, 64)).uram == 2
    assert memory_resources(_memory("uram", 2 * 1024, 2, 144)).uram == 4  # two banks, two blocks wide


def test_distributed_memory_of_32_by_32_takes_three_primitives_of_eight_luts() -> None:
    assert memory_resources(_memory("lutram", 128, 1, 32)).lut == 24


@given(st.integers(1, 1 << 16), st.integers(1, 600))
def test_bram_tiles_hold_the_memory(depth: int, width_bits: int) -> None:
    assert bram36_of(depth, width_bits) * 36864 >= depth * width_bits


@pytest.mark.parametrize(
    ("bits", "accumulator", "um2_45", "um2_7"),
    [(4, 24, 504.07, 41.13), (8, 32, 1004.68, 84.94), (16, 48, 2819.07, 242.55)],
)
def test_asic_pes_are_within_two_percent_of_their_synthesis(
    bits: int, accumulator: int, um2_45: float, um2_7: float
) -> None:
    array = MatrixArray("a", 1, 1, "output", (bits, bits), accumulator)
    assert pe_um2(array, 45, "synthesis") == pytest.approx(um2_45, rel=0.02)
    assert pe_um2(array, 7, "synthesis") == pytest.approx(um2_7, rel=0.02)


@pytest.mark.parametrize("table", ["synthesis", "stillmaker"])
def test_logic_shrinks_at_every_node(table: str) -> None:
    scales = [logic_scale(node, table) for node in (45, 28, 16, 7, 5)]
    assert scales == sorted(scales, reverse=True)
    assert scales[0] == 1.0


def test_an_sram_is_its_cells_over_the_macro_efficiency() -> None:
    # 128 KiB at 7 nm: 2^20 bits of 0.027 um2 over 0.70
    assert sram_mm2(128 * 1024, 1, 7) == pytest.approx(2**20 * 0.027e-6 / 0.70)
    assert sram_mm2(128 * 1024, 32, 7) > sram_mm2(128 * 1024, 1, 7)
    assert sram_mm2(65536, 1, 7, "cache_efficiency") > sram_mm2(65536, 1, 7)


def test_memory_has_a_phy_per_stack_and_controllers_per_channel() -> None:
    one, two = (area_of(small_architecture(channels=channels), ASIC7) for channels in (16, 17))
    parts = [
        {child.name: child for child in area.parts.children}["dram"] for area in (one, two) if area.parts
    ]
    phys = [part.children[0].value for part in parts]
    assert phys == [10.45, 20.9]
    assert parts[1].children[1].value == pytest.approx(parts[0].children[1].value * 17 / 16)


@given(architectures("u280"))
def test_fpga_parts_sum_to_the_total(architecture: Architecture) -> None:
    area = area_of(architecture, U280)
    assert area.parts is not None
    assert area.parts.value == area.lut == sum(part.value for part in area.parts.children)
    assert area.used_fraction == max(fraction for _, fraction in area.fractions)
    assert dict(area.fractions)["lut"] == area.lut / 1303680


@given(architectures())
def test_asic_parts_sum_to_the_total(architecture: Architecture) -> None:
    area = area_of(architecture, ASIC7)
    assert area.parts is not None
    assert area.mm2 == area.parts.value == pytest.approx(sum(part.value for part in area.parts.children))


@pytest.mark.parametrize("device", ["u280", "asic7"])
def test_more_pes_never_take_less_area(device: str) -> None:
    areas = [area_of(_with_array(device, rows=rows), device_named(device)) for rows in (2, 4, 8, 16)]
    sizes = [area.mm2 or area.lut or 0 for area in areas]
    assert sizes == sorted(set(sizes))


def test_the_shell_is_part_of_the_used_fraction() -> None:
    area = area_of(small_architecture("u280"), U280)
    assert area.bram36 is not None
    assert area.bram36 > 197
    assert area.parts is not None
    assert ("shell", 109921.0) in [(part.name, part.value) for part in area.parts.children]


def test_a_design_too_large_is_refused_with_resource_and_excess() -> None:
    area = area_of(_with_array("u280", rows=128, cols=128), U280)
    with pytest.raises(InputError, match=r"u280: dsp needs 16\d\d\d, the device has 9024 \(7\d\d\d too many"):
        check_fits(area, U280)
    check_fits(area_of(small_architecture("u280"), U280), U280)


def test_a_die_beyond_the_reticle_is_refused() -> None:
    area = area_of(_with_array("asic7", rows=4096, cols=4096), ASIC7)
    with pytest.raises(InputError, match="one reticle is 858 mm2"):
        check_fits(area, ASIC7)


def test_uram_on_a_part_without_any_is_infinitely_overused() -> None:
    none = replace(U280, totals=tuple((name, 0 if name == "uram" else n) for name, n in U280.totals))
    base = small_architecture("u280")
    memory = BufferMemory("input_buffer", 1 << 16, 1, 72, "uram")
    design = replace(base, components=tuple(memory if c.name == memory.name else c for c in base.components))
    with pytest.raises(InputError, match="uram needs 2, the device has 0"):
        check_fits(area_of(design, none), none)


@pytest.mark.parametrize(("device", "kind"), [("u280", "sram"), ("asic7", "bram")])
def test_memory_of_the_other_device_class_is_refused(device: str, kind: MemoryKind) -> None:
    base = small_architecture(device)
    wrong = BufferMemory("odd", 1024, 1, 64, kind)
    with pytest.raises(InputError, match="'odd'"):
        area_of(replace(base, components=(*base.components, wrong)), device_named(device))


def test_ports_grow_cells_on_an_asic_and_are_copies_on_an_fpga() -> None:
    one = _memory("sram", 128 * 1024, 4, 64)
    areas = [component_mm2(replace(one, ports=ports), 7, "synthesis")[0].value for ports in (1, 2, 3)]
    assert areas[1] / areas[0] == pytest.approx(1.41**2)  # two ports: cells of 1.41 x 1.41
    assert areas[2] > areas[1]
    wide = component_mm2(replace(one, port_bits=512), 7, "synthesis")[0].value
    # 512 bits are eight macros of 64 in every bank: 4 KiB each instead of 32
    assert wide == pytest.approx(sram_mm2(128 * 1024, 32, 7))
    assert wide > areas[0]
    blocks = [
        memory_resources(replace(_memory("bram", 4096, 1, 32), ports=n)).bram36 for n in (1, 2, 3, 4, 5)
    ]
    assert blocks == [1, 1, 2, 2, 3]
