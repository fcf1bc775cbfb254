"""Lowering a transformer that is described by values to layer classes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import NoReturn, Protocol

from tilewright.dataflow.graph import Graph, LayerClass, Network
from tilewright.workloads.builder import Adapters, LayerBuilder, Module, times
from tilewright.workloads.embedding import Embedding, embed
from tilewright.workloads.head import Head, finish
from tilewright.workloads.norms import Norm
from tilewright.workloads.patches import PatchEmbedding, embed_patches
from tilewright.workloads.run import Parameter, Run


class Layer(Protocol):
    """One layer of a stack; a frozen value."""

    @property
    def keeps_cache(self) -> bool:
        """Whether it leaves keys and values or a state behind."""
        ...

    def fill(self, builder: LayerBuilder, x: str) -> str:
        """Add the layer on x[b, m, d]; returns its result, ranked alike."""
        ...


@dataclass(frozen=True, slots=True)
class Transformer:
    """A stack of blocks between an embedding and a head.

    `path` holds the layers; `blocks` are runs of equal layers as (block, how many).
    """

    model_type: str
    width: int
    path: str
    embedding: Embedding | PatchEmbedding
    blocks: tuple[tuple[Layer, int], ...]
    final_norm: Norm | None
    head: Head | None
    max_positions: int | None = None  # tokens that fit; None: no limit
    #: Names that older releases gave to modules: (now, then), the stack's path first.
    old_names: tuple[tuple[str, str], ...] = ()

    @property
    def decodes(self) -> bool:
        """Whether it keeps a cache and computes token after token."""
        return self.blocks[0][0].keeps_cache

    def old_path(self, path: str) -> str:
        """The name of a module in older releases, which adapter files in the wild use."""
        for now, then in self.old_names:
            path = path.replace(now, then)
        return path

    @property
    def stacks(self) -> tuple[str, ...]:
        """The paths that hold layers."""
        return (self.path,)

    @property
    def n_layers(self) -> int:
        return sum(count for _, count in self.blocks)


class AdapterPlan(Protocol):
    """An adapter file that is checked against a model: knows which modules of which layers change."""

    @property
    def varies_by_layer(self) -> bool:
        """Whether two layers with the same modules may be changed differently."""
        ...

    def resolve(self, modules: tuple[Module, ...], layer: int | None) -> Adapters:
        """What changes in one layer with these modules; equal and hashable for layers that change alike."""
        ...

    def refuse(self, modules: tuple[Module, ...]) -> NoReturn:
        """Raise InputError because none of the model's modules is targeted."""
        ...


Lowered = tuple[Network, tuple[Parameter, ...]]
_Fill = Callable[[LayerBuilder], str]


def lower(model: Transformer, run: Run, plan: AdapterPlan | None) -> Lowered:
    """The network of `model` in `run` and its parameters; layers that are equal are built once."""
    network = _Lowering(model, run, plan)
    network.emit("embed", "", lambda builder: _embed(builder, model))
    first = 0
    for block, count in model.blocks:
        network.emit_blocks(block, first, count)
        first += count
    network.emit("head", "", lambda builder: _finish(builder, model))
    if plan and not network.changed:
        plan.refuse(tuple(network.modules))
    return tuple(network.classes), tuple(network.parameters)


def _embed(builder: LayerBuilder, model: Transformer) -> str:
    if isinstance(model.embedding, PatchEmbedding):
        return embed_patches(builder, model.embedding)
    return embed(builder, model.embedding)


def _finish(builder: LayerBuilder, model: Transformer) -> str:
    x = builder.input("x", ("b", "m", "d"))
    return finish(builder, x, model.final_norm, model.head)


class _Lowering:
    """Collects the classes and parameters of a network; graphs of equal layers are shared."""

    def __init__(self, model: Transformer, run: Run, plan: AdapterPlan | None) -> None:
        self.classes: list[LayerClass] = []
        self.parameters: list[Parameter] = []
        self.modules: dict[Module, None] = {}  # in order of appearance
        self.changed = False
        self._model, self._run, self._plan = model, run, plan
        self._built: dict[tuple[Layer, Adapters | None], LayerBuilder] = {}
        self._graphs: dict[tuple[Layer, Adapters | None], Graph] = {}

    def emit(self, name: str, path: str, fill: _Fill) -> None:
        """Add a layer that stands alone."""
        plan = self._plan
        adapters = plan.resolve(self._modules(path, fill), None) if plan else None
        builder = self._builder(name, path, adapters)
        self._take(name, builder.build(fill(builder)), builder.parameters, 1)

    def emit_blocks(self, block: Layer, first: int, count: int) -> None:
        """Add a run of layers, split where an adapter changes them differently."""
        path = f"{self._model.path}.*"

        def fill(builder: LayerBuilder) -> str:
            return block.fill(builder, builder.input("x", ("b", "m", "d")))

        whole = count == self._model.n_layers
        for adapters, start, n_layers in self._runs(path, fill, first, count):
            name = "block" if whole and n_layers == count else f"block_{start}"
            key = (block, adapters)
            if key not in self._graphs:
                builder = self._builder("block", path, adapters)
                self._graphs[key], self._built[key] = builder.build(fill(builder)), builder
            self._take(name, self._graphs[key], self._built[key].parameters, n_layers)

    def _runs(
        self, path: str, fill: _Fill, first: int, count: int
    ) -> Iterator[tuple[Adapters | None, int, int]]:
        """(what changes, first layer, how many) for runs of layers that change alike."""
        if self._plan is None:
            yield None, first, count
            return
        modules, plan = self._modules(path, fill), self._plan
        if not plan.varies_by_layer:
            yield plan.resolve(modules, first), first, count
            return
        start = first
        for adapters, group in groupby(plan.resolve(modules, first + i) for i in range(count)):
            n_layers = sum(1 for _ in group)
            yield adapters, start, n_layers
            start += n_layers

    def _builder(self, name: str, path: str, adapters: Adapters | None) -> LayerBuilder:
        run = self._run
        builder = LayerBuilder(name, path, run, adapters)
        self.changed |= adapters is not None and not adapters.is_empty
        for rank, size in (("b", run.batch), ("m", run.seq), ("d", self._model.width)):
            builder.rank(rank, size)
        return builder

    def _modules(self, path: str, fill: _Fill) -> tuple[Module, ...]:
        """The modules that an adapter could target, found by building the bare layer."""
        builder = self._builder("modules", path, None)
        fill(builder)
        self.modules.update(dict.fromkeys(builder.modules))
        return tuple(builder.modules)

    def _take(self, name: str, graph: Graph, parameters: list[Parameter], count: int) -> None:
        self.classes.append(LayerClass(name, graph, count))
        self.parameters.extend(times(parameters, count))
