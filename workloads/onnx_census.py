"""What an ONNX file holds, node by node: a count of the file as it is, beside that of its lowered form."""

from collections import Counter
from pathlib import Path

from tilewright.workloads.onnx_dims import OnnxTerms, bind, check_terms
from tilewright.workloads.onnx_file import Node, read_onnx
from tilewright.workloads.onnx_values import Values

_PRODUCTS = ("MatMul", "Gemm", "Conv")


def census(file: Path, terms: OnnxTerms) -> dict[str, int]:
    """Counts of an ONNX file: nodes by operator, elements of its initializers, FLOPs of its products.

    Returns `onnx_nodes_<operator>`, `onnx_initializer_elems` (shape constants included, each stored tensor once),
    `onnx_flops_MatMul`, `onnx_flops_Gemm`, `onnx_flops_Conv`, 2 per multiply-accumulate, biases not counted, and
    their sum `onnx_flops_total`. Raises InputError as `load_workload` does for what is wrong in the file.
    """
    check_terms(terms)
    model = read_onnx(file)
    values = Values(model, bind(model, terms).shapes)
    nodes = Counter(node.op for node in model.nodes)
    flops: Counter[str] = Counter()
    for node in model.nodes:
        if node.op in _PRODUCTS and not node.domain:
            flops[node.op] += 2 * _macs(node, values)
    counts = {f"onnx_nodes_{op}": n for op, n in sorted(nodes.items())}
    counts |= {f"onnx_flops_{op}": flops[op] for op in _PRODUCTS}
    counts["onnx_flops_total"] = flops.total()
    counts["onnx_initializer_elems"] = sum(tensor.n_elements for tensor in model.constants.values())
    return counts


def _macs(node: Node, values: Values) -> int:
    """Multiply-accumulates of a product: elements of its result times the length of its sums."""
    first, second = (values[name].shape for name in node.inputs[:2])
    n_results = values[node.outputs[0]].n_elements
    if node.op == "MatMul":
        return n_results * first[-1]
    if node.op == "Gemm":
        return n_results * first[0 if node.attributes.get("transA") else 1]
    taps = 1
    for size in second[1:]:  # channels of a group, then taps
        taps *= size
    return n_results * taps
