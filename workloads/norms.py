"""Layer and root-mean-square normalisation: one reduction for the statistics, one map."""

from dataclasses import dataclass
from typing import Literal

from tilewright.dataflow.operator import Access
from tilewright.workloads.builder import LayerBuilder, Module, word
from tilewright.workloads.run import Part


@dataclass(frozen=True, slots=True)
class Norm:
    """A normalisation over the ranks `over`; `weight` and `bias` tell which parameters it has.

    Parameters are over the ranks `factors` where these are not `over`. A batch norm is by stored statistics,
    which are folded into its parameters.
    """

    module: str
    kind: Literal["layernorm", "rmsnorm", "batchnorm"]
    epsilon: float
    over: tuple[str, ...] = ("d",)
    weight: bool = True
    bias: bool = False
    factors: tuple[str, ...] = ()


def layer_norm(module: str, epsilon: float, affine: bool = True) -> Norm:
    """LayerNorm with weight and bias, or with neither."""
    return Norm(module, "layernorm", epsilon, weight=affine, bias=affine)


def batch_norm(module: str, over: tuple[str, ...] = ("d",)) -> Norm:
    """Batch norm by stored statistics, with weight and bias."""
    return Norm(module, "batchnorm", 1e-5, over, bias=True)


def rms_norm(module: str, epsilon: float) -> Norm:
    """RMSNorm: a weight, no bias."""
    return Norm(module, "rmsnorm", epsilon)


def normalise(builder: LayerBuilder, x: Access, norm: Norm, part: Part = "body") -> str:
    """Add the operators of `norm` on x[..., over]; returns the normalised tensor, ranked as x is.

    `part` is the place of its parameters in the model.
    """
    name = word(norm.module)
    builder.modules.append(Module(builder.full_path(norm.module), "norm"))
    if norm.kind == "batchnorm":
        return builder.pointwise(
            name, f"{name}_out", (x, *_factors(builder, norm, part)), "batchnorm", ranks=x.ranks, group="norm"
        )
    kept = tuple(rank for rank in x.ranks if rank not in norm.over)
    layer = norm.kind == "layernorm"
    statistics = builder.reduction(
        f"{name}_statistics", f"{name}_moments", kept, (x,),
        "mean_variance" if layer else "mean",
        function="identity" if layer else "square", group="norm",
    )  # fmt: skip
    inputs = (x, builder.access(statistics), *_factors(builder, norm, part))
    return builder.pointwise(
        name, f"{name}_out", inputs, norm.kind,
        ranks=x.ranks, group="norm", parameters=(("epsilon", norm.epsilon),),
    )  # fmt: skip


def _factors(builder: LayerBuilder, norm: Norm, part: Part) -> tuple[Access, ...]:
    """Weight and bias, those that it has."""
    ranks = norm.factors or norm.over
    present = [name for name, has in (("weight", norm.weight), ("bias", norm.bias)) if has]
    return tuple(builder.access(builder.weight(norm.module, name, ranks, part=part)) for name in present)
