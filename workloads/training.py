"""A training step as a network: the forward classes, the backward ones in reverse order, the updates."""

from collections.abc import Iterable
from dataclasses import dataclass

from tilewright.dataflow.graph import Graph, LayerClass, Network
from tilewright.workloads.gradient import differentiate, needing_gradients
from tilewright.workloads.policy import Recompute
from tilewright.workloads.recompute import recomputed

#: What a backward class is named after its forward class.
BACKWARD = "_backward"
_BLOCK = "block"  # what the name of a class of layers contains


@dataclass(frozen=True, slots=True)
class Step:
    """A forward class and the live-in tensors of it that are trained.

    `stack` names the stack that it belongs to; `opens` marks the way into one, which takes nothing of what
    came before.
    """

    layer: LayerClass
    trained: tuple[str, ...]
    stack: str = ""
    opens: bool = False


#: Live-in activations that are the result of a stack as a whole, by what their names begin with.
_RESULTS = (("encoder_states", "encoder"), ("text_state", "text"), ("image_state", "vision"))
_FEATURES = "features_"  # and the number of a stage


def training_network(steps: Iterable[Step], dtype: str, recompute: Recompute) -> Network:
    """Forward and backward classes; gradients have the type `dtype`.

    What a policy `recompute` does not keep of a layer, its backward class computes again.

    The backward pass goes down to the lowest class that holds something trained. Where the input of a
    class needs a gradient in all of its layers but the first, the first one is a class of its own.
    """
    forward: list[LayerClass] = []
    backward: list[LayerClass] = []
    carried: set[str] = set()  # live-in activations of the next class that need a gradient
    ends: set[str] = set()  # stacks whose result needs a gradient
    for step in steps:
        if step.opens:
            carried = set()
        carried |= {name for name in step.layer.graph.inputs if _stack_of(name) in ends}
        forward.append(step.layer)
        left = step.layer.count
        while left:
            graph = step.layer.graph
            sources = _sources(graph, step.trained, carried)
            following = _carried_on(graph, sources, carried)
            n_layers = left if following == carried else 1
            name = step.layer.name + BACKWARD + ("" if n_layers == left else "_first")
            if (found := differentiate(graph, sources, dtype)) is not None:
                if _BLOCK in step.layer.name:
                    found = recomputed(graph, found, recompute)
                backward.append(LayerClass(name, found, n_layers, step.layer.name))
            carried = following
            left -= n_layers
        ends = ends | {step.stack} if "x" in carried else ends - {step.stack}
    return (*forward, *reversed(backward))


def _stack_of(name: str) -> str | None:
    """The stack whose result a live-in activation is, None for any other."""
    if name.startswith(_FEATURES):
        return f"stage{name.removeprefix(_FEATURES)}"
    return next((stack for start, stack in _RESULTS if name.startswith(start)), None)


def _sources(graph: Graph, trained: tuple[str, ...], carried: set[str]) -> tuple[str, ...]:
    return tuple(name for name in graph.inputs if name in trained or name in carried)


def _carried_on(graph: Graph, sources: tuple[str, ...], carried: set[str]) -> set[str]:
    """What needs a gradient behind this class: its result, as the next one's `x`, and what it passes by."""
    needs = needing_gradients(graph, sources)
    result, *beside = graph.outputs
    passing = {name for name in carried if name != "x"}
    return passing | {name for name in beside if name in needs} | ({"x"} if result in needs else set())
