"""Selective state spaces (Mamba, arXiv 2312.00752): a short convolution and a gated recurrence."""

from dataclasses import dataclass
from typing import Protocol

from tilewright.dataflow.operator import Access, Index, IndexTerm, Kind
from tilewright.dataflow.tensor import Role
from tilewright.workloads.block import residual
from tilewright.workloads.builder import Filter, LayerBuilder, Linear, shifted, word
from tilewright.workloads.norms import Norm, normalise


@dataclass(frozen=True, slots=True)
class SelectiveScan:
    """A layer x += mixer(norm x) whose mixer is a selective scan over the tokens.

    `inner_width` channels hold `state_width` numbers each; a causal convolution of `taps` tokens stands
    before them; step sizes come from `step_rank` numbers per token. Where `by_element` the reference
    multiplies and adds the taps of a step elementwise.
    """

    norm: Norm
    inner_width: int
    state_width: int
    taps: int
    step_rank: int
    function: str
    path: str = "mixer"
    bias: bool = False
    conv_bias: bool = True
    by_element: bool = False
    channel: str = "j"

    @property
    def keeps_cache(self) -> bool:
        return True

    @property
    def input_ranks(self) -> tuple[str, ...]:
        return ("b", "m", "d")

    def declare(self, builder: LayerBuilder) -> None:
        """b, m and d are all that it takes."""

    def fill(self, builder: LayerBuilder, x: str) -> str:
        """Add the layer on x[b, m, d]. Ranks: `j` inner channel, `z` state, `u` tap, `y` step rank."""
        sizes = {
            "j": self.inner_width, "z": self.state_width, "u": self.taps, "y": self.step_rank, "s": 2,
            "w": self.step_rank + 2 * self.state_width,
        }  # fmt: skip
        for rank, size in sizes.items():
            builder.rank(rank, size)
        inner = builder.access(normalise(builder, builder.access(x), self.norm))
        both = builder.linear(Linear(f"{self.path}.in_proj", inner, ("s", "j"), ("d",), self.bias))
        hidden, gate = (
            Access(both, (Index.of("b"), Index.of("m"), Index(offset=part), Index.of("j"))) for part in (0, 1)
        )
        convolved = convolve_causally(builder, self, hidden)
        scanned = _scan(builder, self, convolved)
        opened = builder.pointwise(
            "gate_activation", "gate_opened", (gate,), self.function, ranks=("b", "m", "j"), group="ssm"
        )
        factors = (builder.access(scanned), builder.access(opened))
        gated = builder.access(builder.pointwise("gate", "gated", factors, "mul", group="ssm"))
        y = builder.linear(Linear(f"{self.path}.out_proj", gated, ("d",), ("j",), self.bias))
        return residual(builder, "residual", "y_out", x, y)


class CausalConvolution(Protocol):
    """A convolution of each channel by itself over this and earlier tokens; a layer of this module."""

    @property
    def path(self) -> str: ...
    @property
    def taps(self) -> int: ...
    @property
    def function(self) -> str: ...
    @property
    def conv_bias(self) -> bool: ...
    @property
    def channel(self) -> str: ...
    @property
    def by_element(self) -> bool: ...


def convolve_causally(builder: LayerBuilder, spec: CausalConvolution, hidden: Access) -> str:
    """function(conv(hidden) + bias)[b, m, channel]; keeps the last `taps` inputs.

    Position o reads the inputs o + u - (taps - 1); those before the first token are the kept ones, or
    zero. The reference also computes positions that it drops: it pads both ends in prefill, and reads one
    kept input more than it needs in a step.
    """
    run, drops = builder.run, builder.run.lowering == "reference"
    behind = spec.taps - 1
    first, extra = (1, 1) if drops and run.cache else (0, behind if drops else 0)
    builder.rank("o", run.seq + extra)
    position = Index((IndexTerm("o"), IndexTerm("u")), -behind - first)
    module = f"{spec.path}.conv1d"
    j = spec.channel
    weight = builder.access(builder.weight(module, "weight", ("u", j)))
    inputs = [Access(hidden.tensor, (hidden.indices[0], position, *hidden.indices[2:])), weight]
    past = []
    if run.cache:
        kept = builder.input("conv_past", ("b", "u", j), Role.STATE)
        past = [Access(kept, (Index.of("b"), Index(), Index.of(j)))]
    ranks, factors = ("b", "o", j), (*inputs, *past)
    if spec.by_element and drops and run.cache and run.seq == 1:
        output = builder.reduction(
            word(module), "convolved", ranks, factors, "sum", function="mul", group="ssm"
        )
    else:
        output = builder.contraction(word(module), "convolved", ranks, factors, "conv")
    read = Filter(word(module), module, inputs[0], ("u",), ranks, "convolved", n_groups=builder.size((j,)))
    output = builder.adapt_convolution(read, output)
    used = Access(output, (Index.of("b"), shifted("m", first), Index.of(j)))
    ranks = ("b", "m", j)
    if spec.conv_bias:
        terms = (used, builder.access(builder.weight(module, "bias", (j,))))
        biased = builder.pointwise(
            f"{word(module)}_bias", "convolved_out", terms, "add", ranks=ranks, group="conv"
        )
        used = builder.access(biased)
    if run.phase != "train":
        _keep_inputs(builder, spec, hidden, past)
    return builder.pointwise(
        "conv_activation", "conv_opened", (used,), spec.function, ranks=ranks, group="ssm"
    )


