"""The update of trained parameters: an optimizer's state, and the operators that step it."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from tilewright.dataflow.graph import Graph, LayerClass, Network
from tilewright.dataflow.operator import Access, Kind, Operator
from tilewright.dataflow.tensor import DTYPE_BITS, Role, Tensor
from tilewright.workloads.builder import word
from tilewright.workloads.policy import OptimizerName
from tilewright.workloads.run import Parameter

#: Moments and masters are kept in this type; narrower weights have a master (arXiv 1710.03740).
STATE_DTYPE = "fp32"
#: Elements of a moment that share a scale where moments have 8 bits (arXiv 2110.02861).
BLOCK_ELEMENTS = 2048
_SHORT_DTYPE = "int8"


@dataclass(frozen=True, slots=True)
class Optimizer:
    """`moments` are the averages that it keeps for each number: of gradients, of their squares.

    Where `short`, they are kept in 8 bits with a scale for each block.
    """

    moments: tuple[str, ...]
    short: bool = False


#: SGD; with momentum; Adam (arXiv 1412.6980) and AdamW (arXiv 1711.05101), whose states are alike.
OPTIMIZERS: dict[OptimizerName, Optimizer] = {
    "sgd": Optimizer(()),
    "momentum": Optimizer(("first",)),
    "adam": Optimizer(("first", "second")),
    "adamw": Optimizer(("first", "second")),
    "adam8bit": Optimizer(("first", "second"), short=True),
}


def update_network(parameters: Iterable[Parameter], name: OptimizerName, gradient_dtype: str) -> Network:
    """One class of updates for each number of layers that trained parameters have; () without an optimizer.

    A parameter is updated once, wherever it is used.
    """
    if name == "none":
        return ()
    by_count: dict[int, list[Parameter]] = {}
    for parameter in trained(parameters):
        by_count.setdefault(parameter.count, []).append(parameter)
    return tuple(
        LayerClass(
            f"update_{count}",
            _graph(f"update_{count}", chosen, OPTIMIZERS[name], gradient_dtype),
            count,
            "parameters",
        )
        for count, chosen in by_count.items()
    )


def trained(parameters: Iterable[Parameter]) -> list[Parameter]:
    """Parameters that are trained, each storage once."""
    return [p for p in parameters if p.trainable and not p.tied_to and p.storage == "parameter"]


def has_master(dtype: str) -> bool:
    """Whether weights of this type are too narrow to be stepped."""
    return DTYPE_BITS[dtype] < DTYPE_BITS[STATE_DTYPE]


def state_bytes(parameters: Iterable[Parameter], name: OptimizerName) -> int:
    """Bytes of moments, their scales and masters."""
    if name == "none":
        return 0
    optimizer, wide = OPTIMIZERS[name], DTYPE_BITS[STATE_DTYPE] // 8
    total = 0
    for parameter in trained(parameters):
        n = parameter.n_elements
        scales = wide * -(-n // BLOCK_ELEMENTS)
        moment = n * DTYPE_BITS[_SHORT_DTYPE] // 8 + scales if optimizer.short else n * wide
        total += parameter.count * (len(optimizer.moments) * moment + has_master(parameter.dtype) * n * wide)
    return total


def gradient_bytes(parameters: Iterable[Parameter], dtype: str) -> int:
    """Bytes of the gradients of all trained parameters."""
    return sum(p.count * -(-p.n_elements * DTYPE_BITS[dtype] // 8) for p in trained(parameters))


def _graph(name: str, parameters: list[Parameter], optimizer: Optimizer, gradient_dtype: str) -> Graph:
    update = _Update(optimizer, gradient_dtype)
    for number, parameter in enumerate(parameters):
        update.add(str(number), parameter)
    return Graph(
        name, tuple(update.ranks.items()), tuple(update.tensors), tuple(update.operators),
        tuple(update.inputs), tuple(update.outputs),
    )  # fmt: skip


class _Update:
    """Collects the operators that step the parameters of one class, each as one row of numbers.

    Moments in 8 bits are read and written by blocks; a last block that is not full is taken as one.
    """

    def __init__(self, optimizer: Optimizer, gradient_dtype: str) -> None:
        self.ranks: dict[str, int] = {}
        self.tensors: list[Tensor] = []
        self.operators: list[Operator] = []
        self.inputs: list[str] = []
        self.outputs: list[str] = []
        self._optimizer, self._gradient_dtype = optimizer, gradient_dtype

    def add(self, number: str, parameter: Parameter) -> None:
        """Step one parameter: its moments, then itself or its master, then what the model reads."""
        ranks = self._ranks_of(number, parameter.n_elements)
        name = word(parameter.name.replace("*.", ""))
        while f"d_{name}" in self.inputs:  # layers that an adapter changes differently
            name = f"{name}_{number}"
        gradient = self._input(Tensor(f"d_{name}", ranks, self._gradient_dtype, Role.GRADIENT))
        made = [self._moment(moment, name, ranks, gradient) for moment in self._optimizer.moments]
        master = has_master(parameter.dtype)
        weight = Tensor(name, ranks, parameter.dtype, parameter.role)
        stepped = Tensor(f"master_{name}", ranks, STATE_DTYPE, Role.OPTIMIZER) if master else weight
        terms = (self._input(stepped), *(made or (gradient,)))
        function = "adam_step" if len(made) > 1 else "scale_add"
        new = self._output(f"step_{name}", replace(stepped, name=f"{stepped.name}_new"), terms, function)
        if master:
            self._output(f"round_{name}", replace(weight, name=f"{name}_new"), (new,), "requantize")

    def _ranks_of(self, number: str, n_elements: int) -> tuple[str, ...]:
        if not self._optimizer.short:
            self.ranks[f"w{number}"] = n_elements
            return (f"w{number}",)
        inner = min(BLOCK_ELEMENTS, n_elements)
        self.ranks |= {f"s{number}": -(-n_elements // inner), f"w{number}": inner}
        return (f"s{number}", f"w{number}")

    def _moment(self, moment: str, parameter: str, ranks: tuple[str, ...], gradient: Access) -> Access:
        """One average stepped by the gradient; returns the new one, before it is made short."""
        name, function = f"{moment}_{parameter}", f"{moment}_moment"
        wide = Tensor(name, ranks, STATE_DTYPE, Role.OPTIMIZER)
        if not self._optimizer.short:
            terms = (self._input(wide), gradient)
            return self._output(name, replace(wide, name=f"{name}_new"), terms, function)
        short = replace(wide, dtype=_SHORT_DTYPE)
        scale = Tensor(f"{name}_scale", ranks[:1], STATE_DTYPE, Role.OPTIMIZER)
        stored = (self._input(short), self._input(scale), gradient)
        made = self._add(name, replace(wide, name=f"{name}_wide", role=Role.ACTIVATION), stored, function)
        new_scale = replace(scale, name=f"{name}_scale_new")
        largest = self._output(f"{name}_largest", new_scale, (made,), "abs", "max")
        self._output(f"{name}_short", replace(short, name=f"{name}_new"), (made, largest), "div")
        return made

    def _input(self, tensor: Tensor) -> Access:
        self.tensors.append(tensor)
        self.inputs.append(tensor.name)
        return Access.of(tensor.name, *tensor.ranks)

    def _add(
        self, name: str, made: Tensor, terms: tuple[Access, ...], function: str, reduce: str = ""
    ) -> Access:
        self.tensors.append(made)
        output = Access.of(made.name, *made.ranks)
        kind = Kind.REDUCTION if reduce else Kind.POINTWISE
        self.operators.append(Operator(name, kind, output, terms, function, reduce, "optimizer"))
        return output

    def _output(
        self, name: str, made: Tensor, terms: tuple[Access, ...], function: str, reduce: str = ""
    ) -> Access:
        self.outputs.append(made.name)
        return self._add(name, made, terms, function, reduce)
