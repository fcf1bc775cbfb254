"""What the schedules of fused attention need of a graph: sizes of one attention, and blocks of an array."""

from dataclasses import dataclass
from math import prod

from tilewright.dataflow.graph import Graph
from tilewright.sim.sequential_plan import AttentionPlan, Fusion, plan_graph, roles_of


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """One attention: `n_heads` pairs of (queries x keys), independent of each other.

    `n_heads` counts batch elements and heads; `key_width` is summed over by the scores, `value_width` is what a
    value holds; `element_bits` are those of every tensor. `operators` are those of the graph that it covers.
    """

    n_heads: int
    n_queries: int
    n_keys: int
    key_width: int
    value_width: int
    element_bits: int
    tensors: tuple[str, str, str, str]  # queries, keys, values, output
    operators: tuple[str, ...]

    @property
    def element_bytes(self) -> int:
        return -(-self.element_bits // 8)

    @property
    def n_macs(self) -> int:
        """Of both products, every score computed."""
        return self.n_heads * self.n_queries * self.n_keys * (self.key_width + self.value_width)


def attentions_of(graph: Graph) -> tuple[AttentionShape, ...]:
    """The attentions of `graph`, in order: a softmax between two products, nothing else reading the scores.

    The schedules of this family compute every score, masked or not.
    """
    plan = plan_graph(graph, Fusion(maps=False, attention=True, low_rank=False))
    return tuple(_shape(graph, stage) for stage in plan.stages if isinstance(stage, AttentionPlan))


def _shape(graph: Graph, plan: AttentionPlan) -> AttentionShape:
    first, second = roles_of(plan.score), roles_of(plan.mix)

    def size(ranks: tuple[str, ...]) -> int:
        return prod(graph.size(rank) for rank in ranks)

    tensors = (
        plan.score.inputs[0].tensor,
        plan.score.inputs[1].tensor,
        plan.mix.inputs[1].tensor,
        plan.mix.output.tensor,
    )
    return AttentionShape(
        n_heads=size(first.batch),
        n_queries=size(first.m),
        n_keys=size(first.n),
        key_width=size(first.k),
        value_width=size(second.n),
        element_bits=max(graph.tensor_by_name[name].bits for name in tensors),
        tensors=tensors,
        operators=tuple(operator.name for operator in plan.operators),
    )
