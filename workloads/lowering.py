"""Lowering a described model to layer classes and parameters."""

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from typing import Protocol

from tilewright.dataflow.graph import Graph, LayerClass, Network
from tilewright.dataflow.tensor import Role
from tilewright.workloads.builder import Adapters, LayerBuilder, Module, times
from tilewright.workloads.head import finish
from tilewright.workloads.optimizer import update_network
from tilewright.workloads.run import Parameter, Run
from tilewright.workloads.training import Step, training_network
from tilewright.workloads.transformer import EncoderDecoder, Layer, Model, Part, Transformer


class AdapterPlan(Protocol):
    """An adapter file that is checked against a model: knows which modules of which layers change."""

    @property
    def varies_by_layer(self) -> bool:
        """Whether two layers with the same modules may be changed differently."""
        ...

    def resolve(self, modules: tuple[Module, ...], layer: int | None) -> Adapters:
        """What changes in one layer with these modules; equal and hashable for layers that change alike."""
        ...

    def adjusted(self, run: Run) -> Run:
        """The run with the tokens or keys that the adapter adds."""
        ...

    def prelude(self, builder: LayerBuilder) -> str | None:
        """Add what runs before the model, with its parameters; None where nothing runs."""
        ...

    def check(self, modules: tuple[Module, ...], changed: bool) -> None:
        """Raise InputError if the adapter must change a module of the model and `changed` none."""
        ...


Lowered = tuple[Network, tuple[Parameter, ...]]
_Fill = Callable[[LayerBuilder], str]
_Built = dict[tuple[Layer, Adapters | None], tuple[Graph, LayerBuilder]]


def lower(model: Model, run: Run, plan: AdapterPlan | None) -> Lowered:
    """The network of `model` in `run` and its parameters; layers that are equal are built once.

    Parameters are those of the whole model, whatever part of it runs.
    """
    whole = _lower_parts(model.all_parts(run), plan)
    if isinstance(model, EncoderDecoder) and model.shared:
        _share(whole, model, run)
    if plan:
        plan.check(tuple(whole.modules), whole.changed)
    parts = model.parts(run)
    executed = whole if parts == model.all_parts(run) else _lower_parts(parts, plan)
    if run.phase != "train":
        return tuple(step.layer for step in executed.steps), tuple(whole.parameters)
    dtype = run.precision.dtype(Role.GRADIENT)
    network = training_network(executed.steps, dtype, run.training.recompute)
    updates = update_network(whole.parameters, run.training.optimizer, dtype)
    return (*network, *updates), tuple(whole.parameters)


def _lower_parts(parts: tuple[Part, ...], plan: AdapterPlan | None) -> "_Lowering":
    lowering = _Lowering(plan)
    if plan:
        lowering.add_prelude(plan, parts[-1].run)
    for part in parts:
        lowering.add(part)
    return lowering


def _share(lowering: "_Lowering", model: EncoderDecoder, run: Run) -> None:
    """Note the table that both embeddings tie to."""
    assert model.shared is not None
    module, n_rows = model.shared
    plan = lowering.plan
    builder = LayerBuilder("shared", "", run, plan.resolve((), None) if plan else None)
    builder.parameter(module, "weight", n_rows * model.width, part="table")
    lowering.parameters[:0] = builder.parameters


