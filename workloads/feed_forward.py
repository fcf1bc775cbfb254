"""Feed-forward networks: up, activation, down; or gated."""

from dataclasses import dataclass

from tilewright.dataflow.operator import Access, Index
from tilewright.workloads.builder import LayerBuilder, Linear


@dataclass(frozen=True, slots=True)
class FeedForward:
    """down(function(up x)), or down(function(gate x) * up x) where `gate` names a module.

    Module names are below `path` (empty: below the layer). Where `fused`, the module `up` writes gate and
    up one behind the other.
    """

    path: str
    inner_width: int
    up: str
    down: str
    function: str
    gate: str = ""
    bias: bool = False
    fused: bool = False


def feed_forward(builder: LayerBuilder, x: str, spec: FeedForward, inner_rank: str = "i") -> str:
    """Add the network on x[b, m, d]; returns y[b, m, d]."""
    builder.rank(inner_rank, spec.inner_width)
    prefix = f"{spec.path}." if spec.path else ""
    source = builder.access(x)
    if spec.fused:
        inner = _fused_gate(builder, source, prefix + spec.up, spec)
    elif spec.gate:
        gate = builder.linear(Linear(prefix + spec.gate, source, (inner_rank,), ("d",), spec.bias))
        up = builder.linear(Linear(prefix + spec.up, source, (inner_rank,), ("d",), spec.bias))
        opened = builder.pointwise(
            "activation", "activated", (builder.access(gate),), spec.function, group="ffn"
        )
        factors = (builder.access(opened), builder.access(up))
        inner = builder.pointwise("gate", "gated", factors, "mul", group="ffn")
    else:
        up = builder.linear(Linear(prefix + spec.up, source, (inner_rank,), ("d",), spec.bias))
        inner = builder.pointwise(
            "activation", "activated", (builder.access(up),), spec.function, group="ffn"
        )
    return builder.linear(Linear(prefix + spec.down, builder.access(inner), ("d",), (inner_rank,), spec.bias))


def _fused_gate(builder: LayerBuilder, x: Access, module: str, spec: FeedForward) -> str:
    """function(gate x) * up x from one product [b, m, q, i], q = 0 the gate, q = 1 up."""
    builder.rank("q", 2)
    both = builder.linear(Linear(module, x, ("q", "i"), ("d",), spec.bias))
    gate, up = (
        Access(both, (Index.of("b"), Index.of("m"), Index(offset=part), Index.of("i"))) for part in (0, 1)
    )
    ranks = ("b", "m", "i")
    opened = builder.pointwise("activation", "activated", (gate,), spec.function, ranks=ranks, group="ffn")
    factors = (builder.access(opened), up)
    return builder.pointwise("gate", "gated", factors, "mul", ranks=ranks, group="ffn")
