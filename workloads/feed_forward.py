"""Feed-forward networks: up, activation, down; or gated."""

from dataclasses import dataclass

from tilewright.workloads.builder import LayerBuilder, Linear


@dataclass(frozen=True, slots=True)
class FeedForward:
    """down(function(up x)), or down(function(gate x) * up x) where `gate` names a module.

    Module names are below `path` (empty: below the layer).
    """

    path: str
    inner_width: int
    up: str
    down: str
    function: str
    gate: str = ""
    bias: bool = False


def feed_forward(builder: LayerBuilder, x: str, spec: FeedForward) -> str:
    """Add the network on x[b, m, d]; returns y[b, m, d]. The inner rank is `i`."""
    builder.rank("i", spec.inner_width)
    prefix = f"{spec.path}." if spec.path else ""
    source = builder.access(x)
    if spec.gate:
        gate = builder.linear(Linear(prefix + spec.gate, source, ("i",), ("d",), spec.bias))
        up = builder.linear(Linear(prefix + spec.up, source, ("i",), ("d",), spec.bias))
        opened = builder.pointwise(
            "activation", "activated", (builder.access(gate),), spec.function, group="ffn"
        )
        factors = (builder.access(opened), builder.access(up))
        inner = builder.pointwise("gate", "gated", factors, "mul", group="ffn")
    else:
        up = builder.linear(Linear(prefix + spec.up, source, ("i",), ("d",), spec.bias))
        inner = builder.pointwise(
            "activation", "activated", (builder.access(up),), spec.function, group="ffn"
        )
    return builder.linear(Linear(prefix + spec.down, builder.access(inner), ("d",), ("i",), spec.bias))
