"""PEs in PyRTL against numpy: exhaustive where the operands are few, seeded draws where not."""

from collections.abc import Callable, Sequence
from itertools import product as pairs

import numpy as np
import pyrtl
import pytest
from pyrtl import WireVector

from tilewright.dataflow.errors import InputError
from tilewright.hls_templates.rtl import float_model
from tilewright.hls_templates.rtl.bfloat import bf16_product, float_sum
from tilewright.hls_templates.rtl.cell import CellKind, build_cell
from tilewright.hls_templates.rtl.packed import packed_int4_products, packed_int8_products, packed_pe
from tilewright.hls_templates.rtl.pe import pe_kind, product, signed_product
from tilewright.hls_templates.rtl.wires import constant, fresh_block


def signed(word: int, bits: int) -> int:
    return word - (1 << bits) if word >> (bits - 1) else word


def evaluate(
    widths: Sequence[int],
    build: Callable[..., WireVector | list[WireVector]],
    operands: Sequence[Sequence[int]],
) -> list[list[int]]:
    """The words that a combinational circuit gives for each row of operands."""
    with fresh_block() as block:
        inputs = [pyrtl.Input(bits, f"in{i}") for i, bits in enumerate(widths)]
        built = build(*inputs)
        outputs = built if isinstance(built, list) else [built]
        for i, wire in enumerate(outputs):
            port = pyrtl.Output(len(wire), f"out{i}")
            port <<= wire
        simulation = pyrtl.FastSimulation(tracer=None, block=block)
    found = []
    for row in operands:
        masked = {f"in{i}": value & ((1 << widths[i]) - 1) for i, value in enumerate(row)}
        simulation.step(masked)
        found.append([simulation.inspect(f"out{i}") for i in range(len(outputs))])
    return found


def draws(count: int, *bits: int) -> list[list[int]]:
    generator = np.random.default_rng(bits)
    columns = [generator.integers(-(1 << (b - 1)), 1 << (b - 1), count) for b in bits]
    edges = list(pairs(*([-(1 << (b - 1)), -1, 0, 1, (1 << (b - 1)) - 1] for b in bits)))
    return [list(map(int, row)) for row in edges] + [
        [int(value) for value in row] for row in zip(*columns, strict=True)
    ]


@pytest.mark.parametrize("form", ["signed", "corrected"])
def test_both_multipliers_give_every_product_of_two_nibbles(form: str) -> None:
    operands = list(pairs(range(-8, 8), range(-8, 8)))
    found = evaluate([4, 4], lambda a, b: signed_product(a, b, form), operands)  # type: ignore[arg-type]
    assert [signed(word, 8) for (word,) in found] == [a * b for a, b in operands]


@pytest.mark.parametrize(("name", "bits"), [("int4", 4), ("int8", 8), ("int16", 16)])
def test_an_integer_pe_multiplies_as_python_does(name: str, bits: int) -> None:
    kind = pe_kind(name)
    operands = draws(400, bits, bits)
    found = evaluate([bits, bits], lambda a, w: product(kind, a, w), operands)
    assert [signed(word, kind.sum_bits) for (word,) in found] == [a * w for a, w in operands]


def test_operands_of_unequal_width_multiply_too() -> None:
    operands = draws(300, 11, 5)
    for form in ("signed", "corrected"):
        found = evaluate([11, 5], lambda a, w, form=form: signed_product(a, w, form), operands)
        assert [signed(word, 16) for (word,) in found] == [a * w for a, w in operands]


def test_a_ternary_pe_adds_subtracts_or_keeps() -> None:
    """Weight codes 0, 1, 2, 3 stand for 0, 1, 0, -1; -128 times -1 is 128."""
    kind = pe_kind("ternary")
    operands = list(pairs(range(-128, 128), range(4)))
    found = evaluate([8, 2], lambda a, w: product(kind, a, w), operands)
    assert [signed(word, 32) for (word,) in found] == [a * (0, 1, 0, -1)[w] for a, w in operands]


def test_a_shift_add_pe_multiplies_by_signed_powers_of_two() -> None:
    """Code c of 1 .. 7 stands for 2^(c-1), 0 for zero, bit 3 for the sign."""
    weights = [0, 1, 2, 4, 8, 16, 32, 64, 0, -1, -2, -4, -8, -16, -32, -64]
    operands = list(pairs(range(-128, 128), range(16)))
    found = evaluate([8, 4], lambda a, w: product(pe_kind("shift_add"), a, w), operands)
    assert [signed(word, 32) for (word,) in found] == [a * weights[w] for a, w in operands]


def test_two_int8_products_share_a_multiplier() -> None:
    """Both low and high negative, so that the low one borrows from the high one, are among the edges."""
    operands = draws(1000, 8, 8, 8)
    found = evaluate([8, 8, 8], packed_int8_products, operands)
    assert [[signed(word, 16) for word in words] for words in found] == [
        [a * b, a * c] for a, b, c in operands
    ]


def test_four_int4_products_share_a_multiplier() -> None:
    """All 65,536 combinations of four nibbles."""
    operands = list(pairs(range(-8, 8), repeat=4))
    found = evaluate([4] * 4, lambda *w: packed_int4_products(list(w[:2]), list(w[2:])), operands)
    wanted = [[a * c, b * c, a * d, b * d] for a, b, c, d in operands]
    assert [[signed(word, 8) for word in words] for words in found] == wanted


