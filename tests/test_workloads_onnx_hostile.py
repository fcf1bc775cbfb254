"""Wrong and hostile ONNX files: one line, nothing but InputError, bounded time and memory."""

import random
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper

from tests.onnx_models import decoder, floats, ints, node, save
from tilewright.dataflow.errors import InputError
from tilewright.workloads.count import count
from tilewright.workloads.workload import load_workload

F = TensorProto.FLOAT
_NUMBERS = (0, -1, 1, 2, 7, 2**31, 2**40, 2**63 - 1, -(2**63))


def _refusal(file: Path, **terms: Any) -> str:
    with pytest.raises(InputError) as error:
        load_workload(file, **terms)
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 600
    assert message.startswith(str(file))
    return message.removeprefix(str(file))


@pytest.mark.parametrize("content", [b"", b"\x08", b"{}", b"not a model at all", bytes(range(256)) * 40])
def test_what_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "m.onnx"
    file.write_bytes(content)
    assert ": not an ONNX model" in _refusal(file)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    assert _refusal(tmp_path / "none.onnx") == ": no such file or directory"
    (tmp_path / "folder.onnx").mkdir()
    assert _refusal(tmp_path / "folder.onnx") == ": is a directory"


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(tmp_path: Path, share: float) -> None:
    content = decoder(tmp_path / "m.onnx", 1).read_bytes()
    (tmp_path / "m.onnx").write_bytes(content[: int(share * len(content))])
    assert ": not an ONNX model: truncated, or no protobuf file at all" in _refusal(tmp_path / "m.onnx")


def _changed(tmp_path: Path, change: Callable[[ModelProto], object]) -> Path:
    """A decoder of one layer, changed."""
    file = decoder(tmp_path / "m.onnx", 1)
    model = onnx.load(file)
    change(model)
    file.write_bytes(model.SerializeToString())
    return file


def _cycle(model: ModelProto) -> None:
    next(n for n in model.graph.node if n.output[0] == "n.0").input[0] = "d.0"


def _dim(size: int) -> Callable[[ModelProto], object]:
    def change(model: ModelProto) -> None:
        model.graph.initializer[0].dims[0] = size

    return change


def _input_dim(size: int) -> Callable[[ModelProto], object]:
    def change(model: ModelProto) -> None:
        model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = size

    return change


def _drop(name: str) -> Callable[[ModelProto], object]:
    def change(model: ModelProto) -> None:
        kept = [tensor for tensor in model.graph.initializer if tensor.name != name]
        del model.graph.initializer[:]
        model.graph.initializer.extend(kept)

    return change


def _external(location: str, **entries: str) -> Callable[[ModelProto], object]:
    def change(model: ModelProto) -> None:
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in {"location": location, **entries}.items():
            tensor.external_data.add(key=key, value=value)

    return change


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (_cycle, "stands in or behind a cycle"),
        (_drop("h.0.up.weight"), "reads 'h.0.up.weight', which nothing produces"),
        (_dim(-4), "tensor 'wte.weight' has a dimension of -4"),
        (_dim(2**62), "tensor 'wte.weight' has 7.38e+19 elements, at most"),
        (_dim(33), "tensor 'wte.weight' of shape [33, 16] holds 2048 bytes, not 2112"),
        (_input_dim(-1), "input 'tokens': dimension 1 is -1"),
        (_input_dim(2**60), "input 'tokens' has 1.15e+18 elements, at most"),
        (_input_dim(2**30), "out of bounds"),
        (lambda m: m.graph.node[0].ClearField("output"), "has no output"),
        (lambda m: m.graph.node.extend(m.graph.node[:1]), "writes 'x.0', which something else produces too"),
        (lambda m: m.graph.ClearField("output"), "the graph has no output"),
        (lambda m: m.graph.ClearField("node"), "its graph has no nodes"),
        (lambda m: setattr(m.graph.output[0], "name", "nowhere"), "output 'nowhere' is produced by nothing"),
        (lambda m: setattr(m.opset_import[0], "version", 9999), "wte.weight"),
        (lambda m: setattr(m.graph.initializer[0], "data_type", 999), "has the unknown data type 999"),
        (lambda m: m.graph.input[0].type.Clear(), "input 'tokens' is no tensor"),
        (_external("../weights.bin"), "its data file '../weights.bin' is no file inside the model's folder"),
        (_external("/etc/passwd"), "its data file '/etc/passwd' is no file inside the model's folder"),
        (_external(""), "its data file '' is no file inside the model's folder"),
        (_external("w.bin", offset="-8"), "got offset -8 and length 0"),
        (_external("w.bin", offset="many"), "offset and length of its data must be whole numbers"),
        (_external("w.bin", length="9999999999999"), "its data take 2048 bytes, got offset 0 and length"),
    ],
)
def test_a_wrong_model_is_refused_with_what_is_wrong(
    tmp_path: Path, change: Callable[[ModelProto], object], expected: str
) -> None:
    file = _changed(tmp_path, change)
    if expected == "wte.weight":  # a version that nobody knows yet may still be read
        load_workload(file)
    else:
        assert expected in _refusal(file)


