"""Brings sums that enter a product to the width that the array takes."""

from dataclasses import replace
from functools import lru_cache

from tilewright.dataflow.graph import Graph
from tilewright.dataflow.operator import Access, Kind, Operator
from tilewright.dataflow.tensor import DTYPE_BITS, Role, Tensor
from tilewright.sim.architecture import MatrixArray
from tilewright.sim.sequential_plan import is_gemm

#: What a result narrower than the sums costs on the vector unit, scaling included.
REQUANTISE = "requantize"


@lru_cache(maxsize=256)
def with_narrow_operands(graph: Graph, array: MatrixArray) -> Graph:
    """`graph` with every operand of a product that has the sums' width requantised once before its first use.

    Weights are left as they are: a wide one was meant to be. The width is that of the largest whole type that
    enters the array as either operand.
    """
    narrow = [
        bits for name, bits in DTYPE_BITS.items() if _is_whole(name) and bits <= min(array.operand_bits)
    ]
    wide = {
        access.tensor
        for operator in graph.operators
        if is_gemm(operator, graph)
        for access in operator.inputs
        if _is_sums(graph.tensor_by_name[access.tensor], array)
    }
    if not wide or not narrow:
        return graph
    tensors = list(graph.tensors)
    operators: list[Operator] = []
    done: dict[str, str] = {}
    for operator in graph.operators:
        if is_gemm(operator, graph):
            for tensor in dict.fromkeys(access.tensor for access in operator.inputs):
                if tensor in wide and tensor not in done:
                    done[tensor] = f"{tensor}_narrow"
                    known = graph.tensor_by_name[tensor]
                    tensors.append(Tensor(done[tensor], known.ranks, f"int{max(narrow)}", known.role))
                    operators.append(_requantise(graph, known, done[tensor]))
            inputs = tuple(
                Access(done.get(access.tensor, access.tensor), access.indices) for access in operator.inputs
            )
            operator = replace(operator, inputs=inputs)
        operators.append(operator)
    return replace(graph, tensors=tuple(tensors), operators=tuple(operators))


def _is_sums(tensor: Tensor, array: MatrixArray) -> bool:
    fixed = (Role.WEIGHT, Role.ADAPTER, Role.INDEX)
    sums = _is_whole(tensor.dtype) and tensor.bits == array.accumulator_bits > max(array.operand_bits)
    return sums and tensor.role not in fixed


def _is_whole(dtype: str) -> bool:
    return dtype.startswith("int")


def _requantise(graph: Graph, tensor: Tensor, narrow: str) -> Operator:
    """One step per element, in the group of what made the tensor, so that it may share its stage."""
    producer = graph.producer.get(tensor.name)
    group = producer.group if producer else ""
    ranks = tensor.ranks
    return Operator(
        f"{narrow}_requantise", Kind.POINTWISE, Access.of(narrow, *ranks),
        (Access.of(tensor.name, *ranks),), REQUANTISE, group=group,
    )  # fmt: skip
