"""A transformer described by values: the way in, layers, the way out."""

from dataclasses import dataclass, replace
from typing import Protocol

from tilewright.workloads.builder import LayerBuilder
from tilewright.workloads.head import Head
from tilewright.workloads.norms import Norm
from tilewright.workloads.run import Run


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

    def fill(self, builder: LayerBuilder, x: str) -> str:
        """Add the layer on x[b, m, d]; returns its result, ranked alike."""
        ...


@dataclass(frozen=True, slots=True)
class Part:
    """One stack in one run; `prefix` goes before the names of its layer classes."""

    stack: "Transformer"
    run: Run
    prefix: str = ""


@dataclass(frozen=True, slots=True)
class Transformer:
    """A stack of blocks between an embedding and a head.

    `path` holds the layers; `blocks` are runs of equal layers as (block, how many).
    """

    model_type: str
    width: int
    path: str
    embedding: Entry
    blocks: tuple[tuple[Layer, int], ...]
    final_norm: Norm | None
    head: Head | None
    max_positions: int | None = None  # tokens that fit; None: no limit
    #: Names that older releases gave to modules: (now, then), the stack's path first.
    old_names: tuple[tuple[str, str], ...] = ()

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
    sound always computes, from `encoder_frames`; None is as many as the text has.
    """

    model_type: str
    encoder: Transformer
    decoder: Transformer
    shared: tuple[str, int] | None = None
    encoder_tokens: int | None = None
    encoder_frames: int = 0

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


Model = Transformer | EncoderDecoder


def _encoder_run(run: Run) -> Run:
    return replace(run, seq=run.encoder_seq, cache=0, encoder_seq=0, logits="all")
