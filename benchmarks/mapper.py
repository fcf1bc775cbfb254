"""CPU time of the mapper onto declared hierarchies, and the figures of its answers.

    python benchmarks/mapper.py [--remainders]

Every line is measured with kernels compiled and nothing remembered. Goals: the product with divisor tiles 20 ms, with
all remainders 200 ms; fused attention 50 ms; a GPT-2 medium block 100 ms; a million evaluations a second.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tilewright.dataflow.cascade import load_cascade
from tilewright.maps import load_hierarchy
from tilewright.sim import mapper_fused, mapper_graph, mapper_onto, mapspace, mapspace_spread
from tilewright.sim.hierarchy import Hierarchy
from tilewright.sim.mapper_search import choices_of
from tilewright.sim.mapper_search_kernel import evaluations, place, table_end
from tilewright.sim.mapper_tables import Tables
from tilewright.sim.mapspace import map_space
from tilewright.sim.mapspace_kernel import new_state
from tilewright.sim.mapspace_problem import gemm
from tilewright.workloads.workload import load_workload

ROOT = Path(__file__).resolve().parents[1]
MEMORIES = (
    mapper_onto.map_onto,
    mapper_onto._found,
    mapper_fused.map_fused,
    mapper_graph._mapped,
    mapspace.loop_orders,
    mapspace_spread._spreads,
)


def measured(name: str, work: Callable[[], object]) -> None:
    """Print the CPU time of a call and what it answers."""
    for memory in MEMORIES:
        memory.cache_clear()
    start = time.process_time()
    answer = work()
    spent_ms = 1e3 * (time.process_time() - start)
    cycles, energy = answer.cycles, answer.energy_pj  # type: ignore[attr-defined]
    words = answer.backing_words  # type: ignore[attr-defined]
    print(f"{name:44} {spent_ms:9.1f} ms   {cycles:14,.0f} cycles   {energy:.6g} pJ   {words:14,.0f} words")


def rate(hierarchy: Hierarchy, n: int = 2_000_000) -> float:
    """Whole mappings priced a CPU second, nothing pruned: random tiles and positions of every rank."""
    space = map_space(gemm(1024, 4096, 1024), hierarchy, "divisors")
    choice = next(iter(choices_of(space)))
    state, tables = new_state(space.arrays), Tables(space.arrays)
    for r in range(3):
        place(space.arrays, state, r, 1, int(space.arrays.sizes[r]), 1)
    starts, _, n_options = tables.of_stage(choice, state, 2, 2, np.zeros(3, np.int64))
    draw = np.random.default_rng(1)
    picks = np.empty((n, 3), np.int64)
    for r in range(3):
        n_rows = int(n_options[r]) * (2 * table_end(space.arrays, 2, r) + 1)
        rows = starts[r] + np.flatnonzero(tables.loops[starts[r] : starts[r] + n_rows] >= 0)
        picks[:, r] = draw.choice(rows, n)
    work = (space.arrays, choice, state, 2, picks, tables.facts, tables.loops)
    evaluations(*work)
    start = time.process_time()
    evaluations(*work)
    return n / (time.process_time() - start)


def main() -> None:
    hierarchy = load_hierarchy(ROOT / "examples" / "hierarchies" / "h3.yaml")
    mapper_onto.map_onto(gemm(8, 8, 8), hierarchy, "energy", "divisors")  # compiles
    for objective in ("energy", "latency"):
        measured(
            f"1024 x 4096 x 1024, divisors, {objective}",
            lambda o=objective: mapper_onto.map_onto(gemm(1024, 4096, 1024), hierarchy, o, "divisors"),
        )
    if "--remainders" in sys.argv:
        measured(
            "1024 x 4096 x 1024, remainders, energy",
            lambda: mapper_onto.map_onto(gemm(1024, 4096, 1024), hierarchy, "energy", "remainders"),
        )
    sizes = {"b": 1, "h": 16, "hkv": 16, "m": 1024, "n": 1024, "e": 64, "f": 64}
    attention = load_cascade("attention_three_pass").bind(sizes)
    group = mapper_fused.group_of(attention, [operator.name for operator in attention.operators])
    for objective in ("energy", "latency"):
        measured(
            f"fused attention, {objective}",
            lambda o=objective: mapper_fused.map_fused(group, hierarchy, o, "divisors"),
        )
    network = load_workload(ROOT / "examples" / "gpt2_medium", phase="prefill", seq=1024).network
    block = max(network, key=lambda layer: layer.count).graph
    for objective in ("energy", "latency"):
        measured(
            f"GPT-2 medium block, {objective}",
            lambda o=objective: mapper_graph.map_layer(block, hierarchy, o, "divisors"),
        )
    print(f"evaluations a CPU second, nothing pruned: {rate(hierarchy):,.0f}")


if __name__ == "__main__":
    main()
