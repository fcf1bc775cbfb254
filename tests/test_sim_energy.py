"""Energy: prices by hand, parts sum to totals, nothing is counted twice."""

import json
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import GEMM_TENSORS, architectures, gemm_stage, programs, small_architecture
from tilewright.dataflow.errors import InputError
from tilewright.dataflow.program import Loop, Program
from tilewright.sim.actions import ActionCounts, NestCounts, count_actions
from tilewright.sim.architecture import Architecture, BufferMemory, Fifo, Noc
from tilewright.sim.area import area_of
from tilewright.sim.device import device_named
from tilewright.sim.energy import STATIC, nest_pj, price
from tilewright.sim.report import Breakdown

NONE = ActionCounts(())


def _child(tree: Breakdown, *path: str) -> float:
    for name in path:
        tree = next(child for child in tree.children if child.name == name)
    return tree.value


def _leaf_sum(tree: Breakdown) -> float:
    return sum(map(_leaf_sum, tree.children)) if tree.children else tree.value


def _macs(n: int, bits: tuple[int, int, int] = (8, 8, 32)) -> ActionCounts:
    return ActionCounts((NestCounts("gemm", "s", "array", "array", macs=n, mac_bits=bits),))


def test_an_int8_mac_at_45_nm_is_multiply_add_and_registers() -> None:
    # 0.2 + 0.1 pJ, and 8 + 8 + 32 register bits of 0.009 pJ
    energy = price(_macs(1000), 0, small_architecture("asic45"), device_named("asic45"))
    assert _child(energy, "array", "mac_8x8") == pytest.approx(1000 * (0.2 + 0.1 + 48 * 0.009))


def test_a_held_operand_does_not_move() -> None:
    held = price(_macs(1000), 0, small_architecture("asic45", "weight"), device_named("asic45"))
    assert _child(held, "array", "mac_8x8") == pytest.approx(1000 * (0.2 + 0.1 + 40 * 0.009))


def test_a_fpga_mac_is_its_pe_for_a_cycle() -> None:
    energy = price(_macs(10), 0, small_architecture("u280"), device_named("u280"))
    assert _child(energy, "array", "mac_8x8") == pytest.approx(10 * (64 * 0.045 + 52 * 0.003 + 0.8 * 3.2))


def test_dram_bits_cost_core_and_interface() -> None:
    nest = NestCounts("load", "s", "dma_in", "dma_in", tensor="x", dram_read_bytes=100)
    energy = price(ActionCounts((nest,)), 0, small_architecture(), device_named("asic7"))
    assert _child(energy, "dram", "read") == pytest.approx(800 * 3.04)
    assert _child(energy, "dram", "interface") == pytest.approx(800 * 0.75)
    assert _child(energy, "dram", "write") == 0
    assert _child(energy, "dram", "activate") == 0  # of a pattern that is not known


def test_scattered_bursts_open_a_row_each_and_streams_one_for_its_length() -> None:
    def activate(run_bytes: int, random: bool) -> float:
        nest = NestCounts(
            "load", "s", "dma_in", "dma_in", tensor="x", dram_read_bytes=1 << 20, dram_run_bytes=run_bytes,
            dram_random=random,
        )  # fmt: skip
        tree = price(ActionCounts((nest,)), 0, small_architecture("u280"), device_named("u280"))
        return _child(tree, "dram", "activate")

    # 32-byte bursts at uniform addresses: nearly every one opens a row of 909 pJ
    assert activate(32, True) == pytest.approx((1 << 15) * 909, rel=0.05)
    # a stream opens each row of 1 KiB once, and some again after a refresh
    assert (1 << 10) * 909 <= activate(1 << 16, False) <= 1.3 * (1 << 10) * 909
    assert activate(32, True) > activate(256, True) > activate(1 << 16, False)


def test_background_is_drawn_by_the_connected_channels_over_time() -> None:
    # 4 pseudo-channels of 31.8 mW over 2000 cycles at 200 MHz = 10 us
    energy = price(NONE, 2000, small_architecture(), device_named("asic7"))
    assert _child(energy, "dram", "background") == pytest.approx(4 * 31.8e-3 * 10e-6 * 1e12)


def test_leakage_is_the_area_without_memory_phys_over_time() -> None:
    architecture, device = small_architecture(), device_named("asic7")
    area = area_of(architecture, device)
    assert area.mm2 is not None
    silicon_mm2 = area.mm2 - 10.45  # one stack's PHY; its controllers leak like other logic
    energy = price(NONE, 2000, architecture, device)
    assert _child(energy, STATIC, "leakage") == pytest.approx(silicon_mm2 * 0.0158 * 10e-6 * 1e12)