@pytest.mark.parametrize(("name", "widths"), [("packed_int8", (8, 8, 8)), ("packed_int4", (4, 4, 4, 4))])
def test_a_packed_pe_accumulates_all_its_products(name: str, widths: tuple[int, ...]) -> None:
    rows = draws(200, *widths)
    with fresh_block() as block:
        operands, first = pyrtl.Input(sum(widths), "operands"), pyrtl.Input(1, "first")
        sums = packed_pe(name, operands, first, constant(1, 1), 32)
        for i, wire in enumerate(sums):
            port = pyrtl.Output(32, f"sum{i}")
            port <<= wire
        simulation = pyrtl.FastSimulation(tracer=None, block=block)
    totals = np.zeros(len(sums), dtype=np.int64)
    for row in [*rows, [0] * len(widths)]:
        word = sum((value & ((1 << widths[0]) - 1)) << (widths[0] * i) for i, value in enumerate(row))
        simulation.step({"operands": word, "first": 0})
        assert [signed(simulation.inspect(f"sum{i}"), 32) for i in range(len(sums))] == totals.tolist()
        left, right = (row[:1], row[1:]) if len(widths) == 3 else (row[:2], row[2:])
        totals += [a * b for b in right for a in left]


def _special_words() -> list[int]:
    """Zeros, infinities, NaN, subnormal, smallest and largest numbers, one and its neighbour, both signs."""
    positive = [0, 0x7F800000, 0x7FC00001, 1, 0x00800000, 0x00800001, 0x7F7FFFFF, 0x3F800000, 0x3F7FFFFF]
    return positive + [word | 1 << 31 for word in positive]


def test_a_bf16_product_is_float32s_but_for_subnormal_numbers() -> None:
    generator = np.random.default_rng(16)
    special = [word >> 16 for word in _special_words()]
    operands = list(pairs(special, special)) + generator.integers(0, 1 << 16, (3000, 2)).tolist()
    found = evaluate([16, 16], bf16_product, operands)
    left, right = np.array(operands, dtype=np.uint16).T
    wanted = float_model.float_bits(float_model.product(left, right))
    assert [word for (word,) in found] == wanted.tolist()


def test_a_float32_sum_is_rounded_as_ieee_754_says() -> None:
    """Half of the draws have exponents close enough to cancel, shift by the guard bits, or just miss."""
    generator = np.random.default_rng(32)
    left, right = generator.integers(0, 1 << 32, (2, 6000), dtype=np.uint32)
    exponents = (left[:3000] >> 23 & 255).astype(np.int64) + generator.integers(-28, 29, 3000)
    right[:3000] = right[:3000] & 0x807FFFFF | np.clip(exponents, 0, 255).astype(np.uint32) << 23
    special = np.array(list(pairs(_special_words(), repeat=2)), dtype=np.uint32).T
    left, right = np.concatenate([left, special[0]]), np.concatenate([right, special[1]])
    # the first step of the addition is registered, so a row's sum is there a row later
    rows = [*zip(left.tolist(), right.tolist(), strict=True), (0, 0)]
    found = evaluate([32, 32], lambda a, b: float_sum(a, b, constant(1, 1)), rows)
    wanted = float_model.float_bits(float_model.add(left.view(np.float32), right.view(np.float32)))
    assert [word for (word,) in found[1:]] == wanted.tolist()


def test_a_bf16_pe_accumulates_a_dot_product_as_its_model() -> None:
    """33 beats through one PE: its two sums are those of the odd and of the even beats."""
    generator = np.random.default_rng(7)
    a, b = (float_model.bf16_bits(generator.normal(size=33)) for _ in range(2))
    kind = CellKind(pe_kind("bf16"), "output", drain_overlap=False)
    with fresh_block() as block:
        wires: dict[str, WireVector] = {name: pyrtl.Input(bits, name) for name, bits in kind.inputs.items()}
        port = pyrtl.Output(64, "out")
        port <<= build_cell(kind, wires)["below"]
        simulation = pyrtl.FastSimulation(tracer=None, block=block)
    idle = {"west": 0, "north": 0, "flags": 0, "shift": 0, "above": 0, "advance": 1}
    for beat in range(33):
        flags = 1 | (beat == 0) << 1 | (beat == 32) << 2
        simulation.step(idle | {"west": int(a[beat]), "north": int(b[beat]), "flags": flags})
    for _ in range(5):
        simulation.step(idle)
    word = simulation.inspect("out")
    halves = np.array([word & 0xFFFFFFFF, word >> 32], dtype=np.uint32).view(np.float32)
    total = float_model.add(halves[:1], halves[1:])
    assert total == float_model.output_stationary(a[None], b[:, None])[0]
    exact = np.dot(
        float_model.bf16_values(a).astype(np.float64), float_model.bf16_values(b).astype(np.float64)
    )
    magnitude = np.abs(float_model.bf16_values(a).astype(np.float64) * float_model.bf16_values(b)).sum()
    # products are exact; each of the 33 additions rounds by at most half a unit in the last place
    assert abs(float(total[0]) - exact) <= 33 * 2.0**-24 * magnitude


@pytest.mark.parametrize(
    ("name", "sum_bits", "message"),
    [
        ("int9", None, r"PE 'int9' is unknown \(did you mean 'int8'\?\)"),
        ("int8", 12, "sum_bits must be 16 to 64, got 12"),
        ("bf16", 24, "sums are float32, got sum_bits 24"),
    ],
)
def test_a_pe_that_cannot_be_is_one_line(name: str, sum_bits: int | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        pe_kind(name, sum_bits)
