"""Models of two towers: a text encoder, an image encoder, and how well their results match."""

from dataclasses import dataclass, replace

from tilewright.dataflow.operator import Access, Index
from tilewright.dataflow.tensor import Role
from tilewright.workloads.attention import Attention
from tilewright.workloads.builder import LayerBuilder, Linear, shifted
from tilewright.workloads.feed_forward import FeedForward, feed_forward
from tilewright.workloads.gradient import DETACHED
from tilewright.workloads.head import Head
from tilewright.workloads.mixing import Heads, mix
from tilewright.workloads.norms import Norm, normalise
from tilewright.workloads.patches import PatchEmbedding
from tilewright.workloads.run import Run
from tilewright.workloads.transformer import Entry, Part, Transformer


@dataclass(frozen=True, slots=True)
class Match:
    """Projections of a text's last state and an image's first one, and the products of all pairs (CLIP)."""

    text_width: int
    image_width: int
    image_norm: Norm

    def fill(self, builder: LayerBuilder) -> str:
        """Add the matching; `d` is the width of the projections. Returns logits[image, text]."""
        sizes = {"w": self.text_width, "v": self.image_width, "n": builder.run.encoder_seq}
        sizes["o"] = builder.size(("b",))  # texts beside images
        for rank, size in sizes.items():
            builder.rank(rank, size)
        states = builder.input("text_states", ("b", "m", "w"))
        ends = builder.access(builder.input("text_ends", ("b",), Role.INDEX))
        last = Access(states, (Index.of("b"), Index(), Index.of("w")))
        text = builder.gather("text_end", "text_state", ("b", "w"), (ends, last), "head")
        image = builder.input("image_states", ("b", "n", "v"))
        first = Access(image, (Index.of("b"), Index(), Index.of("v")))
        pooled = normalise(builder, first, self.image_norm)
        texts = self._project(builder, "text_projection", text, "w")
        images = self._project(builder, "visual_projection", pooled, "v")
        builder.parameter("", "logit_scale", 1)
        pairs = (builder.access(images), Access.of(texts, "o", "d"))
        product = builder.contraction("match", "similarities", ("b", "o"), pairs, "linear")
        scale = builder.access(builder.weight_input("logit_scale", (), "", "logit_scale"))
        terms = (builder.access(product), scale)
        return builder.pointwise("match_scale", "logits", terms, "exp_scale", group="head")

    def _project(self, builder: LayerBuilder, module: str, state: str, width: str) -> str:
        """A projected state of length 1."""
        y = builder.linear(Linear(module, builder.access(state), ("d",), (width,)))
        return _unit(builder, module, y)


@dataclass(frozen=True, slots=True)
class PooledMatch:
    """The products of all pairs of pooled states, scaled and shifted by learned numbers (SigLIP)."""

    def fill(self, builder: LayerBuilder) -> str:
        """Add the matching; `d` is the width of both pooled states. Returns logits[text, image]."""
        builder.rank("o", builder.size(("b",)))  # images beside texts
        texts, images = (
            _unit(builder, name, builder.input(f"{name}_state", ("b", "d"))) for name in ("text", "image")
        )
        pairs = (builder.access(texts), Access.of(images, "o", "d"))
        product = builder.contraction("match", "similarities", ("b", "o"), pairs, "linear")
        learned = []
        for name in ("logit_scale", "logit_bias"):
            builder.parameter("", name, 1)
            learned.append(builder.access(builder.weight_input(name, (), "", name)))
        terms = (builder.access(product), *learned)
        return builder.pointwise("match_scale", "logits", terms, "exp_scale_add", group="head")


def _unit(builder: LayerBuilder, name: str, state: str) -> str:
    """A state[b, d] divided by its length."""
    source = builder.access(state)
    length = builder.reduction(f"{name}_norm", f"{name}_length", ("b",), (source,), "l2", group="head")
    terms = (source, builder.access(length))
    return builder.pointwise(f"{name}_scale", f"{name}_unit", terms, "div", group="head")