def test_external_data_that_are_not_there_leave_shapes(tmp_path: Path) -> None:
    whole = count(load_workload(decoder(tmp_path / "m.onnx", 1)))
    assert count(load_workload(_changed(tmp_path, _external("w.bin")))) == whole


def test_external_data_behind_a_link_are_refused(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "w.bin").write_bytes(bytes(2048))
    folder = tmp_path / "inside"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path / "outside")
    assert "is no file inside the model's folder" in _refusal(_changed(folder, _external("link/w.bin")))


def _quickly(file: Path, **terms: Any) -> str:
    start = time.process_time()
    message = _refusal(file, **terms)
    assert time.process_time() - start < 5.0
    return message


def test_functions_that_call_each_other_are_bounded(tmp_path: Path) -> None:
    """25 functions of which each calls the next twice are 2^25 nodes."""
    file = save(
        tmp_path / "m.onnx", [helper.make_node("F0", ["x"], ["y"], domain="own")], {"x": (F, (2,))}, ["y"], {}
    )
    model = onnx.load(file)
    opset = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    for place in range(25):
        inner = f"F{place + 1}" if place < 24 else "Relu"
        domain = "own" if place < 24 else ""
        body = [helper.make_node(inner, [a], [b], domain=domain) for a, b in (("a", "b"), ("b", "c"))]
        model.functions.append(helper.make_function("own", f"F{place}", ["a"], ["c"], body, opset))
    file.write_bytes(model.SerializeToString())
    assert "more than 100000 nodes" in _quickly(file)


def test_a_function_that_calls_itself_is_refused(tmp_path: Path) -> None:
    file = save(
        tmp_path / "m.onnx", [helper.make_node("G", ["x"], ["y"], domain="own")], {"x": (F, (2,))}, ["y"], {}
    )
    model = onnx.load(file)
    body = [helper.make_node("G", ["a"], ["b"], domain="own")]
    model.functions.append(
        helper.make_function("own", "G", ["a"], ["b"], body, [helper.make_opsetid("own", 1)])
    )
    file.write_bytes(model.SerializeToString())
    assert "function 'G' is nested deeper than 32 calls" in _quickly(file)


def test_messages_nested_a_thousand_deep_are_refused(tmp_path: Path) -> None:
    content = b""
    for _ in range(
        1000
    ):  # ModelProto.graph.node.attribute.g.node ... : fields 7, then 1, 5, 6 of one another
        for tag in (0x32, 0x2A, 0x0A):
            content = bytes((tag,)) + _varint(len(content)) + content
    file = tmp_path / "m.onnx"
    file.write_bytes(b"\x3a" + _varint(len(content)) + content)
    _quickly(file)


def _varint(number: int) -> bytes:
    found = b""
    while number > 127:
        found += bytes((number & 127 | 128,))
        number >>= 7
    return found + bytes((number,))


