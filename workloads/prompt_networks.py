"""P-tuning: a trained network makes the vectors before the text (arXiv 2103.10385)."""

from dataclasses import dataclass

from tilewright.dataflow.operator import Access, Index, Kind
from tilewright.dataflow.tensor import Role
from tilewright.workloads.builder import LayerBuilder
from tilewright.workloads.prompts import PromptPlan

#: Gates of a recurrent cell, and the directions that it runs in.
_N_GATES, _N_DIRECTIONS = 4, 2


@dataclass(frozen=True)
class NetworkPlan(PromptPlan):
    """`n_tokens` vectors that a perceptron of three layers makes, or `n_recurrent` recurrent layers in both
    directions and a perceptron of two.

    The reference runs the network at each call, once for all sequences; hardware stores its result.
    """

    hidden_width: int = 0
    n_recurrent: int = 0

    def prelude(self, builder: LayerBuilder) -> str | None:
        for rank, size in {"p": self.n_tokens, "d": self.width}.items():
            builder.rank(rank, size)
        table = builder.adapter_weight("prompt_table", ("p", "d"), "prompt_encoder.default.embedding.weight")
        source = (Access.of(table, "p", "d"),)
        x = builder.pointwise("prompt_rows", "prompt_vectors", source, "identity", group="adapter")
        widths = [self.width, self.hidden_width, self.hidden_width, self.width]
        if self.n_recurrent:
            for number in range(self.n_recurrent):
                x = self._recurrent(builder, x, number)
            widths = [_N_DIRECTIONS * self.hidden_width] * 2 + [self.width]
        for number in range(len(widths) - 1):
            x = _project(builder, x, number, widths[number + 1], last=number == len(widths) - 2)
        return x if builder.run.lowering == "reference" else None

    def _recurrent(self, builder: LayerBuilder, x: str, number: int) -> str:
        """One recurrent layer over x[p, width]: y[p, 2 hidden], the directions side by side."""
        hidden, name = self.hidden_width, f"lstm{number}"
        sizes = {
            f"{name}_s": _N_DIRECTIONS, f"{name}_g": _N_GATES, f"{name}_h": hidden, f"{name}_o": hidden,
            f"{name}_y": _N_DIRECTIONS * hidden,
        }  # fmt: skip
        side, gate, output, before, both = (builder.rank(rank, size) for rank, size in sizes.items())
        width = builder.ranks_of(x)[1]
        path = f"prompt_encoder.default.lstm_head.{{}}_l{number}"
        into = _both_sides(builder, f"{name}_ih", (side, width, gate, output), path.format("weight_ih"))
        back = _both_sides(builder, f"{name}_hh", (side, before, gate, output), path.format("weight_hh"))
        biases = [
            _both_sides(builder, f"{name}_{part}_bias", (side, gate, output), path.format(f"bias_{part}"))
            for part in ("ih", "hh")
        ]
        ranks = ("p", side, gate, output)
        factors = (builder.access(x), builder.access(into))
        gates = builder.contraction(f"{name}_gates", f"{name}_in", ranks, factors, "adapter")
        states = builder.tensor(f"{name}_states", ("p", side, before), Role.STATE)
        terms = (builder.access(gates), *map(builder.access, biases))
        builder.add(
            f"{name}_cell", Kind.SCAN, Access.of(states, "p", side, before), terms, function="lstm",
            group="adapter", serial_rank="p",
        )  # fmt: skip
        self._again(builder, name, states, builder.access(back))
        joined = builder.tensor(f"{name}_out", ("p", both), Role.ACTIVATION)
        row = Access(states, (Index.of("p"), Index(), Index()))
        return builder.add(f"{name}_join", Kind.GATHER, builder.access(joined), (row,), group="adapter")

    def _again(self, builder: LayerBuilder, name: str, states: str, back: Access) -> None:
        """What each step takes from the state before it; the first one's is no result of the network."""
        side, before, gate, output = back.ranks
        start = builder.rank(f"{name}_z", 1)
        zeros = builder.access(builder.input(f"{name}_start", (start, side, before), Role.STATE))
        ranks = (start, side, gate, output)
        builder.keep(builder.contraction(f"{name}_begin", f"{name}_first", ranks, (zeros, back), "adapter"))
        if self.n_tokens == 1:
            return
        later = builder.rank(f"{name}_q", self.n_tokens - 1)
        again = builder.tensor(f"{name}_again", (later, side, gate, output), Role.ACTIVATION)
        earlier = Access.of(states, later, side, before)
        builder.add(
            f"{name}_recur", Kind.CONTRACTION, builder.access(again), (earlier, back), function="mul",
            reduce="sum", group="adapter", serial_rank=later,
        )  # fmt: skip
        builder.keep(again)


def _both_sides(builder: LayerBuilder, name: str, ranks: tuple[str, ...], parameter: str) -> str:
    """A trained tensor whose first rank is the direction: one parameter each."""
    for ending in ("", "_reverse"):
        builder.note_adapter(parameter + ending, builder.size(ranks[1:]))
    builder.trained.append(name)
    return builder.input(name, ranks, Role.ADAPTER)


def _project(builder: LayerBuilder, x: str, number: int, width: int, *, last: bool) -> str:
    """One layer of the perceptron, its function behind it unless it is the last."""
    name, inner = f"prompt_mlp{number}", builder.ranks_of(x)[1]
    output = builder.rank(f"{name}_w", width)
    path = f"prompt_encoder.default.mlp_head.{2 * number}"
    weight = builder.adapter_weight(f"{name}_weight", (inner, output), f"{path}.weight")
    bias = builder.adapter_weight(f"{name}_bias_row", (output,), f"{path}.bias")
    factors = (builder.access(x), builder.access(weight))
    product = builder.contraction(name, f"{name}_product", ("p", output), factors, "adapter")
    terms = (builder.access(product), builder.access(bias))
    y = builder.pointwise(f"{name}_bias", f"{name}_out", terms, "add", group="adapter")
    if last:
        return y
    return builder.pointwise(f"{name}_relu", f"{name}_opened", (builder.access(y),), "relu", group="adapter")
