"""Mappings onto declared hierarchies: counts against a walk of the loops, optima against brute force."""

import random
from collections.abc import Iterator
from itertools import islice, permutations, product
from math import prod

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.nest_walk import Walk
from tilewright.dataflow.errors import InputError
from tilewright.sim.hierarchy import Axis, Hierarchy, Level
from tilewright.sim.mapper_onto import StatedLevel, map_onto, score
from tilewright.sim.mapping import MappingError
from tilewright.sim.mapspace import tiles_of
from tilewright.sim.mapspace_problem import Contraction, Operand, gemm

SIZES = st.integers(1, 5)


def hierarchy(
    buffer_words: int = 1 << 20,
    register_words: int = 1 << 20,
    axes: tuple[Axis, ...] = (),
    bypass: tuple[str, ...] = ("all",),
) -> Hierarchy:
    """DRAM, a buffer that tensors may bypass, registers; words of 16 bits."""
    return Hierarchy(
        "small",
        (
            Level("dram", None, 200, 200, shared_words_per_cycle=2),
            Level("buffer", 16 * buffer_words, 6, 7, 4, 4, may_bypass=bypass),
            Level("registers", 16 * register_words, 1, 2, axes=axes),
        ),
        mac_pj=1.0,
    )


def h3() -> Hierarchy:
    axes = (Axis("x", 16), Axis("y", 16))
    return Hierarchy(
        "h3",
        (
            Level("dram", None, 200, 200, shared_words_per_cycle=8),
            Level("buffer", 8 << 20, 6, 6, 64, 64, may_bypass=("all",)),
            Level("registers", 128 * 16, 1, 1, axes=axes),
        ),
        mac_pj=1.0,
    )


@st.composite
def stated_mappings(
    draw: st.DrawFn,
) -> tuple[
    dict[str, int], list[dict[str, int]], list[dict[str, int]], list[tuple[str, ...]], tuple[str, ...]
]:
    sizes = {rank: draw(SIZES) for rank in "mnk"}
    tiles = [sizes]
    for _ in range(2):
        tiles.append({rank: draw(st.integers(1, tiles[-1][rank])) for rank in sizes})
    spreads = [{}, {rank: draw(st.integers(1, 3)) for rank in sizes}, {}]
    orders = [tuple(draw(st.permutations("mnk"))) for _ in range(3)]
    keeps = tuple(draw(st.sets(st.sampled_from("ABC"))))
    return sizes, tiles, spreads, orders, keeps


@settings(max_examples=150)
@given(stated_mappings())
def test_counted_accesses_and_cycles_are_those_of_the_loops_walked(given_mapping) -> None:  # type: ignore[no-untyped-def]
    sizes, tiles, spreads, orders, keeps = given_mapping
    axes = (Axis("x", 3), Axis("y", 3), Axis("z", 3))
    machine = hierarchy(axes=axes)
    stated = {
        "buffer": StatedLevel(tiles[1], orders[0], keeps),
        "registers": StatedLevel(
            tiles[2], orders[1], None, {a: {r: spreads[1][r]} for a, r in zip("xyz", "mnk", strict=True)}
        ),
    }
    found = score(gemm(sizes["m"], sizes["n"], sizes["k"]), machine, stated)
    tensors = {"A": ("m", "k"), "B": ("k", "n"), "C": ("m", "n")}
    walk = Walk(tiles, spreads, orders, tensors, [(), keeps, ("A", "B", "C")])
    names = [level.name for level in machine.levels]
    ours = {(names.index(a.level), a.tensor): (a.read_words, a.written_words) for a in found.accesses}
    plain = {key: pair for key, pair in walk.accesses("C").items() if any(pair)}
    assert ours == plain
    ports = [
        sum(r + w for (level, _), (r, w) in plain.items() if level == 0) / 2,
        sum(r for (level, _), (r, _) in plain.items() if level == 1) / 4,
        sum(w for (level, _), (_, w) in plain.items() if level == 1) / 4,
    ]
    assert found.cycles == max(walk.busy_cycles(), *ports)
    prices = ((200, 200), (6, 7), (1, 2))
    energy = sum(r * prices[i][0] + w * prices[i][1] for (i, _), (r, w) in plain.items())
    assert found.energy_pj == pytest.approx(energy + prod(sizes.values()))