@dataclass(frozen=True, slots=True)
class LastToken:
    """A text's last state through a linear module of `width` rows."""

    module: str
    width: int

    def fill(self, builder: LayerBuilder) -> str:
        """Add the projection of x[b, m, d]; returns state[b, v]."""
        builder.rank("v", self.width)
        x = builder.input("x", ("b", "m", "d"))
        last = Access(x, (Index.of("b"), Index(offset=builder.run.seq - 1), Index.of("d")))
        return builder.linear(Linear(self.module, last, ("v",), ("d",), bias=True))


@dataclass(frozen=True, slots=True)
class AttentionPool:
    """A learned query that looks at an image's states, and a network: y = a + network(norm a) (SigLIP).

    `attention` is one to an encoder; one parameter holds the weights of its queries, keys and values. What is
    `unused` is computed for nothing, and not trained.
    """

    path: str
    attention: Attention
    norm: Norm
    network: FeedForward
    unused: bool = False

    def fill(self, builder: LayerBuilder) -> str:
        """Add the pooling of image_states[b, l, d] by one query, m = 1; returns state[b, m, d]."""
        heads = self.attention.n_heads
        sizes = {"l": builder.run.encoder_seq, "h": heads, "s": 3, "o": 2}
        sizes |= {"e": self.attention.head_dim, "f": self.attention.head_dim}
        for rank, size in sizes.items():
            builder.rank(rank, size)
        weight = builder.weight(f"{self.path}.attention", "in_proj_weight", ("s", "d", "h", "e"))
        bias = builder.weight(f"{self.path}.attention", "in_proj_bias", ("s", "h", "e"))
        probe = builder.weight(self.path, "probe", ("m", "d"))
        states = builder.input("image_states", ("b", "l", "d"))
        asked = self._asked(builder, probe)
        query = self._project(builder, "query", asked, asked.ranks[:-1], weight, bias)
        both = self._project(builder, "key_value", builder.access(states), ("b", "l", "o"), weight, bias)
        batch = (Index.of("b"),) if "b" in asked.ranks else ()
        looks = Heads(
            lambda token, head, channel: Access(query, (*batch, token, head, channel)),
            lambda token, head, channel: Access(both, (Index.of("b"), token, Index(), head, channel)),
            lambda token, head, channel: Access(both, (Index.of("b"), token, Index(offset=1), head, channel)),
        )
        mixed = builder.access(mix(builder, looks, self.attention, None))
        output = f"{self.path}.attention.out_proj"
        pooled = builder.linear(Linear(output, mixed, ("d",), ("h", "f"), bias=True))
        inner = normalise(builder, builder.access(pooled), self.norm)
        terms = (builder.access(pooled), builder.access(feed_forward(builder, inner, self.network)))
        detached = ((DETACHED, 1.0),) if self.unused else ()
        return builder.pointwise(
            "pool_residual", "state", terms, "add", group="residual", parameters=detached
        )

    def _asked(self, builder: LayerBuilder, probe: str) -> Access:
        """The probe, once; the reference repeats it for each image."""
        once = builder.access(probe)
        if builder.run.lowering == "hardware":
            return once
        ranks = ("b", *once.ranks)
        return builder.access(
            builder.pointwise("repeat_probe", "probes", (once,), "identity", ranks=ranks, group="layout")
        )

    def _project(
        self, builder: LayerBuilder, name: str, x: Access, kept: tuple[str, ...], weight: str, bias: str
    ) -> str:
        """The part of the weight that makes the query (s = 0), or keys and values (s = 1 + o)."""
        part = shifted("o", 1) if "o" in kept else Index()
        of_part = (part, Index.of("h"), Index.of("e"))
        factors = (x, Access(weight, (part, Index.of("d"), *of_part[1:])))
        ranks = (*kept, "h", "e")
        product = builder.contraction(f"pool_{name}", f"pool_{name}_product", ranks, factors, "linear")
        terms = (builder.access(product), Access(bias, of_part))
        return builder.pointwise(f"pool_{name}_bias", f"pool_{name}_out", terms, "add", group="linear")