@pytest.mark.parametrize(
    "nodes",
    [
        [node("ConstantOfShape", "big", "t"), node("Add", "x t", "y")],
        [node("Expand", "x big", "t"), node("Expand", "x big", "u"), node("MatMul", "t u", "y")],
        [node("Range", "zero huge one", "t"), node("ReduceSum", "t", "s"), node("Add", "x s", "y")],
        [node("Tile", "x many", "y")],
        [node("Pow", "seven huge", "t"), node("Cast", "t", "s", to=1), node("Mul", "x s", "y")],
    ],
)
def test_results_that_are_declared_huge_take_no_memory(tmp_path: Path, nodes: list[onnx.NodeProto]) -> None:
    import tracemalloc

    weights = {
        "big": ints(2**20, 2**20), "zero": np.asarray(0), "one": np.asarray(1), "huge": np.asarray(2**62),
        "seven": np.asarray(7), "many": ints(2**40, 2**40),
    }  # fmt: skip
    file = save(tmp_path / "m.onnx", nodes, {"x": (F, (1, 1))}, ["y"], weights)
    tracemalloc.start()
    start = time.process_time()
    try:
        load_workload(file)
    except InputError as error:
        assert "\n" not in str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 200e6
    assert time.process_time() - start < 5.0


def test_a_long_chain_of_constants_needs_no_deep_stack(tmp_path: Path) -> None:
    nodes = [node("Neg", f"w{place}", f"w{place + 1}") for place in range(5000)]
    file = save(tmp_path / "m.onnx", [*nodes, node("MatMul", "x w5000", "y")], {"x": (F, (2, 80))}, ["y"],
                {"w0": floats(0, 80, 80)})  # fmt: skip
    assert count(load_workload(file)).params_total == 6400


def test_many_nodes_take_a_time_in_proportion(tmp_path: Path) -> None:
    nodes = [node("Relu", f"x{place}", f"x{place + 1}") for place in range(20_000)]
    file = save(tmp_path / "m.onnx", nodes, {"x0": (F, (2, 3))}, ["x20000"], {})
    start = time.process_time()
    workload = load_workload(file)
    assert time.process_time() - start < 20.0
    assert sum(layer.count * len(layer.graph.operators) for layer in workload.network) == 20_000