def problems(draw: random.Random) -> Contraction:
    """A product, a batch of products, or a window that slides."""
    kind = draw.choice(("gemm", "gemm", "batch", "window"))
    if kind == "gemm":
        m, n, k = draw.sample((1, 2, draw.randint(2, 4), draw.randint(2, 6)), 3)
        return gemm(m, n, k)
    if kind == "batch":
        sizes = (("b", 2), ("m", draw.randint(1, 3)), ("k", draw.randint(1, 3)))
        a, x, y = (
            ((("b", 1),), (("m", 1),), (("k", 1),)),
            ((("b", 1),), (("k", 1),)),
            ((("b", 1),), (("m", 1),)),
        )
        return Contraction("batch", sizes, (Operand("A", a, 16), Operand("B", x, 16)), Operand("C", y, 16))
    sizes = (("p", draw.randint(2, 4)), ("r", draw.randint(2, 3)))
    image, taps, out = ((("p", draw.randint(1, 2)), ("r", 1)),), ((("r", 1),),), ((("p", 1),),)
    return Contraction(
        "window", sizes, (Operand("A", image, 16), Operand("B", taps, 16)), Operand("C", out, 16)
    )


def small_case(seed: int) -> tuple[Contraction, Hierarchy, str]:
    draw = random.Random(seed)
    axes = tuple(
        Axis(name, draw.randint(1, 3), multicast=draw.random() < 0.7, reduction=draw.random() < 0.7)
        for name in draw.choice(("", "x"))
    )
    bypass = draw.choice(((), ("A",), ("outputs",)))
    machine = Hierarchy(
        "random",
        (
            Level("dram", None, 50, 60, shared_words_per_cycle=draw.choice((0.5, 2, 8))),
            Level(
                "buffer", 16 * draw.randint(4, 40), 4, 5, 2, draw.choice((1, 4)), may_bypass=bypass,
                buffering=draw.choice(("ideal", "double", "single")),
            ),
            Level("registers", 16 * draw.randint(4, 12), 1, 1, axes=axes),
        ),
        mac_pj=1.0,
        rest_pj_per_cycle=draw.choice((0.0, 3.0)),
    )  # fmt: skip
    return problems(draw), machine, draw.choice(("latency", "energy", "edp", "mix"))


def every_mapping(problem: Contraction, machine: Hierarchy, tiles: str) -> Iterator[dict[str, StatedLevel]]:
    """All tiles, orders, positions and ways to keep tensors, with nothing left out."""
    sizes = dict(problem.sizes)
    ranks = list(sizes)
    chains = {}
    for rank, size in sizes.items():
        outer = tiles_of(size, tiles)  # type: ignore[arg-type]
        pairs = [(a, b) for a in outer for b in outer if b <= a]
        chains[rank] = [(a, b) for a, b in pairs if tiles != "divisors" or a % b == 0]
    axis = machine.levels[2].axes
    n_positions = axis[0].size if axis else 1
    spots = [f for f in product(*(range(1, n_positions + 1) for _ in ranks)) if prod(f) <= n_positions]
    names = [o.name for o in problem.operands]
    may = [
        n
        for n in names
        if n in machine.levels[1].may_bypass or (n == "C" and "outputs" in machine.levels[1].may_bypass)
    ]
    keeps = [tuple(names)] + [tuple(n for n in names if n not in may)] * bool(may)
    for chain in product(*(chains[rank] for rank in ranks)):
        first = {r: a for r, (a, _) in zip(ranks, chain, strict=True)}
        second = {r: b for r, (_, b) in zip(ranks, chain, strict=True)}
        for spot in spots:
            here = dict(zip(ranks, spot, strict=True))
            if any(n > sizes[r] for r, n in here.items()):
                continue
            if tiles == "divisors" and any(first[r] % (second[r] * here[r]) for r in ranks):
                continue
            tau = {r: min(second[r] * here[r], first[r]) for r in ranks}
            outer = permutations([r for r in ranks if first[r] < sizes[r]])
            inner = list(permutations([r for r in ranks if tau[r] < first[r]]))
            for order, within in product(outer, inner):
                for kept in keeps:
                    spread = {"x": {r: n for r, n in here.items() if n > 1}} if axis else {}
                    yield {
                        "buffer": StatedLevel(first, order, kept),
                        "registers": StatedLevel(second, within, None, spread),
                    }


