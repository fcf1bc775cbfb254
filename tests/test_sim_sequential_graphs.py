"""The family sequential on graphs of every sort: gathers, windows, recurrences, and random ones."""

from hypothesis import given
from hypothesis import strategies as st

from tests.dataflow_graphs import graphs
from tests.sequential_cases import architecture
from tilewright.dataflow.errors import InputError
from tilewright.dataflow.graph import Graph
from tilewright.dataflow.operator import Access, Index, Kind, Operator
from tilewright.dataflow.tensor import Role, Tensor
from tilewright.sim.evaluate import LayerRun, run_layer


def ran(graph: Graph, **parameters: int | float | str | bool) -> LayerRun:
    return run_layer(graph, architecture(**parameters))


def two_gathers(n: int, width: int) -> Graph:
    """y[m] = words[numbers[m]] + kinds[types[m]], rows of `width`."""
    tensors = [Tensor("numbers", ("m",), "int32", Role.INDEX), Tensor("types", ("m",), "int32", Role.INDEX)]
    operators = []
    for name, numbers in (("words", "numbers"), ("kinds", "types")):
        tensors.append(Tensor(name, ("v", "d"), "int8", Role.WEIGHT))
        tensors.append(Tensor(f"{name}_rows", ("m", "d"), "int8", Role.ACTIVATION))
        picked = Access(name, (Index(), Index.of("d")))
        output = Access.of(f"{name}_rows", "m", "d")
        operators.append(Operator(f"pick_{name}", Kind.GATHER, output, (Access.of(numbers, "m"), picked)))
    tensors.append(Tensor("y", ("m", "d"), "int8", Role.ACTIVATION))
    terms = (Access.of("words_rows", "m", "d"), Access.of("kinds_rows", "m", "d"))
    operators.append(Operator("sum", Kind.POINTWISE, Access.of("y", "m", "d"), terms, "add"))
    return Graph(
        "embed", (("m", n), ("d", width), ("v", 1000)), tuple(tensors), tuple(operators),
        ("numbers", "types", "words", "kinds"), ("y",),
    )  # fmt: skip


def test_two_gathers_feed_one_addition_side_by_side() -> None:
    """300 rows of 64 bytes from each table and 4 bytes to pick each; many tiles in a small buffer."""
    for kib in (16, 256):
        run = ran(two_gathers(300, 64), input_buffer_kib=kib, output_buffer_kib=16)
        assert [stage.name for stage in run.program.stages] == ["sum"]
        assert run.counts.dram_read_bytes == 2 * 300 * (64 + 4)
        assert run.counts.dram_write_bytes == 300 * 64


@given(graph=graphs(), fusion=st.booleans(), attention=st.sampled_from(("one_pass", "three_pass")),
       depth=st.sampled_from((1, 2, 4)), kib=st.sampled_from((16, 64)))  # fmt: skip
def test_no_graph_ends_in_anything_but_a_result_or_one_line(
    graph: Graph, fusion: bool, attention: str, depth: int, kib: int
) -> None:
    built = architecture(
        precision="int16", fusion=fusion, attention=attention, prefetch_depth=depth, input_buffer_kib=kib
    )
    try:
        run = run_layer(graph, built)
    except InputError as error:
        assert "\n" not in str(error)
        assert "cannot be run" not in str(error)
        return
    assert run.timing.latency_cycles > 0
    staged = [name for stage in run.program.stages for name in stage.operators]
    assert len(set(staged)) == len(staged)
