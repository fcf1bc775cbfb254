"""The family sequential on graphs of every sort: gathers, windows, recurrences, and random ones."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.dataflow_graphs import graphs
from tests.sequential_cases import architecture
from tilewright.dataflow.errors import InputError
from tilewright.dataflow.graph import Graph, LayerClass
from tilewright.dataflow.operator import Access, Index, IndexTerm, Kind, Operator
from tilewright.dataflow.program import Transfer
from tilewright.dataflow.tensor import Role, Tensor
from tilewright.sim.architecture import Architecture, BufferMemory
from tilewright.sim.design import Design
from tilewright.sim.evaluate import LayerRun, evaluate, run_layer


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


def convolution(height: int, channels: int, step: int) -> Graph:
    """y[i, j, o] = x[step i + u - 1, step j + v - 1, c] w[u, v, c, o], 3 x 3 windows over a padded square."""
    size = height // step

    def moved(rank: str, tap: str) -> Index:
        return Index((IndexTerm(rank, step), IndexTerm(tap)), -1)

    x = Access("x", (moved("i", "u"), moved("j", "v"), Index.of("c")))
    product = Operator(
        "conv", Kind.CONTRACTION, Access.of("y", "i", "j", "o"), (x, Access.of("w", "u", "v", "c", "o")),
        "mul", "sum", "conv",
    )  # fmt: skip
    return Graph(
        "conv",
        (("i", size), ("j", size), ("h", height), ("g", height), ("u", 3), ("v", 3), ("c", channels),
         ("o", channels)),
        (
            Tensor("x", ("h", "g", "c"), "int8", Role.ACTIVATION),
            Tensor("w", ("u", "v", "c", "o"), "int8", Role.WEIGHT),
            Tensor("y", ("i", "j", "o"), "int8", Role.ACTIVATION),
        ),
        (product,), ("x", "w"), ("y",),
    )  # fmt: skip


def test_a_convolution_reads_its_image_once_where_it_fits() -> None:
    for step in (1, 2):
        run = ran(convolution(16, 8, step), input_buffer_kib=64)
        assert run.counts.n_macs == (16 // step) ** 2 * 9 * 8 * 8
        assert run.counts.dram_read_bytes == 16 * 16 * 8 + 9 * 8 * 8


def test_a_convolution_in_tiles_reads_the_rows_between_them_twice() -> None:
    """56 x 56 x 64 bytes in 16 KiB: tiles of rows with one row of halo above and below, not nine images."""
    graph = convolution(56, 64, 1)
    run = ran(graph, input_buffer_kib=16)
    image = 56 * 56 * 64
    (load,) = (
        nest for nest in run.program.nests
        if isinstance(nest.leaf, Transfer) and nest.leaf.tensor == "x"
    )  # fmt: skip
    assert image < run.counts.tensor_read_bytes["x"] < 4 * image
    held = dict(load.leaf.tile)
    assert held["h"] * held["g"] * held["c"] * 2 <= 16 * 1024


def pooled_classifier(tokens: int, width: int) -> Graph:
    """z[v] = mean over tokens of x[t, d], times w[d, v]; the mean has the width of sums."""
    mean = Operator(
        "pool", Kind.REDUCTION, Access.of("pooled", "d"), (Access.of("x", "t", "d"),), reduce="mean",
        group="head",
    )  # fmt: skip
    inputs = (Access.of("pooled", "d"), Access.of("w", "d", "v"))
    product = Operator("classify", Kind.CONTRACTION, Access.of("z", "v"), inputs, "mul", "sum", "head")
    return Graph(
        "head", (("t", tokens), ("d", width), ("v", 10)),
        (
            Tensor("x", ("t", "d"), "int8", Role.ACTIVATION),
            Tensor("pooled", ("d",), "int32", Role.ACTIVATION),
            Tensor("w", ("d", "v"), "int8", Role.WEIGHT),
            Tensor("z", ("v",), "int8", Role.ACTIVATION),
        ),
        (mean, product), ("x", "w"), ("z",),
    )  # fmt: skip


def test_sums_that_enter_a_product_are_requantised_once_per_element() -> None:
    """64 means, each brought to 8 bits; the 10 results of the product make 10 more."""
    run = ran(pooled_classifier(49, 64))
    evaluations = {name: count for (_, name), count in run.counts.evaluations.items()}
    assert evaluations == {"mean": 49 * 64, "requantize": 64 + 10}
    assert run.counts.n_macs == 64 * 10
    assert [stage.name for stage in run.program.stages] == ["pooled_narrow_requantise", "classify"]
    assert run.counts.tensor_write_bytes == {"pooled_narrow": 64, "z": 10}


def recurrence(tokens: int, channels: int, states: int) -> Graph:
    """s[m, j, z] = a[m, j] r[j, z] s[m - 1, j, z] + b[m, j], y[m, j] = s c summed over z; keeps the last s."""
    every = ("m", "j", "z")
    past = Access("s", (Index((IndexTerm("m"),), -1), Index.of("j"), Index.of("z")))
    last = Access("s", (Index(offset=tokens - 1), Index.of("j"), Index.of("z")))
    operators = (
        Operator("spread", Kind.POINTWISE, Access.of("d", *every),
                 (Access.of("a", "m", "j"), Access.of("r", "j", "z")), "mul"),
        Operator("step", Kind.SCAN, Access.of("s", *every),
                 (past, Access.of("d", *every), Access.of("b", "m", "j")), "mul_add", serial_rank="m",
                 parameters=(("init_0", 0.0),)),
        Operator("keep", Kind.SCATTER, Access.of("kept", "j", "z"), (last,)),
        Operator("read", Kind.CONTRACTION, Access.of("y", "m", "j"),
                 (Access.of("s", *every), Access.of("c", "m", "z")), "mul", "sum", serial_rank="m"),
    )  # fmt: skip
    shapes = {
        "a": ("m", "j"), "b": ("m", "j"), "r": ("j", "z"), "c": ("m", "z"), "d": every, "s": every,
        "kept": ("j", "z"), "y": ("m", "j"),
    }  # fmt: skip
    tensors = tuple(Tensor(name, ranks, "int8", Role.ACTIVATION) for name, ranks in shapes.items())
    sizes = (("m", tokens), ("j", channels), ("z", states))
    return Graph("scan", sizes, tensors, operators, ("a", "b", "r", "c"), ("y", "kept"))


def test_a_recurrence_keeps_its_state_on_chip_and_fills_the_lanes() -> None:
    """64 tokens of 256 x 16 states on 64 lanes: 64 passes a token for each of three functions, with at most one
    startup a token; only inputs, results and the last state pass through DRAM."""
    run = ran(recurrence(64, 256, 16), vector_lanes=64)
    assert [stage.name for stage in run.program.stages] == ["read"]
    assert run.counts.dram_read_bytes == 2 * 64 * 256 + 256 * 16 + 64 * 16
    assert run.counts.dram_write_bytes == 64 * 256 + 256 * 16
    busy = dict(run.timing.busy_cycles)["vector"]
    assert 64 * 64 * 3 <= busy <= 64 * (64 * 3 + 8)


def test_a_step_with_less_work_than_lanes_waits_for_the_step_before() -> None:
    """100 tokens of 4 x 2 states: one pass each for three functions, and the startup every time."""
    run = ran(recurrence(100, 4, 2), vector_lanes=64)
    assert dict(run.timing.busy_cycles)["vector"] == 100 * (8 + 3)


def test_a_depthwise_convolution_is_vector_work() -> None:
    """Every weight meets each input once per channel: 512 x 96 x 4 multiply-accumulates on the lanes."""
    position = Index((IndexTerm("o"), IndexTerm("u")), -3)
    x = Access("x", (position, Index.of("j")))
    conv = Operator(
        "conv", Kind.CONTRACTION, Access.of("y", "o", "j"), (x, Access.of("w", "u", "j")), "mul", "sum"
    )
    tensors = tuple(
        Tensor(name, ranks, "int8", Role.ACTIVATION)
        for name, ranks in (("x", ("o", "j")), ("w", ("u", "j")), ("y", ("o", "j")))
    )
    graph = Graph("conv", (("o", 512), ("u", 4), ("j", 96)), tensors, (conv,), ("x", "w"), ("y",))
    run = ran(graph)
    assert run.counts.evaluations == {("vector", "mac"): 512 * 96 * 4}
    assert run.counts.n_macs == 0
    whole = 512 * 96 + 4 * 96
    assert whole <= run.counts.dram_read_bytes < 1.1 * whole  # tiles of rows read three rows of halo again


def test_two_products_with_a_map_between_are_no_attention() -> None:
    """y = relu(x a) b reads every operand once and each product has its stage."""
    shapes = {
        "x": ("m", "d"),
        "a": ("d", "i"),
        "h": ("m", "i"),
        "r": ("m", "i"),
        "b": ("i", "f"),
        "y": ("m", "f"),
    }
    tensors = tuple(Tensor(name, ranks, "int8", Role.ACTIVATION) for name, ranks in shapes.items())
    access = {name: Access.of(name, *ranks) for name, ranks in shapes.items()}
    operators = (
        Operator("up", Kind.CONTRACTION, access["h"], (access["x"], access["a"]), "mul", "sum"),
        Operator("relu", Kind.POINTWISE, access["r"], (access["h"],), "relu"),
        Operator("down", Kind.CONTRACTION, access["y"], (access["r"], access["b"]), "mul", "sum"),
    )
    sizes = (("m", 64), ("d", 128), ("i", 256), ("f", 128))
    run = ran(Graph("ffn", sizes, tensors, operators, ("x", "a", "b"), ("y",)))
    assert [stage.name for stage in run.program.stages] == ["up", "down"]
    assert run.counts.dram_read_bytes == 64 * 128 + 128 * 256 + 64 * 256 + 256 * 128


def picked_product(n_rows: int, n_weights: int) -> Graph:
    """y[m, n] = x[m, k] w[choice[m], k, n], 32 wide."""
    shapes = {"x": ("m", "k"), "choice": ("m",), "w": ("v", "k", "n"), "y": ("m", "n")}
    roles = {"choice": Role.INDEX, "w": Role.WEIGHT}
    tensors = tuple(
        Tensor(name, ranks, "int32" if name == "choice" else "int8", roles.get(name, Role.ACTIVATION))
        for name, ranks in shapes.items()
    )
    picked = Access("w", (Index(), Index.of("k"), Index.of("n")))
    inputs = (Access.of("x", "m", "k"), picked, Access.of("choice", "m"))
    product = Operator("expert", Kind.CONTRACTION, Access.of("y", "m", "n"), inputs, "mul", "sum")
    after = Operator("relu", Kind.POINTWISE, Access.of("z", "m", "n"), (Access.of("y", "m", "n"),), "relu")
    tensors += (Tensor("z", ("m", "n"), "int8", Role.ACTIVATION),)
    sizes = (("m", n_rows), ("v", n_weights), ("k", 32), ("n", 32))
    return Graph("experts", sizes, tensors, (product, after), ("x", "choice", "w"), ("z",))


def test_rows_that_pick_the_same_weights_share_them() -> None:
    """12 rows over 4 weights: 3 rows each and every weight read once; 2 rows pick 2 of 4 weights."""
    for n_rows, n_read in ((12, 4), (2, 2)):
        run = ran(picked_product(n_rows, 4))
        assert [stage.name for stage in run.program.stages] == ["expert", "relu"]
        assert run.counts.n_macs == n_rows * 32 * 32
        assert run.counts.tensor_read_bytes["w"] == n_read * 32 * 32
        times = {nest.name: nest for nest in run.timing.nests}
        assert times["relu_load_input"].start_cycle >= times["expert_store"].end_cycle


def pooling(height: int, width: int, channels: int) -> Graph:
    """y[c] = mean of x[i, j, c] over both ranks of the image."""
    access = (Access.of("x", "i", "j", "c"),)
    pool = Operator("pool", Kind.REDUCTION, Access.of("y", "c"), access, reduce="mean")
    tensors = (
        Tensor("x", ("i", "j", "c"), "int8", Role.ACTIVATION),
        Tensor("y", ("c",), "int32", Role.ACTIVATION),
    )
    sizes = (("i", height), ("j", width), ("c", channels))
    return Graph("pool", sizes, tensors, (pool,), ("x",), ("y",))


def shrunk(capacity_bytes: int) -> Architecture:
    """The default with buffers of so many bytes each, smaller than the space has them."""
    built = architecture()
    components = tuple(
        replace(part, capacity_bytes=capacity_bytes) if isinstance(part, BufferMemory) else part
        for part in built.components
    )
    return replace(built, components=components)


@pytest.mark.parametrize("capacity_bytes", [64, 1024, 16384])
def test_a_row_that_does_not_fit_is_reduced_piece_by_piece(capacity_bytes: int) -> None:
    """120 x 100 positions per channel; every element is read once and every mean written once."""
    run = run_layer(pooling(120, 100, 8), shrunk(capacity_bytes))
    assert run.counts.dram_read_bytes == 120 * 100 * 8
    assert run.counts.dram_write_bytes == 4 * 8
    assert run.counts.n_evaluations == 120 * 100 * 8


def test_where_nothing_fits_the_refusal_names_operator_buffer_and_bytes() -> None:
    """8 bytes hold two copies, of which each has 3 bytes of sums and 1 of results; a mean takes 4."""
    with pytest.raises(InputError) as error:
        run_layer(pooling(12, 10, 8), shrunk(8))
    message = str(error.value)
    assert "operator 'pool'" in message
    assert "'y' takes 4 bytes of the output buffer" in message
    assert "\n" not in message


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
        refusal = str(error)
    else:
        refusal = ""
    assert "\n" not in refusal
    assert "cannot be run" not in refusal
    if refusal:
        return
    assert run.timing.latency_cycles > 0
    staged = [name for stage in run.program.stages for name in stage.operators]
    assert len(set(staged)) == len(staged)


def test_a_product_copied_along_a_rank_of_neither_operand_runs_on_the_lanes() -> None:
    sizes = (("b", 4), ("m", 8), ("n", 8), ("k", 8))
    tensors = (
        Tensor("A", ("m", "k"), "int8", Role.ACTIVATION),
        Tensor("W", ("k", "n"), "int8", Role.WEIGHT),
        Tensor("C", ("b", "m", "n"), "int32", Role.ACTIVATION),
    )
    inputs = (Access.of("A", "m", "k"), Access.of("W", "k", "n"))
    product = Operator("c", Kind.CONTRACTION, Access.of("C", "b", "m", "n"), inputs, "mul", "sum")
    graph = Graph("copied", sizes, tensors, (product,), ("A", "W"), ("C",))
    found = evaluate((LayerClass("copied", graph, 1),), Design("sequential", "asic7", {}))
    assert found.macs_computed == found.macs == 4 * 8 * 8 * 8
