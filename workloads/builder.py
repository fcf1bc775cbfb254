"""Building one layer's graph operator by operator, with its parameters and its adapters."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Literal, Protocol

from tilewright.dataflow.graph import Graph
from tilewright.dataflow.operator import Access, Index, IndexTerm, Kind, Mask, Operator
from tilewright.dataflow.tensor import Role, Tensor
from tilewright.workloads.run import Parameter, Part, Run, Storage


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear module: its name, y = W x over named ranks, with a bias or without.

    `module` is the path below the layer; `group` is the share of the counts that it belongs to. The weight
    or the bias may share the storage of another parameter, which is then named in full. A module that runs
    a second time has an `alias`, which sets the operators of that run apart.
    """

    module: str
    input: Access
    output: tuple[str, ...]
    inner: tuple[str, ...]
    bias: bool = False
    group: str = "linear"
    part: Part = "body"
    weight_tied_to: str = ""
    bias_tied_to: str = ""
    adapts: bool = True  # "all-linear" includes it
    bmm_group: str = "bmm"  # the group of batched products that an adapter adds to it
    alias: str = ""
    made_weight: Access | None = None  # what an adapter makes of the weight, which is declared then

    @property
    def name(self) -> str:
        """The operator's name: the module's path as one word, behind its alias."""
        return self.alias + word(self.module)

    @property
    def kept(self) -> tuple[str, ...]:
        """The ranks of the input that the output has too: batch and tokens."""
        return tuple(rank for rank in self.input.ranks if rank not in self.inner)


@dataclass(frozen=True, slots=True)
class Filter:
    """A convolution module: the product over `output` of what `image` reads and a kernel, summed over `inner`.

    The last rank of `output` is that of its channels; they and those of the image are in `n_groups`.
    """

    name: str
    module: str
    image: Access
    inner: tuple[str, ...]
    output: tuple[str, ...]
    product: str
    group: str = "conv"
    n_groups: int = 1
    dilation: int = 1


@dataclass(frozen=True, slots=True)
class Module:
    """A module that an adapter could target; `path` is its full path, `*` in the place of the layer."""

    path: str
    kind: Literal["linear", "embedding", "norm", "convolution"]
    is_head: bool = False


class Adapters(Protocol):
    """What the builder asks of a resolved adapter; modules are full paths, `*` for the layer."""

    @property
    def is_empty(self) -> bool:
        """Whether no module is changed."""
        ...

    def before(self, builder: "LayerBuilder", linear: Linear) -> Linear:
        """Add what an adapter does to the input of a linear module; return the module as it then is."""
        ...

    def linear(self, builder: "LayerBuilder", linear: Linear, output: str) -> str:
        """Add the adapter of a linear module behind its product `output`; return what to use instead."""
        ...

    def after(self, builder: "LayerBuilder", linear: Linear, output: str) -> str:
        """Add what stands behind a linear module, its bias included; return what to use instead."""
        ...

    def convolution(self, builder: "LayerBuilder", spec: Filter, output: str) -> str:
        """Add the adapter of a convolution behind its product `output`; return what to use instead."""
        ...

    def embedding(self, builder: "LayerBuilder", table: str, tokens: str, output: str) -> str:
        """Add the adapter of an embedding `table` behind its rows `output`; return what to use instead."""
        ...

    def trains(self, path: str, parameter: str) -> bool:
        """Whether parameter `weight` or `bias` of the base module `path` is trained."""
        ...

    def copies(self, path: str) -> bool:
        """Whether the module `path` is kept twice, frozen and trained."""
        ...

    def replaces_rows(self, table: str) -> bool:
        """Whether trained rows stand in the place of some of the table `table`."""
        ...

    def refuse_side_table(self, path: str) -> None:
        """Raise AdapterError where the table `path`, of positions or types, would change."""
        ...