def test_a_u280_at_rest_draws_device_shell_controllers_and_clock() -> None:
    cycles = 200_000_000  # one second
    energy = price(NONE, cycles, small_architecture("u280"), device_named("u280"))
    watts = {child.name: child.value * 1e-12 for child in energy.children[-1].children}
    assert watts["device"] == pytest.approx(4.18)
    assert watts["shell"] == pytest.approx(3.455)
    assert watts["memory_controllers"] == pytest.approx(1.734)
    assert 0.5 < watts["clock_tree"] < 2


@given(programs(), architectures(), st.integers(0, 10**9), st.sampled_from(("asic45", "asic7")))
def test_parts_sum_to_the_total(program: Program, architecture: Architecture, cycles: int, name: str) -> None:
    energy = price(count_actions(program, architecture), cycles, architecture, device_named(name))
    assert energy.value == pytest.approx(_leaf_sum(energy), rel=1e-12)
    assert len({child.name for child in energy.children}) == len(energy.children)
    assert json.dumps(energy.to_dict())


@given(programs(), architectures("u280"), st.integers(1, 10**6))
def test_nests_sum_to_the_dynamic_energy(program: Program, architecture: Architecture, cycles: int) -> None:
    device = device_named("u280")
    counts = count_actions(program, architecture)
    dynamic = price(counts, 0, architecture, device).value
    by_nest = sum(nest_pj(nest, architecture, device) for nest in counts.nests)
    assert by_nest == pytest.approx(dynamic, rel=1e-9)
    rest = price(counts, cycles, architecture, device).value - dynamic
    assert rest == pytest.approx(price(NONE, cycles, architecture, device).value, rel=1e-6)


@given(programs(), st.sampled_from(("u280", "zcu104", "u250")))
def test_the_fpga_tables_are_ordered(program: Program, name: str) -> None:
    architecture, device = small_architecture(name), device_named(name)
    counts = count_actions(program, architecture)
    low, mid, high = (
        price(counts, 1000, architecture, device, f"vivado_{level}").value for level in ("low", "mid", "high")
    )
    assert low < mid < high


def test_an_unknown_table_is_refused() -> None:
    with pytest.raises(InputError, match="energy table 'vivado'"):
        price(NONE, 1, small_architecture("u280"), device_named("u280"), "vivado")


def test_counting_pricing_and_area_of_sixty_nests_take_little_time() -> None:
    nests = _sixty_nests()
    design, device = small_architecture("u280"), device_named("u280")
    price(count_actions(nests, design), 1, design, device)
    best = float("inf")
    for clock in range(5):
        fresh = small_architecture("u280", rows=5 + clock)
        start = time.process_time()
        area_of(fresh, device)
        price(count_actions(nests, fresh), 1000, fresh, device)
        best = min(best, time.process_time() - start)
    assert best < 0.006  # three times what it takes on a slow core


def _sixty_nests() -> Program:
    """Twelve GEMM stages of five nests with remainders in every loop."""
    loops = (Loop("m", 500, 64), Loop("n", 1000, 96), Loop("k", 1001, 100))
    made = [gemm_stage(f"s{position}", loops, (1, 3, 2), 8, True) for position in range(12)]
    buffers = tuple(buffer for _, own in made for buffer in own)
    return Program("sixty", GEMM_TENSORS, buffers, tuple(stage for stage, _ in made))


@pytest.mark.parametrize(("device", "pj_per_bit"), [("u280", 0.045 + 0.003), ("asic45", 0.12 + 0.009)])
def test_bits_from_dram_pay_every_hop_of_a_network(device: str, pj_per_bit: float) -> None:
    plain = small_architecture(device)
    noc = Noc("noc", 3, 64, multicast=False)
    routed = replace(plain, components=(*plain.components, noc))
    nest = NestCounts("load", "s", "dma_in", "dma_in", tensor="x", dram_read_bytes=100)
    tree = price(ActionCounts((nest,)), 0, routed, device_named(device))
    assert _child(tree, "noc", "hops") == pytest.approx(800 * 3 * pj_per_bit)
    more = nest_pj(nest, routed, device_named(device)) - nest_pj(nest, plain, device_named(device))
    assert more == pytest.approx(800 * 3 * pj_per_bit)


def test_a_fifo_that_holds_a_buffer_costs_a_register_per_bit_and_a_second_port_longer_wires() -> None:
    plain = small_architecture("asic45")
    fifo = Fifo("fifo", 16, 64)
    memory = next(one for one in plain.components if isinstance(one, BufferMemory))
    others = tuple(one for one in plain.components if one is not memory)
    changed = replace(plain, components=(*others, replace(memory, ports=2), fifo))
    nest = NestCounts("move", "s", "vector", "vector", buffer_bits=(("fifo", 100, 100), (memory.name, 10, 0)))
    device = device_named("asic45")
    one_port = nest_pj(
        NestCounts("m", "s", "vector", "vector", buffer_bits=((memory.name, 10, 0),)), plain, device
    )
    assert nest_pj(nest, changed, device) == pytest.approx(200 * 0.009 + 1.41 * one_port)
