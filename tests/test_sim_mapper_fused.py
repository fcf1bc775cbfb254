"""Fused groups on a hierarchy: what crosses the edge, what must fit, and whole layers."""

from dataclasses import replace
from functools import cache

import pytest

from tests.test_sim_mapper_onto import h3
from tilewright.dataflow.cascade import load_cascade
from tilewright.dataflow.errors import InputError
from tilewright.dataflow.graph import Graph
from tilewright.sim.hierarchy import Hierarchy, VectorLanes
from tilewright.sim.mapper_fused import FusedObjective, group_of, map_fused
from tilewright.sim.mapper_graph import map_layer
from tilewright.sim.mapper_onto import map_onto
from tilewright.sim.mapping import MappingError
from tilewright.sim.mapspace_problem import contraction_of


def machine(buffer_bytes: int = 1 << 20) -> Hierarchy:
    plain = h3()
    dram, buffer, registers = plain.levels
    levels = (dram, replace(buffer, capacity_bits=8 * buffer_bytes), registers)
    return replace(plain, levels=levels, element_bits=16, vector=VectorLanes(64, 1, "buffer"))


@cache
def attention(m: int = 1024, n: int = 1024, heads: int = 16) -> Graph:
    sizes = {"b": 1, "h": heads, "hkv": heads, "m": m, "n": n, "e": 64, "f": 64}
    return load_cascade("attention_three_pass").bind(sizes)


@pytest.mark.parametrize("objective", ["energy", "latency"])
def test_fused_attention_moves_queries_keys_values_and_results_once(objective: FusedObjective) -> None:
    graph = attention()
    found = map_fused(group_of(graph, [o.name for o in graph.operators]), machine(), objective)
    crossed = {name: read + written for name, read, written in found.crossing}
    assert crossed == dict.fromkeys(("Q", "K", "V", "AV"), 16 * 1024 * 64)
    assert found.certificate.optimal
    assert found.vector_cycles == 5 * 16 * 1024 * 1024 / 64
    if objective == "latency":
        assert found.cycles == 2 * 16 * 1024 * 1024 * 64 / 256


def test_the_tile_of_queries_is_what_fits_beside_the_keys() -> None:
    """Keys and values take 2 x 64 x 64 words, a row of queries 64, of results 64, of scores and their
    exponentials 2 x 64: there is room for 32 rows. A buffer that does not hold one head's keys refuses."""
    graph = attention(64, 64, 1)
    group = group_of(graph, [o.name for o in graph.operators])
    found = map_fused(group, machine(2 * (2 * 64 * 64 + 32 * 256)), "energy")
    assert [loop[1] for loop in found.loops if loop[0] == "m"] <= [32]
    assert found.backing_words == 4 * 64 * 64
    with pytest.raises(MappingError, match=r"not even a tile of one .* fits level 'buffer' of 8192 bytes"):
        map_fused(group, machine(8192), "energy")


def test_a_group_costs_no_less_than_its_contractions_with_nothing_to_fetch() -> None:
    graph = attention(128, 128, 2)
    found = map_fused(group_of(graph, [o.name for o in graph.operators]), machine(), "energy")
    parts = sum(nest.energy_pj for nest in found.nests)
    edge = found.backing_words * (200 + 6)
    assert found.energy_pj > parts
    assert found.energy_pj > edge


def test_a_layer_is_divided_so_that_no_single_operator_would_be_cheaper_alone() -> None:
    graph = attention(128, 128, 2)
    layer = map_layer(graph, machine(), "energy")
    alone = sum(
        map_onto(contraction_of(graph, o), machine(), "energy", "divisors").energy_pj
        if o.kind == "contraction"
        else map_fused(group_of(graph, [o.name]), machine(), "energy").energy_pj
        for o in graph.operators
    )
    assert layer.optimal
    assert layer.energy_pj <= alone
    assert layer.backing_words == 4 * 2 * 128 * 64


def test_wrong_groups_are_refused_in_one_line() -> None:
    graph = attention(64, 64, 1)
    with pytest.raises(InputError, match="operator 'QKK' is unknown"):
        group_of(graph, ["QKK"])
    group = group_of(graph, [o.name for o in graph.operators])
    with pytest.raises(InputError, match="has no vector unit"):
        map_fused(group, h3(), "energy")
    with pytest.raises(InputError, match="latency or energy, got 'edp'"):
        map_fused(group, machine(), "edp")  # type: ignore[arg-type]