class LayerBuilder:
    """Collects the operators of one layer class; `path` is its place in the model, `*` the layer."""

    def __init__(self, name: str, path: str, run: Run, adapters: Adapters | None = None) -> None:
        self.name, self.path, self.run = name, path, run
        self.parameters: list[Parameter] = []
        self.modules: list[Module] = []
        self._adapters = adapters
        self._ranks: dict[str, int] = {}
        self._tensors: dict[str, Tensor] = {}
        self._operators: dict[str, Operator] = {}
        self._inputs: list[str] = []
        self._kept: list[str] = []
        self.trained: list[str] = []  # live-in tensors that a training step needs gradients of
        self.tied: list[str] = []  # live-in weights that share the storage of another class's
        self._again = False  # a module runs once more: its parameters are noted already

    def size(self, ranks: Iterable[str]) -> int:
        """Elements over `ranks`."""
        return prod(self._ranks[rank] for rank in ranks)

    def rank(self, name: str, size: int) -> str:
        """Declare a rank; a second declaration must agree."""
        if self._ranks.setdefault(name, size) != size:
            raise ValueError(f"rank {name!r} has size {self._ranks[name]}, not {size}")
        return name

    def tensor(self, name: str, ranks: tuple[str, ...], role: Role, dtype: str = "") -> str:
        if name in self._tensors:
            raise ValueError(f"tensor {name!r} is declared twice")
        self._tensors[name] = Tensor(name, ranks, dtype or self.run.precision.dtype(role), role)
        return name

    @property
    def trains_all(self) -> bool:
        """Whether there is no adapter, so that a training step trains every weight."""
        return self._adapters is None

    @property
    def is_adapted(self) -> bool:
        """Whether an adapter changes a module here."""
        return self._adapters is not None and not self._adapters.is_empty

    def note_linear(self, module: str) -> None:
        """Note a linear module that is not computed as one, so that adapters find it."""
        self.modules.append(Module(self.full_path(module), "linear"))

    @property
    def ranks(self) -> Mapping[str, int]:
        return self._ranks

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return tuple(self._tensors.values())

    @property
    def operators(self) -> tuple[Operator, ...]:
        return tuple(self._operators.values())

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(self._inputs)

    @property
    def kept(self) -> tuple[str, ...]:
        """Tensors that are live-out besides the layer's result."""
        return tuple(self._kept)

    def has(self, tensor: str) -> bool:
        """Whether a tensor is declared."""
        return tensor in self._tensors

    def input(self, name: str, ranks: tuple[str, ...], role: Role = Role.ACTIVATION) -> str:
        """Declare a live-in tensor."""
        self._inputs.append(self.tensor(name, ranks, role))
        return name

    def full_path(self, module: str) -> str:
        return ".".join(part for part in (self.path, module) if part)

    def ranks_of(self, tensor: str) -> tuple[str, ...]:
        return self._tensors[tensor].ranks

    def access(self, tensor: str) -> Access:
        """The plain access of a tensor by its own ranks."""
        return Access.of(tensor, *self._tensors[tensor].ranks)

    def weight(
        self, module: str, parameter: str, ranks: tuple[str, ...], tied_to: str = "", part: Part = "body"
    ) -> str:
        """Declare a live-in weight tensor, e.g. ("attn.c_attn", "weight"), and its parameter."""
        self.parameter(module, parameter, self.size(ranks), tied_to, part)
        return self.weight_input(
            word(f"{module}.{parameter}" if module else parameter), ranks, module, parameter, tied_to
        )

    def weight_input(
        self, name: str, ranks: tuple[str, ...], module: str, parameter: str, tied_to: str = ""
    ) -> str:
        """Declare the live-in tensor `name` of a weight whose parameter is noted elsewhere."""
        self.input(name, ranks, Role.WEIGHT)
        if self._needs_gradient(module, parameter, tied_to):
            self.trained.append(name)
        if tied_to:
            self.tied.append(name)
        return name

    def _needs_gradient(self, module: str, parameter: str, tied_to: str) -> bool:
        """Whether a base weight is trained, or trained numbers stand in for it."""
        if self._adapters is None:
            return True
        path = self.full_path(module)
        if self._adapters.trains(path, parameter) or self._adapters.copies(path):
            return True
        return bool(tied_to) and self._adapters.replaces_rows(tied_to.removesuffix(f".{parameter}"))

    def parameter(
        self,
        module: str,
        parameter: str,
        n_elements: int,
        tied_to: str = "",
        part: Part = "body",
        *,
        frozen: bool = False,
    ) -> None:
        """Note a parameter of the base model, used by an operator or not; `frozen` is never trained."""
        path, dtype, adapters = self.full_path(module), self.run.precision.weights, self._adapters
        trains = not frozen and (adapters.trains(path, parameter) if adapters else True)
        self.parameters.append(
            Parameter(
                f"{path}.{parameter}".lstrip("."), n_elements, dtype, Role.WEIGHT, trains, 1, tied_to, part
            )
        )
        if adapters and adapters.copies(path):
            name = f"{path}.modules_to_save.{parameter}"
            self.parameters.append(Parameter(name, n_elements, dtype, Role.ADAPTER, True))

    def adapter_weight(
        self, name: str, ranks: tuple[str, ...], parameter: str, *, trainable: bool = True
    ) -> str:
        """Declare a live-in adapter tensor; `parameter` is its full name in the model."""
        self.note_adapter(parameter, self.size(ranks), trainable=trainable)
        if trainable:
            self.trained.append(name)
        return self.input(name, ranks, Role.ADAPTER)

    def note_adapter(self, name: str, n_elements: int, *, trainable: bool = True) -> None:
        """Note adapter parameters that no operator reads."""
        dtype = self.run.precision.dtype(Role.ADAPTER)
        if not self._again:
            self.parameters.append(Parameter(name, n_elements, dtype, Role.ADAPTER, trainable))

    def note_buffer(self, name: str, n_elements: int, *, shared: bool = False) -> None:
        """Note adapter numbers that are stored and no parameter; a shared one exists once in the model."""
        dtype = self.run.precision.dtype(Role.ADAPTER)
        storage: Storage = "shared_buffer" if shared else "buffer"
        if self._again:
            return
        self.parameters.append(Parameter(name, n_elements, dtype, Role.ADAPTER, False, storage=storage))

    def add(
        self,
        name: str,
        kind: Kind,
        output: Access,
        inputs: tuple[Access, ...],
        *,
        function: str = "identity",
        reduce: str = "",
        group: str = "",
        mask: Mask | None = None,
        repeat: int = 1,
        serial_rank: str = "",
        parameters: tuple[tuple[str, float], ...] = (),
    ) -> str:
        """Append an operator and return its output tensor."""
        return self.append(
            Operator(
                name, kind, output, inputs, function=function, reduce=reduce, group=group, mask=mask,
                repeat=repeat, serial_rank=serial_rank, parameters=parameters,
            )
        )  # fmt: skip

    def append(self, operator: Operator) -> str:
        """Append an operator that is made already and return its output tensor."""
        if operator.name in self._operators:
            raise ValueError(f"operator {operator.name!r} is added twice")
        self._operators[operator.name] = operator
        return operator.output.tensor

    def pointwise(
        self,
        name: str,
        output: str,
        inputs: tuple[Access, ...],
        function: str,
        *,
        ranks: tuple[str, ...] | None = None,
        group: str = "",
        mask: Mask | None = None,
        parameters: tuple[tuple[str, float], ...] = (),
    ) -> str:
        """An elementwise operator into a new activation with the ranks of its first input."""
        self.tensor(output, inputs[0].ranks if ranks is None else ranks, Role.ACTIVATION)
        return self.add(
            name, Kind.POINTWISE, self.access(output), inputs, function=function, group=group,
            mask=mask, parameters=parameters,
        )  # fmt: skip

    def reduction(
        self,
        name: str,
        output: str,
        ranks: tuple[str, ...],
        inputs: tuple[Access, ...],
        reduce: str,
        *,
        function: str = "identity",
        group: str = "",
        mask: Mask | None = None,
        parameters: tuple[tuple[str, float], ...] = (),
    ) -> str:
        """A reduction into a new tensor over `ranks`, of the accumulators' type."""
        self.tensor(output, ranks, Role.ACTIVATION, self.run.precision.accumulators)
        return self.add(
            name, Kind.REDUCTION, self.access(output), inputs, function=function, reduce=reduce,
            group=group, mask=mask, parameters=parameters,
        )  # fmt: skip

    def contraction(
        self,
        name: str,
        output: str,
        ranks: tuple[str, ...],
        inputs: tuple[Access, ...],
        group: str,
        *,
        mask: Mask | None = None,
        parameters: tuple[tuple[str, float], ...] = (),
    ) -> str:
        """A sum of products into a new activation over `ranks`."""
        self.tensor(output, ranks, Role.ACTIVATION)
        return self.add(
            name, Kind.CONTRACTION, self.access(output), inputs, function="mul", reduce="sum",
            group=group, mask=mask, parameters=parameters,
        )  # fmt: skip

    def gather(
        self,
        name: str,
        output: str,
        ranks: tuple[str, ...],
        inputs: tuple[Access, ...],
        group: str = "embedding",
    ) -> str:
        """Rows that the first input selects from the second, into a new activation over `ranks`."""
        self.tensor(output, ranks, Role.ACTIVATION)
        return self.add(name, Kind.GATHER, self.access(output), inputs, group=group)

    def adapt_embedding(self, table: str, tokens: str, output: str) -> str:
        """The output of the embedding module `table` with its adapter, if it has one."""
        self.modules.append(Module(self.full_path(table), "embedding"))
        return self._adapters.embedding(self, table, tokens, output) if self._adapters else output

    def note_side_table(self, table: str) -> None:
        """Note the embedding module of positions or types, which no adapter changes."""
        self.modules.append(Module(self.full_path(table), "embedding"))
        if self._adapters:
            self._adapters.refuse_side_table(self.full_path(table))

    def keep(self, tensor: str) -> None:
        """Make a tensor live-out besides the layer's result."""
        self._kept.append(tensor)

    def convolution(self, spec: Filter, kernel: str) -> str:
        """The product of a convolution with the tensor `kernel` (+ adapter); returns the last output."""
        inputs = (spec.image, self.access(kernel))
        output = self.contraction(spec.name, spec.product, spec.output, inputs, spec.group)
        return self.adapt_convolution(spec, output)

    def adapt_convolution(self, spec: Filter, output: str) -> str:
        """The product `output` of a convolution with its adapter, if it has one."""
        self.modules.append(Module(self.full_path(spec.module), "convolution"))
        return self._adapters.convolution(self, spec, output) if self._adapters else output

    def linear(self, linear: Linear) -> str:
        """y = W x (+ adapter) (+ bias) as separate operators; returns the last one's output.

        A tied weight keeps the layout of the table that it shares: output rank first.
        """
        self._again = bool(linear.alias)
        output = self._linear(linear)
        if self._adapters:
            output = self._adapters.after(self, linear, output)
        self._again = False
        return output

    def _linear(self, linear: Linear) -> str:
        if self._adapters:
            linear = self._adapters.before(self, linear)
        name, tied = linear.name, linear.weight_tied_to
        ranks = (*linear.output, *linear.inner) if tied else (*linear.inner, *linear.output)
        weight = linear.made_weight or self.access(self._linear_weight(linear, "weight", ranks, tied))
        inputs = (linear.input, weight)
        output = self.contraction(
            name, f"{name}_product", (*linear.kept, *linear.output), inputs, linear.group
        )
        if not linear.alias:
            self.modules.append(Module(self.full_path(linear.module), "linear", not linear.adapts))
        if self._adapters:
            output = self._adapters.linear(self, linear, output)
        if not linear.bias:
            return output
        bias = self._linear_weight(linear, "bias", linear.output, linear.bias_tied_to)
        inputs = (self.access(output), self.access(bias))
        return self.pointwise(f"{name}_bias", f"{name}_out", inputs, "add", group=linear.group)

    def stored_weight(self, linear: Linear) -> str:
        """The weight of a module whose product an adapter makes of another one; declared once."""
        return self._linear_weight(linear, "weight", (*linear.inner, *linear.output), "")

    def _linear_weight(self, linear: Linear, parameter: str, ranks: tuple[str, ...], tied_to: str) -> str:
        if linear.alias:
            return word(f"{linear.module}.{parameter}")
        return self.weight(linear.module, parameter, ranks, tied_to, linear.part)

    def build(self, output: str) -> Graph:
        """The graph with `output` and the kept tensors live-out."""
        return Graph(
            self.name, tuple(self._ranks.items()), tuple(self._tensors.values()),
            tuple(self._operators.values()), tuple(self._inputs), (output, *self._kept),
        )  # fmt: skip


