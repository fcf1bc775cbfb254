"""A workload from an ONNX file: bound, simplified, lowered, cut into layers; its parameters."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

import numpy as np

from tilewright.dataflow.errors import InputError, nearest
from tilewright.dataflow.graph import Graph, Network
from tilewright.dataflow.tensor import Role
from tilewright.workloads.onnx_attention import mark_attention
from tilewright.workloads.onnx_builder import Builder
from tilewright.workloads.onnx_dims import Bound, OnnxTerms, bind, check_terms
from tilewright.workloads.onnx_emit import GraphEmitter
from tilewright.workloads.onnx_file import OnnxModel, read_onnx
from tilewright.workloads.onnx_lower import lower_nodes
from tilewright.workloads.onnx_network import network_of
from tilewright.workloads.onnx_nodes import Net, running
from tilewright.workloads.onnx_patterns import recognise
from tilewright.workloads.onnx_values import Values
from tilewright.workloads.precision import Precision
from tilewright.workloads.run import Lowering, Parameter, Part, Phase, Run

_PHASES = ("prefill", "decode")


@dataclass(frozen=True, slots=True)
class OnnxLowering:
    """What an ONNX file becomes: its layers, its parameters, the sizes that it runs at."""

    network: Network
    parameters: tuple[Parameter, ...]
    bound: Bound


def lower_onnx(file: Path, terms: OnnxTerms, precision: Precision, lowering: str) -> OnnxLowering:
    """The layers and parameters of an ONNX file. Raises InputError for anything wrong with it."""
    check_terms(terms)
    model = read_onnx(file)
    bound = bind(model, terms)
    values = Values(model, bound.shapes)
    net = running(model, values)
    recognise(net)
    mark_attention(net)
    builder = Builder(net)
    names = declare_inputs(builder, model, bound)
    lower_nodes(builder)
    outputs = output_tensors(builder, net)
    emitter = GraphEmitter(builder, outputs, names, precision, lowering)
    return OnnxLowering(network_of(emitter), _parameters(builder, precision), bound)


def declare_inputs(builder: Builder, model: OnnxModel, bound: Bound) -> dict[str, str]:
    """Bind the live-ins; batch and tokens keep a rank of their own even where they are 1."""
    names = {}
    for value in model.inputs:
        shape = bound.shapes[value.name]
        if 0 in shape:
            continue
        dims = tuple(
            (builder.classes.atom(size),) if size != 1 or axis < 2 else () for axis, size in enumerate(shape)
        )
        role = Role.INDEX if builder.values[value.name].is_index else Role.ACTIVATION
        view = builder.new(dims, role)
        builder.bind(value.name, view)
        names[view.tensor] = re.sub(r"\W+", "_", value.name)[:40] or "input"
    return names


def output_tensors(builder: Builder, net: Net) -> list[str]:
    """The tensors of the model's outputs, in order; one that is no plain view of a tensor is copied."""
    found = []
    produced = {operator.output for operator in builder.operators}
    for name in net.outputs:
        if not builder.is_known(name):
            continue
        view = builder.view(name)
        if view.tensor in produced and not view.is_plain:
            view = builder.materialised(view)
        if view.tensor in produced or view.tensor == builder.operators[-1].output:
            found.append(view.tensor)
    if not found:
        raise InputError(f"{net.source}: no output depends on an input by any operator")
    return found


def _parameters(builder: Builder, precision: Precision) -> tuple[Parameter, ...]:
    """The stored tensors that operators read as weights, each once, further whole uses tied to the first.

    Exporters store equal tensors once. Models tie tables and matrices, whose values differ; a vector of one
    repeated number that several operators read is as many vectors that just have not been trained.
    """
    found: dict[str, Parameter] = {}
    extra: list[Parameter] = []
    times: dict[str, int] = {}
    for use in builder.uses:
        stored = builder.values.stored[use.name]
        if use.name not in found:
            part: Part = "table" if use.place == "table" else "body"
            found[use.name] = Parameter(
                use.name, stored.n_elements, precision.dtype(Role.WEIGHT), Role.WEIGHT, True, part=part
            )
        elif use.whole:
            times[use.name] = number = times.get(use.name, 1) + 1
            tied = "" if _is_uniform_vector(builder, use.name) else use.name
            first = found[use.name]
            extra.append(
                Parameter(
                    f"{use.name}#{number}", first.n_elements, first.dtype, Role.WEIGHT, True, tied_to=tied
                )
            )
    return (*found.values(), *extra)


def _is_uniform_vector(builder: Builder, name: str) -> bool:
    shape = builder.values[name].shape
    if sum(size > 1 for size in shape) != 1:
        return False
    array = builder.values.array(name)
    return array is not None and bool(np.all(array == array.reshape(-1)[0]))


def load_onnx(
    file: Path,
    terms: OnnxTerms,
    precision: Precision,
    phase: str,
    lowering: str,
    refused: Mapping[str, object],
) -> tuple[Run, Network, tuple[Parameter, ...]]:
    """The run, the layers and the parameters of an ONNX file.

    `refused` are terms that a fixed graph does not know, with what is stated for each. Raises InputError for these
    and for anything wrong in the file or the sizes.
    """
    for name, value in refused.items():
        if value:
            raise InputError(
                f"{file}: {name} {value!r}: an ONNX file is a fixed graph, which has no such choice"
            )
    if phase not in _PHASES:
        known = ", ".join(_PHASES)
        raise InputError(
            f"{file}: phase {phase!r} of an ONNX file is not supported; it runs as it is: {known}"
        )
    if lowering not in get_args(Lowering):
        raise InputError(
            f"lowering {lowering!r} is unknown{nearest(lowering, get_args(Lowering))};"
            f" known: {', '.join(get_args(Lowering))}"
        )
    lowered = lower_onnx(file, terms, precision, lowering)
    bound = lowered.bound
    if phase == "decode" and not any(_holds_cache(layer.graph) for layer in lowered.network):
        raise InputError(f"{file}: phase 'decode': no input of the graph is a cache")
    run = Run(
        cast(Phase, phase), bound.batch, bound.seq, bound.cache, precision, cast(Lowering, lowering), "all"
    )
    return run, lowered.network, lowered.parameters


def _holds_cache(graph: Graph) -> bool:
    return any(tensor.role is Role.KV_CACHE for tensor in graph.tensors)