@dataclass(frozen=True, slots=True)
class FirstNorm:
    """The norm of an image's first state, which nothing reads where its patches are classified (CLIP)."""

    norm: Norm

    def fill(self, builder: LayerBuilder) -> str:
        """Add the norm of image_states[b, l, d]; returns state[b, d]."""
        builder.rank("l", builder.run.encoder_seq)
        states = builder.input("image_states", ("b", "l", "d"))
        pooled = normalise(builder, Access(states, (Index.of("b"), Index(), Index.of("d"))), self.norm)
        detached = ((DETACHED, 1.0),)
        source = (builder.access(pooled),)
        return builder.pointwise("pool", "state", source, "identity", group="norm", parameters=detached)


@dataclass(frozen=True, slots=True)
class VisionTower:
    """The tower of images alone, with its `end`, which nothing reads, and a `head` over its states."""

    model_type: str
    vision: Transformer
    end: Entry
    head: Head

    @property
    def width(self) -> int:
        return self.vision.width

    @property
    def max_positions(self) -> None:
        return None

    @property
    def decodes(self) -> bool:
        return False

    @property
    def stacks(self) -> tuple[str, ...]:
        return self.vision.stacks

    def old_path(self, path: str) -> str:
        return path

    def parts(self, run: Run) -> tuple[Part, ...]:
        """The tower, the head, its end."""
        assert isinstance(self.vision.embedding, PatchEmbedding)
        n_tokens = self.vision.embedding.n_tokens
        run = replace(run, seq=n_tokens)
        pool, head = (
            Transformer(self.model_type, self.width, "", entry, (), None, last)
            for entry, last in ((self.end, None), (None, self.head))
        )
        pooled = replace(run, seq=1, encoder_seq=n_tokens)
        # the head follows the tower at once: that is where its gradient goes in a training step
        return (Part(self.vision, run, "vision_"), Part(head, run), Part(pool, pooled, "vision_", "pool"))

    def all_parts(self, run: Run) -> tuple[Part, ...]:
        return self.parts(run)


@dataclass(frozen=True, slots=True)
class TwoTower:
    """`text` and `vision` run side by side, each with its end if it has one; `match` needs both.

    The match's `encoder_seq` is the tokens of the image.
    """

    model_type: str
    text: Transformer
    vision: Transformer
    match: Entry
    match_width: int
    text_end: Entry | None = None
    vision_end: Entry | None = None

    @property
    def width(self) -> int:
        return max(self.text.width, self.vision.width)

    @property
    def max_positions(self) -> int | None:
        return self.text.max_positions

    @property
    def decodes(self) -> bool:
        return False

    @property
    def stacks(self) -> tuple[str, ...]:
        return (*self.text.stacks, *self.vision.stacks)

    def old_path(self, path: str) -> str:
        return path

    @property
    def n_image_tokens(self) -> int:
        assert isinstance(self.vision.embedding, PatchEmbedding)
        return self.vision.embedding.n_tokens

    def parts(self, run: Run) -> tuple[Part, ...]:
        """Both towers and the match, or one tower in its own phase."""
        n_tokens = self.n_image_tokens
        text = [Part(self.text, run, "text_")]
        vision = [Part(self.vision, replace(run, seq=n_tokens), "vision_")]
        if self.text_end:
            text.append(Part(self._alone(self.text_end, self.text.width), run, "text_", "pool"))
        if self.vision_end:
            pooled = replace(run, seq=1, encoder_seq=n_tokens)
            vision.append(Part(self._alone(self.vision_end, self.vision.width), pooled, "vision_", "pool"))
        match run.phase:
            case "prefill:text_tower":
                return tuple(text)
            case "prefill:vision_tower":
                return tuple(vision)
        ending = Part(
            self._alone(self.match, self.match_width), replace(run, encoder_seq=n_tokens), "", "match"
        )
        return (*text, *vision, ending)

    def _alone(self, entry: Entry, width: int) -> Transformer:
        """A stack of nothing but its way in."""
        return Transformer(self.model_type, width, "", entry, (), None, None)

    def all_parts(self, run: Run) -> tuple[Part, ...]:
        return self.parts(replace(run, phase="prefill"))