def word(path: str) -> str:
    """A dotted path as one identifier."""
    return path.replace(".", "_")


def shifted(rank: str, offset: int) -> Index:
    """The index rank + offset."""
    return Index((IndexTerm(rank),), offset)


def flat_index(builder: LayerBuilder, ranks: tuple[str, ...]) -> Index:
    """The position in the ranks taken as one, the last one fastest."""
    sizes = [builder.size(ranks[place + 1 :]) for place in range(len(ranks))]
    return Index(tuple(IndexTerm(rank, size) for rank, size in zip(ranks, sizes, strict=True)))


def block_index(builder: LayerBuilder, ranks: tuple[str, ...], block: int) -> Index:
    """The block of `block` positions, which divides the last rank, that a position of the ranks lies in."""
    *outer, last = ranks
    n_blocks = builder.size((last,)) // block
    terms = flat_index(builder, tuple(outer)).terms if outer else ()
    scaled = tuple(IndexTerm(term.rank, term.coefficient * n_blocks) for term in terms)
    return Index((*scaled, IndexTerm(last, 1, block)))


def times(parameters: Iterable[Parameter], count: int) -> tuple[Parameter, ...]:
    """The parameters of one layer, for `count` layers."""
    return tuple(p if p.storage == "shared_buffer" else replace(p, count=p.count * count) for p in parameters)