class _Mutator:
    """Changes a model in its bytes, or in a field of its messages."""

    def __init__(self, models: list[ModelProto], seed: int) -> None:
        self._models = models
        self._contents = [model.SerializeToString() for model in models]
        self._random = random.Random(seed)

    def next(self) -> bytes:
        place = self._random.randrange(len(self._models))
        if self._random.random() < 0.2:
            return self._of_bytes(bytearray(self._contents[place]))
        model = ModelProto()
        model.CopyFrom(self._models[place])
        for _ in range(self._random.randint(1, 2)):
            self._of_field(model)
        return model.SerializeToString()

    def _of_bytes(self, content: bytearray) -> bytes:
        pick = self._random
        for _ in range(pick.randint(1, 4)):
            at = pick.randrange(len(content))
            match pick.randrange(4):
                case 0:
                    content[at] = pick.randrange(256)
                case 1:
                    del content[at : at + pick.randint(1, 30)]
                case 2:
                    content[at:at] = struct.pack("<q", pick.choice(_NUMBERS))[: pick.randint(1, 8)]
                case _:
                    end = at + pick.randint(1, 60)
                    content[at:at] = content[at:end]
            if not content:
                return b""
        return bytes(content)

    def _of_field(self, model: ModelProto) -> None:
        pick, graph = self._random, model.graph
        chosen = pick.choice(graph.node) if graph.node else None
        tensor = pick.choice(graph.initializer) if graph.initializer else None
        names = [name for other in graph.node for name in (*other.input, *other.output)] + ["", "nothing"]
        numbers = [
            other for other in graph.initializer if other.data_type == TensorProto.INT64 and other.raw_data
        ]
        match pick.randrange(12):
            case 0 if chosen is not None and chosen.input:
                chosen.input[pick.randrange(len(chosen.input))] = pick.choice(names)
            case 1 if chosen is not None and chosen.output:
                chosen.output[pick.randrange(len(chosen.output))] = pick.choice(names)
            case 2 if chosen is not None:
                chosen.op_type = pick.choice(
                    [*{other.op_type for other in graph.node}, "If", "Nothing", "Resize"]
                )
            case 3 if chosen is not None and chosen.attribute:
                self._of_attribute(pick.choice(chosen.attribute))
            case 4 if tensor is not None and tensor.dims:
                tensor.dims[pick.randrange(len(tensor.dims))] = pick.choice(_NUMBERS)
            case 5 if tensor is not None:
                tensor.raw_data = pick.randbytes(pick.choice((0, 4, 8, len(tensor.raw_data))))
            case 6 if tensor is not None:
                tensor.data_type = pick.randrange(25)
            case 7 if chosen is not None:
                graph.node.remove(chosen)
            case 8 if numbers:
                chosen_number = pick.choice(numbers)
                at = pick.randrange(len(chosen_number.raw_data) // 8 or 1) * 8
                value = struct.pack("<q", pick.choice((*_NUMBERS, *range(-5, 30))))
                chosen_number.raw_data = (
                    chosen_number.raw_data[:at] + value + chosen_number.raw_data[at + 8 :]
                )
            case 9 if tensor is not None and len(tensor.dims) > 1:
                tensor.dims[:] = pick.sample(list(tensor.dims), len(tensor.dims))
            case 10 if graph.input:
                for dim in graph.input[0].type.tensor_type.shape.dim:
                    dim.dim_value = pick.randint(1, 12)
            case _ if graph.input:
                dims = graph.input[0].type.tensor_type.shape.dim
                if dims:
                    pick.choice(dims).dim_value = pick.choice(_NUMBERS)

    def _of_attribute(self, attribute: onnx.AttributeProto) -> None:
        pick = self._random
        if attribute.ints and pick.random() < 0.7:
            attribute.ints[pick.randrange(len(attribute.ints))] = pick.choice(_NUMBERS)
        elif pick.random() < 0.7:
            attribute.i = pick.choice(_NUMBERS)
        else:
            attribute.type = pick.randrange(15)


def _seeds(tmp_path: Path) -> list[ModelProto]:
    """Small models that between them use most kinds of operators."""
    convolution = [
        node("Conv", "x w b", "a", pads=[1, 1, 1, 1], strides=[2, 1], group=2), node("Relu", "a", "c"),
        node("MaxPool", "c", "d", kernel_shape=[2, 2], strides=[1, 2]), node("Concat", "d d", "e", axis=1),
        node("Slice", "e s t u", "f"), node("GlobalAveragePool", "f", "g"), node("Flatten", "g", "h"),
        node("Gemm", "h v", "i", transB=1), node("ReduceMean", "i u", "j"), node("Sub", "i j", "y"),
    ]  # fmt: skip
    weights = {
        "w": floats(0, 6, 2, 3, 3),
        "b": floats(1, 6),
        "s": ints(1),
        "t": ints(9),
        "u": ints(1),
        "v": floats(2, 5, 8),
    }
    others = [
        node("Einsum", "x w", "a", equation="bmd,hde->bhme"), node("Transpose", "a", "b", perm=[0, 2, 1, 3]),
        node("Reshape", "b s", "c"), node("Pad", "c p", "d"), node("TopK", "d k", "e f", axis=-1),
        node("CumSum", "e u", "g"),
        node("Gather", "g f", "h", axis=2), node("Tile", "e r", "i"), node("Softmax", "i", "y", axis=1),
    ]  # fmt: skip
    more = {"w": floats(0, 3, 12, 4), "s": ints(2, 6, 12), "p": ints(0, 0, 1, 0, 0, 1), "k": ints(5),
            "u": np.asarray(1),
            "r": ints(1, 2, 1)}  # fmt: skip
    files = [
        decoder(tmp_path / "a.onnx", 1),
        save(tmp_path / "b.onnx", convolution, {"x": (F, (2, 4, 9, 8))}, ["y"], weights),
        save(tmp_path / "c.onnx", others, {"x": (F, (2, 6, 12))}, ["y"], more),
    ]
    for file in files:
        load_workload(file)
    return [onnx.load(file) for file in files]


def _fuzz(tmp_path: Path, n_mutations: int, seed: int) -> None:
    mutator, file = _Mutator(_seeds(tmp_path), seed), tmp_path / "m.onnx"
    refused = 0
    for number in range(n_mutations):
        content = mutator.next()
        file.write_bytes(content)
        start = time.process_time()
        try:
            load_workload(file)
        except InputError as error:
            refused += 1
            assert "\n" not in str(error), number
        assert time.process_time() - start < 5.0, number
    assert n_mutations * 0.3 < refused < n_mutations


def test_any_mutation_of_a_model_loads_or_is_refused_in_one_line(tmp_path: Path) -> None:
    _fuzz(tmp_path, 2000, 1)


@pytest.mark.slow
def test_ten_thousand_mutations_load_or_are_refused_in_one_line(tmp_path: Path) -> None:
    _fuzz(tmp_path, 10_000, 2)
