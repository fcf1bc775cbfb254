"""Library calls that the reference's FLOP counter has no formula for: how often, and what they write."""

from collections import Counter

from tilewright.dataflow.graph import Graph
from tilewright.dataflow.operator import Kind, Operator
from tilewright.workloads.training import BACKWARD
from tilewright.workloads.workload import Workload

#: Families whose positions are running sums over a mask: over the tokens held too, or over the new ones.
_SUMS_OF_ALL = ("opt",)
_SUMS_OF_NEW = ("roberta", "xlm-roberta")


def uncounted(workload: Workload) -> dict[str, int]:
    """`uncounted_calls:<call>` and `uncounted_out_elems:<call>` of a run in the reference's lowering.

    Outputs are all that a call returns: a maximum's places beside it, the factors of a solver.
    """
    calls: Counter[str] = Counter()
    elements: Counter[str] = Counter()
    for layer in workload.network:
        if BACKWARD in layer.name:
            continue
        for operator in layer.graph.operators:
            for name, n_elements in _calls_of(layer.graph, operator):
                calls[name] += layer.count
                elements[name] += layer.count * n_elements
    run = workload.run
    if workload.model_type in (*_SUMS_OF_ALL, *_SUMS_OF_NEW):
        held = run.cache if workload.model_type in _SUMS_OF_ALL else 0
        calls["cumsum"] += 1
        elements["cumsum"] += run.batch * (held + run.seq)
    return {f"uncounted_calls:{name}": n for name, n in calls.items()} | {
        f"uncounted_out_elems:{name}": n for name, n in elements.items()
    }


def _calls_of(graph: Graph, operator: Operator) -> tuple[tuple[str, int], ...]:
    """The calls that make an operator's result, with the elements that each returns."""
    n_elements = graph.n_elements(operator.output.tensor)
    if operator.reduce == "l2" and operator.group == "adapter":
        return (("linalg_vector_norm", n_elements),)
    if operator.reduce == "max" and operator.kind is Kind.REDUCTION and operator.group == "conv":
        return (("max_pool2d_with_indices", 2 * n_elements),)
    if operator.function == "resize" and operator.group == "embedding":
        return (("upsample_bicubic2d", graph.size("y") * graph.size("x") * graph.size("d")),)
    if operator.function == "cayley" and "boft" in operator.name:
        (rotation,) = (graph.tensor_by_name[access.tensor] for access in operator.inputs[:1])
        side = graph.size(rotation.ranks[-1])
        n_blocks = graph.n_elements(rotation.name) // side**2
        # the solution, the factors, the rows' exchanges, one status for each block
        solved = n_blocks * (2 * side**2 + side + 1)
        return (("_linalg_solve_ex", solved), ("_linalg_check_errors", 0))
    return ()
