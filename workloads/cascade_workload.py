"""A workload from a cascade: one layer class, its sizes by rank, its weights as parameters."""

from collections.abc import Mapping
from dataclasses import replace
from typing import cast, get_args

from tilewright.dataflow.cascade import load_cascade
from tilewright.dataflow.errors import InputError, nearest
from tilewright.dataflow.graph import Graph, LayerClass, Network
from tilewright.dataflow.passes import rename_graph
from tilewright.dataflow.tensor import Role
from tilewright.workloads.precision import Precision
from tilewright.workloads.run import Lowering, Parameter, Phase, Run

#: What a model's terms are called where a cascade has ranks.
_BY_RANK = "a cascade takes its sizes by rank (dims), as in --dim m=512"


def load_cascade_workload(
    model: str,
    dims: Mapping[str, int | float] | None,
    precision: Precision,
    phase: str,
    lowering: str,
    refused: Mapping[str, object],
) -> tuple[str, Run, Network, tuple[Parameter, ...]]:
    """The cascade's name, the run, its one layer and its parameters.

    `dims` are sizes of ranks, offsets and parameters by name; what has a default need not be given. The
    hardware's lowering skips masked points, the reference's computes them. Data types go by role, states
    are accumulators; a type in the text stands first. `refused` are terms that a cascade does not know, with
    what is stated for each. Raises InputError for these and for anything wrong in the text or the sizes.
    """
    for term, value in refused.items():
        if value:
            raise InputError(f"{model}: {term} {value!r}: {_BY_RANK}")
    if phase != "prefill":
        raise InputError(f"{model}: phase {phase!r}: a cascade runs as it is written (prefill)")
    if lowering not in get_args(Lowering):
        known = get_args(Lowering)
        raise InputError(
            f"lowering {lowering!r} is unknown{nearest(lowering, known)}; known: {', '.join(known)}"
        )
    cascade = load_cascade(model)
    types = {role.value: precision.dtype(role) for role in Role}
    types[Role.STATE.value] = precision.accumulators
    graph = _with_identifiers(cascade.bind(dims or {}, types, skip_masked=lowering == "hardware"))
    parameters = tuple(
        Parameter(tensor.name, graph.n_elements(tensor.name), tensor.dtype, tensor.role, trainable=True)
        for tensor in graph.tensors
        if tensor.name in graph.inputs and tensor.role in (Role.WEIGHT, Role.ADAPTER)
    )
    run = Run(cast(Phase, phase), 1, 1, 0, precision, cast(Lowering, lowering), "all")
    return cascade.name, run, (LayerClass(cascade.name, graph, 1),), parameters


def _with_identifiers(graph: Graph) -> Graph:
    """The graph with names that generated code can use: `A.exp` is `A_exp`, or with more of `_` if that is taken."""
    names: dict[str, str] = {}
    taken = {tensor.name for tensor in graph.tensors if "." not in tensor.name}
    for tensor in graph.tensors:
        name = tensor.name
        while "." in tensor.name and (name := name.replace(".", "_")) in taken:
            name += "_"
        taken.add(name)
        names[tensor.name] = name
    renamed = rename_graph(graph, tensors=names)
    operators = tuple(replace(operator, name=names[operator.name]) for operator in renamed.operators)
    return replace(renamed, operators=operators)