class _Lowering:
    """Collects the classes and parameters of a network; graphs of equal layers are shared."""

    def __init__(self, plan: AdapterPlan | None) -> None:
        self.steps: list[Step] = []
        self.parameters: list[Parameter] = []
        self.modules: dict[Module, None] = {}  # in order of appearance
        self.changed = False
        self.plan = plan

    def add(self, part: Part) -> None:
        """Add one stack: its way in, its layers, its way out."""
        stack = part.stack
        if stack.embedding:
            self._emit(part, part.entry, stack.embedding.fill)
        built: _Built = {}
        first = 0
        for layer, count in _joined(stack.blocks):
            self._emit_layers(part, layer, first, count, built)
            first += count
        if stack.final_norm or stack.head:
            self._emit(part, "head", lambda builder: _finish(builder, stack))

    def add_prelude(self, plan: AdapterPlan, run: Run) -> None:
        """Add what an adapter runs before the model."""
        builder = LayerBuilder("adapter", "", run)
        builder.rank("b", run.batch)
        output = plan.prelude(builder)
        if output is not None:
            self._take(None, "adapter", (builder.build(output), builder), 1)
        else:
            self.parameters.extend(builder.parameters)

    def _emit(self, part: Part, name: str, fill: _Fill) -> None:
        """Add a layer that stands alone."""
        plan = self.plan
        adapters = plan.resolve(self._modules(part, "", fill), None) if plan else None
        builder = self._builder(part, name, "", adapters)
        self._take(part, name, (builder.build(fill(builder)), builder), 1)

    def _emit_layers(self, part: Part, layer: Layer, first: int, count: int, built: _Built) -> None:
        """Add a run of layers, split where an adapter changes them differently."""
        path = f"{part.stack.path}.*"

        def fill(builder: LayerBuilder) -> str:
            layer.declare(builder)
            return layer.fill(builder, builder.input("x", layer.input_ranks))

        whole = count == part.stack.n_layers
        sets = part.stack.n_parameter_sets or count
        for adapters, start, n_sets in self._runs(part, path, fill, first, sets):
            n_layers = n_sets * count // sets
            name = "block" if whole and n_layers == count else f"block_{start}"
            key = (layer, adapters)
            if key not in built:
                builder = self._builder(part, "block", path, adapters)
                built[key] = (builder.build(fill(builder)), builder)
            self._take(part, name, built[key], n_layers, n_sets)

    def _runs(
        self, part: Part, path: str, fill: _Fill, first: int, count: int
    ) -> Iterator[tuple[Adapters | None, int, int]]:
        """(what changes, first layer, how many) for runs of layers that change alike."""
        if self.plan is None:
            yield None, first, count
            return
        modules, plan = self._modules(part, path, fill), self.plan
        if not plan.varies_by_layer:
            yield plan.resolve(modules, first), first, count
            return
        start = first
        for adapters, group in groupby(plan.resolve(modules, first + i) for i in range(count)):
            n_layers = sum(1 for _ in group)
            yield adapters, start, n_layers
            start += n_layers

    def _builder(self, part: Part, name: str, path: str, adapters: Adapters | None) -> LayerBuilder:
        run = part.run
        builder = LayerBuilder(name, path, run, adapters)
        self.changed |= adapters is not None and not adapters.is_empty
        for rank, size in (("b", run.batch), ("m", run.seq), ("d", part.stack.width)):
            builder.rank(rank, size)
        return builder

    def _modules(self, part: Part, path: str, fill: _Fill) -> tuple[Module, ...]:
        """The modules that an adapter could target, found by building the bare layer."""
        builder = self._builder(part, "modules", path, None)
        fill(builder)
        self.modules.update(dict.fromkeys(builder.modules))
        return tuple(builder.modules)

    def _take(
        self,
        part: Part | None,
        name: str,
        built: tuple[Graph, LayerBuilder],
        count: int,
        n_sets: int | None = None,
    ) -> None:
        """Add `count` equal layers with `n_sets` sets of parameters, one each where not stated."""
        graph, builder = built
        prefix = part.prefix if part else ""
        layer = LayerClass(prefix + name, graph, count)
        self.steps.append(Step(layer, tuple(builder.trained), prefix.rstrip("_"), name.endswith("embed")))
        for parameter in times(builder.parameters, n_sets or count):
            if parameter.storage == "shared_buffer":
                self._share_buffer(parameter)
            else:
                self.parameters.append(parameter)

    def _share_buffer(self, buffer: Parameter) -> None:
        """Keep one buffer of a name, the largest."""
        known = [place for place, other in enumerate(self.parameters) if other.name == buffer.name]
        if not known:
            self.parameters.append(buffer)
        elif self.parameters[known[0]].n_elements < buffer.n_elements:
            self.parameters[known[0]] = buffer


def _joined(blocks: Iterable[tuple[Layer, int]]) -> Iterator[tuple[Layer, int]]:
    """Runs of layers with equal neighbours put together."""
    for layer, run in groupby(blocks, key=lambda block: block[0]):
        yield layer, sum(count for _, count in run)


def _finish(builder: LayerBuilder, stack: Transformer) -> str:
    return finish(builder, builder.input("x", ("b", "m", "d")), stack.final_norm, stack.head)
