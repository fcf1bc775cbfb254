"""Graphs of single operators, as measurements of hardware name them."""

from dataclasses import replace

from tilewright.dataflow.graph import Graph
from tilewright.dataflow.operator import Access, Kind, Operator
from tilewright.dataflow.tensor import Role, Tensor

_ROW = ("row", "col")


def product_graph(batch: int, m: int, n: int, k: int, dtype: str, weight: bool = True) -> Graph:
    """C[m, n] = A[m, k] B[k, n], `batch` times; B is a weight unless it changes with the batch."""
    first = ("batch",) if batch > 1 else ()
    tensors = (
        Tensor("a", (*first, "m", "k"), dtype, Role.ACTIVATION),
        Tensor("b", (*first, "k", "n"), dtype, Role.ACTIVATION if first or not weight else Role.WEIGHT),
        Tensor("c", (*first, "m", "n"), dtype, Role.ACTIVATION),
    )
    product = Operator(
        "product", Kind.CONTRACTION, Access.of("c", *first, "m", "n"),
        (Access.of("a", *first, "m", "k"), Access.of("b", *first, "k", "n")), "mul", "sum", "linear",
    )  # fmt: skip
    sizes = (*((name, batch) for name in first), ("m", m), ("n", n), ("k", k))
    return Graph("product", sizes, tensors, (product,), ("a", "b"), ("c",))


def map_graph(function: str, n_inputs: int, elements: int, dtype: str) -> Graph:
    """y = function(x, ...) of `n_inputs` tensors of so many elements."""
    names = tuple(f"x{number}" for number in range(n_inputs))
    tensors = tuple(Tensor(name, ("element",), dtype, Role.ACTIVATION) for name in (*names, "y"))
    reads = tuple(Access.of(name, "element") for name in names)
    operator = Operator("map", Kind.POINTWISE, Access.of("y", "element"), reads, function, group="other")
    return Graph("map", (("element", elements),), tensors, (operator,), names, ("y",))


def gated_graph(rows: int, columns: int, dtype: str) -> Graph:
    """y = silu(gate) * up: what stands between the products of a gated feed-forward network."""
    tensors = tuple(Tensor(name, _ROW, dtype, Role.ACTIVATION) for name in ("gate", "up", "open", "y"))
    operators: tuple[Operator, ...] = (
        _map("open", "silu", "gate"),
        Operator(
            "y", Kind.POINTWISE, Access.of("y", *_ROW), (Access.of("open", *_ROW), Access.of("up", *_ROW)),
            "mul", group="feed_forward",
        ),
    )  # fmt: skip
    operators = tuple(_grouped(operator, "feed_forward") for operator in operators)
    return Graph("gated", (("row", rows), ("col", columns)), tensors, operators, ("gate", "up"), ("y",))


def softmax_graph(rows: int, columns: int, dtype: str) -> Graph:
    """Softmax over the columns of every row."""
    tensors = (
        *(Tensor(name, _ROW, dtype, Role.ACTIVATION) for name in ("x", "shifted", "power", "y")),
        *(Tensor(name, ("row",), dtype, Role.ACTIVATION) for name in ("top", "total")),
    )
    operators = (
        _reduction("top", "max", "x"), _map("shifted", "sub", "x", "top"), _map("power", "exp", "shifted"),
        _reduction("total", "sum", "power"), _map("y", "div", "power", "total"),
    )  # fmt: skip
    return _rows_graph("softmax", rows, columns, tensors, operators, ("x",))


def layer_norm_graph(rows: int, columns: int, dtype: str) -> Graph:
    """Layer norm over the columns of every row, with weight and bias."""
    tensors = (
        *(
            Tensor(name, _ROW, dtype, Role.ACTIVATION)
            for name in ("x", "centred", "squares", "unit", "scaled", "y")
        ),
        *(Tensor(name, ("row",), dtype, Role.ACTIVATION) for name in ("mean", "variance", "scale")),
        *(Tensor(name, ("col",), dtype, Role.WEIGHT) for name in ("weight", "bias")),
    )
    operators = (
        _reduction("mean", "mean", "x"), _map("centred", "sub", "x", "mean"), _map("squares", "square", "centred"),
        _reduction("variance", "mean", "squares"),
        Operator("scale", Kind.POINTWISE, Access.of("scale", "row"), (Access.of("variance", "row"),), "rsqrt"),
        _map("unit", "mul", "centred", "scale"), _map("scaled", "mul", "unit", "weight"),
        _map("y", "add", "scaled", "bias"),
    )  # fmt: skip
    return _rows_graph("layer_norm", rows, columns, tensors, operators, ("x", "weight", "bias"))


def _rows_graph(
    name: str, rows: int, columns: int, tensors: tuple[Tensor, ...], operators: tuple[Operator, ...],
    inputs: tuple[str, ...],
) -> Graph:  # fmt: skip
    grouped = tuple(_grouped(operator, name) for operator in operators)
    return Graph(name, (("row", rows), ("col", columns)), tensors, grouped, inputs, ("y",))


_ROW_VALUES = frozenset({"top", "total", "mean", "variance", "scale"})
_COLUMN_VALUES = frozenset({"weight", "bias"})


def _access(name: str) -> Access:
    if name in _ROW_VALUES:
        return Access.of(name, "row")
    return Access.of(name, "col") if name in _COLUMN_VALUES else Access.of(name, *_ROW)


def _map(output: str, function: str, *inputs: str) -> Operator:
    return Operator(output, Kind.POINTWISE, _access(output), tuple(map(_access, inputs)), function)


def _reduction(output: str, reduce: str, source: str) -> Operator:
    return Operator(output, Kind.REDUCTION, _access(output), (_access(source),), reduce=reduce)


def _grouped(operator: Operator, group: str) -> Operator:
    return replace(operator, group=group)
