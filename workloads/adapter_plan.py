"""An adapter on a model: which module of which layer is changed, and how."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from tilewright.dataflow.errors import InputError
from tilewright.dataflow.operator import Access, Index
from tilewright.workloads.builder import Filter, LayerBuilder, Linear, Module, word
from tilewright.workloads.run import Run
from tilewright.workloads.targets import Targets, patterns_vary_by_layer


class AdapterError(ValueError):
    """The adapter does not fit a module; the message names the module, the limit, the value."""


class Change:
    """What a method does to one targeted module: nothing, unless it says otherwise. A frozen value."""

    __slots__ = ()

    def before(self, builder: LayerBuilder, linear: Linear) -> Linear:
        """Change the input of a linear module; returns the module as it then is."""
        return linear

    def linear(self, builder: LayerBuilder, linear: Linear, output: str) -> str:
        """Change the product `output` of a linear module; returns what to use instead."""
        return output

    def after(self, builder: LayerBuilder, linear: Linear, output: str) -> str:
        """Change the result of a linear module, its bias included; returns what to use instead."""
        return output

    def convolution(self, builder: LayerBuilder, spec: Filter, output: str) -> str:
        """Change the product `output` of a convolution. Raises AdapterError where the method cannot."""
        raise AdapterError(f"this method cannot change the convolution {builder.full_path(spec.module)!r}")

    def embedding(self, builder: LayerBuilder, table: str, tokens: str, output: str) -> str:
        """Change the rows of an embedding. Raises AdapterError where the method cannot."""
        raise AdapterError(f"this method cannot change the embedding {builder.full_path(table)!r}")


@dataclass(frozen=True, slots=True)
class Trained:
    """What is trained beside the adapter's own tensors.

    `bias`: "none", "all" or "lora_only" (the biases of targeted modules). `saved`: names of modules
    that are kept twice. `tokens`: (embedding module, trained rows).
    """

    bias: str = "none"
    saved: tuple[str, ...] = ()
    tokens: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class LayerChanges:
    """The changes of one layer by module path, `*` in the place of the layer (an `Adapters`)."""

    changes: tuple[tuple[str, Change], ...]
    trained: Trained

    @cached_property
    def _by_path(self) -> Mapping[str, Change]:
        return dict(self.changes)

    @property
    def is_empty(self) -> bool:
        return not self.changes

    def before(self, builder: LayerBuilder, linear: Linear) -> Linear:
        change = self._by_path.get(builder.full_path(linear.module))
        return change.before(builder, linear) if change else linear

    def linear(self, builder: LayerBuilder, linear: Linear, output: str) -> str:
        change = self._by_path.get(builder.full_path(linear.module))
        return change.linear(builder, linear, output) if change else output

    def after(self, builder: LayerBuilder, linear: Linear, output: str) -> str:
        change = self._by_path.get(builder.full_path(linear.module))
        return change.after(builder, linear, output) if change else output

    def convolution(self, builder: LayerBuilder, spec: Filter, output: str) -> str:
        change = self._by_path.get(builder.full_path(spec.module))
        return change.convolution(builder, spec, output) if change else output

    def embedding(self, builder: LayerBuilder, table: str, tokens: str, output: str) -> str:
        path = builder.full_path(table)
        if change := self._by_path.get(path):
            output = change.embedding(builder, table, tokens, output)
        for name, n_rows in self.trained.tokens:
            if _ends(path, name):
                output = _replace_rows(builder, table, tokens, output, n_rows)
        return output

    def trains(self, path: str, parameter: str) -> bool:
        if parameter != "bias" or self.trained.bias == "none" or self.copies(path):
            return False  # of a module that is kept twice only the copy is trained
        return self.trained.bias == "all" or path in self._by_path

    def replaces_rows(self, table: str) -> bool:
        return any(_ends(table, name) for name, _ in self.trained.tokens)

    def refuse_side_table(self, path: str) -> None:
        if path in self._by_path or self.replaces_rows(path):
            raise AdapterError(f"an adapter of the embedding {path!r} is not supported")

    def copies(self, path: str) -> bool:
        parents = path.split(".")
        above = (".".join(parents[:end]) for end in range(1, len(parents) + 1))
        saved = self.trained.saved
        return bool(saved) and any(_ends(parent, name) for parent in above for name in saved)


@dataclass(frozen=True)
class TunerPlan:
    """A method that changes modules by name, checked against a model.

    `change` tells what happens to a module, which is the path given with the layer's number in it;
    `patterns` are those of paths that it depends on.
    """

    source: str
    model_type: str
    targets: Targets
    change: Callable[[Module, str], Change]
    trained: Trained = field(default_factory=Trained)
    patterns: tuple[str, ...] = ()
    old_path: Callable[[str], str] = str

    def adjusted(self, run: Run) -> Run:
        """The run as it is: a change of modules adds no token."""
        return run

    @property
    def varies_by_layer(self) -> bool:
        return self.targets.vary_by_layer or patterns_vary_by_layer(self.patterns)

    def resolve(self, modules: tuple[Module, ...], layer: int | None) -> LayerChanges:
        changes = []
        kept_twice = LayerChanges((), self.trained)
        for module in modules:
            path = module.path if layer is None else module.path.replace("*", str(layer))
            names = dict.fromkeys((path, self.old_path(path)))
            if any(self.targets.excludes(name) for name in names):
                continue
            named = next((name for name in names if self.targets.match(module, name)), None)
            if module.kind != "norm" and named is not None and not kept_twice.copies(path):
                changes.append((module.path, self.change(module, named)))
        return LayerChanges(tuple(changes), self.trained)

    def prelude(self, builder: LayerBuilder) -> str | None:
        """Nothing runs before the model."""
        return None

    def check(self, modules: tuple[Module, ...], changed: bool) -> None:
        """Raise InputError, with the modules that there are, if none is targeted."""
        if changed:
            return
        names = dict.fromkeys(m.path.rpartition(".")[2] for m in modules if m.kind != "norm")
        wanted = self.targets.names
        stated = wanted if isinstance(wanted, str) else ", ".join(wanted)
        where = "" if self.targets.layers is None else f" in layers {list(self.targets.layers)}"
        raise InputError(
            f"{self.source}: target_modules {stated[:200]}{where} match no module of this"
            f" {self.model_type} model; its modules: {', '.join(names)}"
        )


def _ends(path: str, name: str) -> bool:
    return path == name or path.endswith(f".{name}")


def _replace_rows(builder: LayerBuilder, table: str, tokens: str, output: str, n_rows: int) -> str:
    """Rows of tokens that are trained stand in the place of the table's."""
    name = word(table)
    rank = builder.rank(f"k_{name}", n_rows)
    path = f"{builder.full_path(table)}.trainable_tokens_delta"
    ranks = builder.ranks_of(output)
    rows = builder.adapter_weight(f"{name}_trained_tokens", (rank, ranks[-1]), path)
    inputs = (builder.access(tokens), Access(rows, (Index(), Index.of(ranks[-1]))), builder.access(output))
    return builder.gather(f"{name}_replace", f"{name}_replaced", ranks, inputs, group="adapter")
