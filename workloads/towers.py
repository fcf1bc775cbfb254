"""Models of two towers: a text encoder, an image encoder, and how well their results match."""

from dataclasses import dataclass, replace

from tilewright.dataflow.operator import Access, Index
from tilewright.dataflow.tensor import Role
from tilewright.workloads.builder import LayerBuilder, Linear
from tilewright.workloads.norms import Norm, normalise
from tilewright.workloads.patches import PatchEmbedding
from tilewright.workloads.run import Run
from tilewright.workloads.transformer import Part, Transformer


@dataclass(frozen=True, slots=True)
class Match:
    """Projections of a text's last state and an image's first one, and the products of all pairs (CLIP)."""

    text_width: int
    image_width: int
    n_image_tokens: int
    image_norm: Norm

    def fill(self, builder: LayerBuilder) -> str:
        """Add the matching; `d` is the width of the projections. Returns logits[image, text]."""
        sizes = {"w": self.text_width, "v": self.image_width, "n": self.n_image_tokens}
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
        scale = builder.access(builder.input("logit_scale", (), Role.WEIGHT))
        terms = (builder.access(product), scale)
        return builder.pointwise("match_scale", "logits", terms, "exp_scale", group="head")

    def _project(self, builder: LayerBuilder, module: str, state: str, width: str) -> str:
        """A projected state of length 1."""
        y = builder.linear(Linear(module, builder.access(state), ("d",), (width,)))
        source = builder.access(y)
        length = builder.reduction(
            f"{module}_norm", f"{module}_length", ("b",), (source,), "l2", group="head"
        )
        terms = (source, builder.access(length))
        return builder.pointwise(f"{module}_scale", f"{module}_unit", terms, "div", group="head")


@dataclass(frozen=True, slots=True)
class TwoTower:
    """`text` and `vision` run side by side; `match` needs both."""

    model_type: str
    text: Transformer
    vision: Transformer
    projection_width: int
    image_norm: Norm

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
        text = Part(self.text, run, "text_")
        vision = Part(self.vision, replace(run, seq=self.n_image_tokens), "vision_")
        match run.phase:
            case "prefill:text_tower":
                return (text,)
            case "prefill:vision_tower":
                return (vision,)
        entry = Match(self.text.width, self.vision.width, self.n_image_tokens, self.image_norm)
        stack = Transformer(self.model_type, self.projection_width, "", entry, (), None, None)
        return (text, vision, Part(stack, run, "", "match"))

    def all_parts(self, run: Run) -> tuple[Part, ...]:
        return self.parts(replace(run, phase="prefill"))