def optimum_by_hand(problem: Contraction, machine: Hierarchy, objective: str, tiles: str) -> float | None:
    """The least cost over all mappings, None if none fits."""
    costs = []
    for stated in every_mapping(problem, machine, tiles):
        try:
            one = score(problem, machine, stated)
        except MappingError:
            continue
        measure = {
            "latency": one.cycles,
            "energy": one.energy_pj,
            "edp": one.energy_pj * one.cycles,
            "mix": 5 * one.cycles + one.energy_pj,
        }
        costs.append(measure[objective])
    return min(costs, default=None)


@pytest.mark.parametrize(
    ("tiles", "first", "n_cases"), [("divisors", 0, 80), ("remainders", 1000, 70), ("all", 2000, 60)]
)
def test_the_certified_optimum_is_that_of_brute_force(tiles: str, first: int, n_cases: int) -> None:
    n_compared, n_found = 0, 0
    for seed in range(first, first + 10 * n_cases):
        problem, machine, objective = small_case(seed)
        if n_compared == n_cases or len(list(islice(every_mapping(problem, machine, tiles), 251))) > 250:
            continue  # brute force is to stay quick
        n_compared += 1
        least = optimum_by_hand(problem, machine, objective, tiles)
        if least is None:
            with pytest.raises(MappingError, match=r"bytes|no mapping fits"):
                map_onto(problem, machine, objective, tiles, 5.0, 1.0)  # type: ignore[arg-type]
            continue
        found = map_onto(problem, machine, objective, tiles, 5.0, 1.0)  # type: ignore[arg-type]
        assert found.certificate is not None
        assert found.certificate.value == pytest.approx(least, rel=1e-9), (seed, objective)
        n_found += 1
    assert n_compared == n_cases
    assert n_found >= 0.9 * n_cases


@pytest.mark.parametrize(("step", "proven"), [(1, True), (2, False)])
def test_a_strided_window_is_mapped_but_not_certified(step: int, proven: bool) -> None:
    image, taps, out = ((("p", step), ("r", 1)),), ((("r", 1),),), ((("p", 1),),)
    window = Contraction(
        "window",
        (("p", 4), ("r", 3)),
        (Operand("A", image, 16), Operand("B", taps, 16)),
        Operand("C", out, 16),
    )
    assert map_onto(window, h3(), "energy", "divisors").certificate.optimal is proven


def test_the_product_of_1024_4096_and_1024_moves_its_least_words() -> None:
    """Half of A stays in the buffer, B is read twice, C written once: 1,048,576 + 2 x 4,194,304 + 4,194,304."""
    found = map_onto(gemm(1024, 4096, 1024), h3(), "energy", "divisors")
    assert found.cycles == 1024 * 4096 * 1024 / 256
    assert found.backing_words == 13_631_488
    assert found.energy_pj <= 2.6091e10
    assert found.certificate is not None
    assert found.certificate.optimal


def test_wrong_mappings_are_refused_in_one_line() -> None:
    problem, machine = gemm(8, 8, 8), hierarchy(32, 16, (Axis("x", 4),))
    cases = (
        ({"buffer": StatedLevel({"m": 8})}, "level 'buffer': its tiles take 384 bytes, the level has 64"),
        ({"buffer": StatedLevel({"q": 8})}, "rank 'q' is unknown"),
        ({"buffer": StatedLevel({"m": 0})}, "tile of 'm' must be > 0, got 0"),
        ({"bufer": StatedLevel({})}, "no level 'bufer' .did you mean 'buffer'"),
        ({"buffer": StatedLevel({"m": 1, "n": 1, "k": 1}), "registers": StatedLevel({}, (), None, {"x": {"m": 8}})},
         "axis 'x' has 4 positions, the mapping takes 8"),
    )  # fmt: skip
    for stated, message in cases:
        with pytest.raises(InputError, match=message):
            score(problem, machine, stated)
    with pytest.raises(
        MappingError, match="one element of each tensor takes 6 bytes, level 'registers' has 4"
    ):
        map_onto(problem, hierarchy(32, 2), "latency", "divisors")
    with pytest.raises(InputError, match="multiply-accumulates, the limit"):
        gemm(1 << 30, 1 << 30, 1 << 30)
    with pytest.raises(InputError, match="objective 'speed' is unknown"):
        map_onto(problem, machine, "speed")  # type: ignore[arg-type]
