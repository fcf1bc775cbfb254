"""Methods that add no operator to a module: trained copies and rows, prompts, prefixes."""

from dataclasses import dataclass, replace

from tilewright.dataflow.errors import InputError
from tilewright.dataflow.operator import Access
from tilewright.workloads.adapter_plan import LayerChanges, Trained
from tilewright.workloads.builder import LayerBuilder, Module
from tilewright.workloads.run import Run


@dataclass(frozen=True)
class PassivePlan:
    """Trained copies of modules, or trained token rows; `names` are the modules that must be there."""

    source: str
    model_type: str
    names: tuple[str, ...]
    trained: Trained
    varies_by_layer: bool = False

    def adjusted(self, run: Run) -> Run:
        return run

    def resolve(self, modules: tuple[Module, ...], layer: int | None) -> LayerChanges:
        return LayerChanges((), self.trained)

    def check(self, modules: tuple[Module, ...], changed: bool) -> None:
        """Raises InputError, with the modules that there are, if none has one of the names."""
        paths = [module.path for module in modules]
        if not any(path == name or path.endswith(f".{name}") for path in paths for name in self.names):
            known = dict.fromkeys(path.rpartition(".")[2] for path in paths)
            raise InputError(
                f"{self.source}: target_modules {', '.join(self.names)[:200]} match no module of this"
                f" {self.model_type} model; its modules: {', '.join(known)}"
            )

    def prelude(self, builder: LayerBuilder) -> str | None:
        return None


@dataclass(frozen=True)
class PromptPlan:
    """`n_tokens` trained vectors before the text (arXiv 2104.08691); they are in the cache of a step."""

    n_tokens: int
    width: int
    trained: Trained
    varies_by_layer: bool = False

    def adjusted(self, run: Run) -> Run:
        if run.phase == "decode":
            return replace(run, cache=run.cache + self.n_tokens)
        return replace(run, seq=run.seq + self.n_tokens, n_prompt=self.n_tokens)

    def resolve(self, modules: tuple[Module, ...], layer: int | None) -> LayerChanges:
        return LayerChanges((), self.trained)

    def check(self, modules: tuple[Module, ...], changed: bool) -> None:
        """Vectors change no module."""

    def prelude(self, builder: LayerBuilder) -> str | None:
        builder.note_adapter("prompt_encoder.default.embedding.weight", self.n_tokens * self.width)
        return None


@dataclass(frozen=True)
class PrefixPlan(PromptPlan):
    """`n_tokens` trained keys and values before those of every layer (arXiv 2101.00190).

    `width` is that of all keys of a layer. With an `inner_width` they are the result of a network, which
    the reference runs at each call for each sequence and hardware once, beforehand.
    """

    n_layers: int = 0
    inner_width: int = 0

    def adjusted(self, run: Run) -> Run:
        return replace(run, n_prefix=self.n_tokens)

    def prelude(self, builder: LayerBuilder) -> str | None:
        name, outputs = "prompt_encoder.default", 2 * self.n_layers * self.width
        if not self.inner_width:
            builder.note_adapter(f"{name}.embedding.weight", self.n_tokens * outputs)
            return None
        sizes = {"p": self.n_tokens, "d": self.width, "i": self.inner_width, "o": outputs}
        for rank, size in sizes.items():
            builder.rank(rank, size)
        x = self._table(builder, f"{name}.embedding.weight")
        x = _project(builder, x, f"{name}.transform.0", "d", "i")
        source = (builder.access(x),)
        x = builder.pointwise("prefix_activation", "prefix_opened", source, "tanh", group="adapter")
        x = _project(builder, x, f"{name}.transform.2", "i", "o")
        return x if builder.run.lowering == "reference" else None

    def _table(self, builder: LayerBuilder, parameter: str) -> str:
        """The same vectors for each sequence of the batch."""
        table = builder.adapter_weight("prefix_table", ("p", "d"), parameter)
        source = (Access.of(table, "p", "d"),)
        ranks = ("b", "p", "d")
        return builder.pointwise(
            "prefix_rows", "prefix_vectors", source, "identity", ranks=ranks, group="adapter"
        )


def _project(builder: LayerBuilder, x: str, parameter: str, inner: str, output: str) -> str:
    name = f"prefix_{inner}_{output}"
    weight = builder.adapter_weight(f"{name}_weight", (inner, output), f"{parameter}.weight")
    bias = builder.adapter_weight(f"{name}_bias_row", (output,), f"{parameter}.bias")
    ranks = ("b", "p", output)
    factors = (builder.access(x), builder.access(weight))
    product = builder.contraction(name, f"{name}_product", ranks, factors, "adapter")
    terms = (builder.access(product), builder.access(bias))
    return builder.pointwise(f"{name}_bias", f"{name}_out", terms, "add", group="adapter")
