"""A transformer described by values: the way in, layers, the way out."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from tilewright.workloads.builder import LayerBuilder
from tilewright.workloads.head import Head
from tilewright.workloads.norms import Norm
from tilewright.workloads.run import Run


class Model(Protocol):
    """What is lowered: stacks in runs."""

    @property
    def model_type(self) -> str: ...

    @property
    def width(self) -> int:
        """The largest width of its stacks."""
        ...

    @property
    def max_positions(self) -> int | None:
        """Tokens that fit; None: no limit."""
        ...

    @property
    def decodes(self) -> bool:
        """Whether it keeps a cache and computes token after token."""
        ...

    @property
    def stacks(self) -> tuple[str, ...]:
        """The paths that hold layers."""
        ...

    def old_path(self, path: str) -> str:
        """The name of a module in older releases, which adapter files in the wild use."""
        ...

    def parts(self, run: Run) -> "tuple[Part, ...]":
        """What `run` executes."""
        ...

    def all_parts(self, run: Run) -> "tuple[Part, ...]":
        """What holds parameters."""
        ...


class Entry(Protocol):
    """The way in; a frozen value."""

    def fill(self, builder: LayerBuilder) -> str:
        """Add the operators that make x[b, m, d] of what the model is given; returns it."""
        ...


class Layer(Protocol):
    """One layer of a stack; a frozen value."""

    @property
    def keeps_cache(self) -> bool:
        """Whether it leaves keys and values or a state behind."""
        ...

    @property
    def input_ranks(self) -> tuple[str, ...]:
        """The ranks of what comes in."""
        ...

    def declare(self, builder: LayerBuilder) -> None:
        """Declare those of its input ranks that are not b, m and d."""
        ...

    def fill(self, builder: LayerBuilder, x: str) -> str:
        """Add the layer on `x`; returns its result, as long as what the next layer takes."""
        ...


@dataclass(frozen=True, slots=True)
class Part:
    """One stack in one run; `prefix` goes before the names of its layer classes."""

    stack: "Transformer"
    run: Run
    prefix: str = ""
    entry: str = "embed"  # the name of the class of the way in


@dataclass(frozen=True, slots=True)
class Transformer:
    """A stack of blocks between an embedding and a head.

    `path` holds the layers; `blocks` are runs of equal layers as (block, how many).
    """

    model_type: str
    width: int
    path: str
    embedding: Entry | None
    blocks: tuple[tuple[Layer, int], ...]
    final_norm: Norm | None
    head: Head | None
    max_positions: int | None = None  # tokens that fit; None: no limit
    #: Names that older releases gave to modules: (now, then), the stack's path first.
    old_names: tuple[tuple[str, str], ...] = ()
    #: Layers that hold parameters, which all layers share in turn; None: each has its own.
    n_parameter_sets: int | None = None

    @property
    def decodes(self) -> bool:
        """Whether it keeps a cache and computes token after token."""
        return self.blocks[0][0].keeps_cache

    def old_path(self, path: str) -> str:
        """The name of a module in older releases, which adapter files in the wild use."""
        for now, then in self.old_names:
            path = path.replace(now, then)
        return path

    @property
    def stacks(self) -> tuple[str, ...]:
        """The paths that hold layers."""
        return (self.path,)

    @property
    def n_layers(self) -> int:
        return sum(count for _, count in self.blocks)

    def parts(self, run: Run) -> tuple[Part, ...]:
        """What `run` executes."""
        return (Part(self, run),)

    def all_parts(self, run: Run) -> tuple[Part, ...]:
        """What holds parameters."""
        return self.parts(run)


@dataclass(frozen=True, slots=True)
class EncoderDecoder:
    """An encoder whose result the blocks of a decoder look at.

    `shared` is (module, rows) of a table that both embeddings tie to. `encoder_tokens` is what an encoder of
    sound always computes, from `encoder_frames`; None is as many as the text has. With `repeats_input` the
    decoder reads the same text as the encoder.
    """

    model_type: str
    encoder: Transformer
    decoder: Transformer
    shared: tuple[str, int] | None = None
    encoder_tokens: int | None = None
    encoder_frames: int = 0
    repeats_input: bool = False

    @property
    def width(self) -> int:
        return self.decoder.width

    @property
    def max_positions(self) -> int | None:
        return self.decoder.max_positions

    @property
    def decodes(self) -> bool:
        return True

    @property
    def stacks(self) -> tuple[str, ...]:
        return (*self.encoder.stacks, *self.decoder.stacks)

    def old_path(self, path: str) -> str:
        return self.decoder.old_path(path)

    def parts(self, run: Run) -> tuple[Part, ...]:
        """The encoder runs in prefill only, alone in `prefill:encoder`."""
        encoder = Part(self.encoder, _encoder_run(run), "encoder_")
        decoder = Part(self.decoder, run, "decoder_")
        match run.phase:
            case "decode":
                return (decoder,)
            case "prefill:encoder":
                return (encoder,)
        return (encoder, decoder)

    def all_parts(self, run: Run) -> tuple[Part, ...]:
        return self.parts(run if run.phase == "train" else replace(run, phase="prefill", cache=0))


@dataclass(frozen=True, slots=True)
class Stage:
    """A stack over `n_tokens` positions of each of `n_windows` windows of an image."""

    stack: Transformer
    n_tokens: int
    n_windows: int = 1


@dataclass(frozen=True, slots=True)
class Staged:
    """Stacks one behind the other, each with fewer positions and more channels than the one before.

    `stages` gives them for the side of an image in pixels. Raises ValueError for a side that does not fit.
    """

    model_type: str
    image: int
    stages: Callable[[int], tuple[Stage, ...]]

    @property
    def width(self) -> int:
        return max(stage.stack.width for stage in self.stages(self.image))

    @property
    def max_positions(self) -> None:
        return None

    @property
    def decodes(self) -> bool:
        return False

    @property
    def stacks(self) -> tuple[str, ...]:
        return tuple(stage.stack.path for stage in self.stages(self.image))

    def old_path(self, path: str) -> str:
        return self.stages(self.image)[0].stack.old_path(path)

    def parts(self, run: Run) -> tuple[Part, ...]:
        """One part per stage; windows are more sequences of the batch."""
        return tuple(
            Part(
                stage.stack, replace(run, batch=run.batch * stage.n_windows, seq=stage.n_tokens),
                f"stage{number}_", "downsample" if number else "embed",
            )
            for number, stage in enumerate(self.stages(self.image))
        )  # fmt: skip

    def all_parts(self, run: Run) -> tuple[Part, ...]:
        return self.parts(run)


def _encoder_run(run: Run) -> Run:
    return replace(run, seq=run.encoder_seq, cache=0, encoder_seq=0, logits="all")
