"""Transformer blocks: attention and a feed-forward network, with norms and residual sums."""

from dataclasses import dataclass
from typing import Literal

from tilewright.workloads.attention import Attention, attend
from tilewright.workloads.builder import LayerBuilder, word
from tilewright.workloads.disentangled import DisentangledAttention, attend_disentangled
from tilewright.workloads.experts import Experts, mix_experts
from tilewright.workloads.feed_forward import FeedForward, feed_forward
from tilewright.workloads.latent import LatentAttention, attend_latent
from tilewright.workloads.norms import Norm, normalise


@dataclass(frozen=True, slots=True)
class Block:
    """One transformer layer.

    `pre`: x += attention(norm x); x += ffn(norm x). `parallel`: x += attention(norm x) + ffn(norm x)
    with one norm or one each. `post`: x = norm(x + attention x); x = norm(x + ffn x). Without an
    `attention_norm` attention takes x as it is.
    """

    attention: Attention | LatentAttention | DisentangledAttention
    feed_forward: FeedForward | Experts
    attention_norm: Norm | None
    feed_forward_norm: Norm | None
    placement: Literal["pre", "post", "parallel"] = "pre"
    scales: tuple[str, str] | None = None  # parameters that scale what attention and network add
    cross: Attention | None = None  # attention to the encoder, between attention and network
    cross_norm: Norm | None = None
    attention_out_norm: Norm | None = None  # behind attention and network, before the sums
    feed_forward_out_norm: Norm | None = None

    @property
    def keeps_cache(self) -> bool:
        return self.attention.cached

    @property
    def input_ranks(self) -> tuple[str, ...]:
        return ("b", "m", "d")

    def declare(self, builder: LayerBuilder) -> None:
        """b, m and d are all that it takes."""

    def fill(self, builder: LayerBuilder, x: str) -> str:
        """Add the block on x[b, m, d]; returns its result, ranked alike."""
        if self.placement == "post":
            return _fill_post(builder, self, x)
        norm = self.attention_norm
        inner = normalise(builder, builder.access(x), norm) if norm else x
        mixed = _attention(builder, inner, self.attention)
        if self.placement == "parallel":
            if self.feed_forward_norm:
                inner = normalise(builder, builder.access(x), self.feed_forward_norm)
            fed = _network(builder, inner, self.feed_forward)
            return residual(builder, "residual", "y", x, mixed, fed)
        if self.attention_out_norm:
            mixed = normalise(builder, builder.access(mixed), self.attention_out_norm)
        if self.scales:
            mixed = _scale(builder, self.scales[0], mixed)
        middle = residual(builder, "attention_residual", "x_mixed", x, mixed)
        if self.cross:
            assert self.cross_norm is not None
            inner = normalise(builder, builder.access(middle), self.cross_norm)
            crossed = attend(builder, inner, self.cross)
            middle = residual(builder, "cross_residual", "x_crossed", middle, crossed)
        assert self.feed_forward_norm is not None
        inner = normalise(builder, builder.access(middle), self.feed_forward_norm)
        fed = _network(builder, inner, self.feed_forward)
        if self.feed_forward_out_norm:
            fed = normalise(builder, builder.access(fed), self.feed_forward_out_norm)
        if self.scales:
            fed = _scale(builder, self.scales[1], fed)
        return residual(builder, "feed_forward_residual", "y", middle, fed)


def _scale(builder: LayerBuilder, parameter: str, x: str) -> str:
    """x times a learned factor per channel; `parameter` is its path below the layer."""
    module, _, last = parameter.rpartition(".")
    factors = builder.weight(module, last, ("d",))
    inputs = (builder.access(x), builder.access(factors))
    name = word(parameter)
    return builder.pointwise(f"{name}_scale", f"{name}_scaled", inputs, "mul", group="residual")


def _fill_post(builder: LayerBuilder, block: Block, x: str) -> str:
    assert block.attention_norm is not None
    assert block.feed_forward_norm is not None
    mixed = _attention(builder, x, block.attention)
    summed = residual(builder, "attention_residual", "x_mixed", x, mixed)
    middle = normalise(builder, builder.access(summed), block.attention_norm)
    if block.cross:
        assert block.cross_norm is not None
        crossed = attend(builder, middle, block.cross)
        summed = residual(builder, "cross_residual", "x_crossed", middle, crossed)
        middle = normalise(builder, builder.access(summed), block.cross_norm)
    fed = _network(builder, middle, block.feed_forward)
    summed = residual(builder, "feed_forward_residual", "x_fed", middle, fed)
    return normalise(builder, builder.access(summed), block.feed_forward_norm)


def _attention(
    builder: LayerBuilder, x: str, spec: Attention | LatentAttention | DisentangledAttention
) -> str:
    if isinstance(spec, DisentangledAttention):
        return attend_disentangled(builder, x, spec)
    if isinstance(spec, LatentAttention):
        return attend_latent(builder, x, spec)
    return attend(builder, x, spec)


def _network(builder: LayerBuilder, x: str, spec: FeedForward | Experts) -> str:
    return mix_experts(builder, x, spec) if isinstance(spec, Experts) else feed_forward(builder, x, spec)


def residual(builder: LayerBuilder, name: str, output: str, *terms: str) -> str:
    """The sum of tensors that are ranked alike."""
    inputs = tuple(builder.access(term) for term in terms)
    return builder.pointwise(name, output, inputs, "add", group="residual")