def _keep_inputs(builder: LayerBuilder, spec: CausalConvolution, hidden: Access, past: list[Access]) -> None:
    """The last `taps` inputs of the convolution, for the next step."""
    kept = builder.tensor("conv_state", ("b", "u", spec.channel), Role.STATE)
    row = shifted("u", builder.run.seq - spec.taps)
    last = Access(hidden.tensor, (hidden.indices[0], row, *hidden.indices[2:]))
    builder.add("keep_conv", Kind.SCATTER, builder.access(kept), (*past, last), group="kv_cache")
    builder.keep(kept)


def _scan(builder: LayerBuilder, spec: SelectiveScan, x: str) -> str:
    """y[b, m, j] = C h + D x with h = exp(A step) h[m - 1] + step B x, per channel j and state z."""
    chosen = builder.linear(Linear(f"{spec.path}.x_proj", builder.access(x), ("w",), ("j",)))

    def part(rank: str, offset: int) -> Access:
        return Access(chosen, (Index.of("b"), Index.of("m"), shifted(rank, offset)))

    low, b_row, c_row = (
        part("y", 0), part("z", spec.step_rank), part("z", spec.step_rank + spec.state_width)
    )  # fmt: skip
    step = builder.linear(Linear(f"{spec.path}.dt_proj", low, ("j",), ("y",), bias=True))
    step = builder.pointwise("step_size", "steps", (builder.access(step),), "softplus", group="ssm")
    states = _recur(builder, spec, builder.access(step), builder.access(x), b_row)
    y = builder.tensor("read_out", ("b", "m", "j"), Role.ACTIVATION)
    builder.add(
        "read_state", Kind.CONTRACTION, builder.access(y), (builder.access(states), c_row),
        function="mul", reduce="sum", group="ssm", serial_rank="m",
    )  # fmt: skip
    skip = builder.access(builder.weight(spec.path, "D", ("j",)))
    terms = (builder.access(y), builder.access(x), skip)
    return builder.pointwise("skip", "scanned", terms, "mul_add", group="ssm")


def _recur(builder: LayerBuilder, spec: SelectiveScan, step: Access, x: Access, b_row: Access) -> str:
    """The states[b, m, j, z] of all tokens, computed one after the other; the last one is kept.

    A training step keeps nothing for a later run.
    """
    ranks, state_ranks = ("b", "m", "j", "z"), ("b", "j", "z")
    decay = builder.access(builder.weight(spec.path, "A_log", ("j", "z")))
    decayed = builder.pointwise("decay", "decays", (step, decay), "exp_scale", ranks=ranks, group="ssm")
    fed = builder.pointwise("drive", "drives", (step, b_row, x), "mul", ranks=ranks, group="ssm")
    states = builder.tensor("states", ranks, Role.STATE)
    before = Access(states, (Index.of("b"), shifted("m", -1), Index.of("j"), Index.of("z")))
    inputs = [before, builder.access(decayed), builder.access(fed)]
    if builder.run.cache:
        inputs.append(builder.access(builder.input("ssm_past", state_ranks, Role.STATE)))
    builder.add(
        "recur", Kind.SCAN, builder.access(states), tuple(inputs), function="mul_add", group="ssm",
        serial_rank="m", parameters=(("init_0", 0.0),),
    )  # fmt: skip
    if builder.run.phase == "train":
        return states
    kept = builder.tensor("ssm_state", state_ranks, Role.STATE)
    last = Access(states, (Index.of("b"), Index(offset=builder.run.seq - 1), Index.of("j"), Index.of("z")))
    builder.add("keep_state", Kind.SCATTER, builder.access(kept), (last,), group="kv_cache")
    builder.keep(kept)
    return states
