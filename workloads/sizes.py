"""How many tokens a run computes, from what is stated and what the model is."""

from dataclasses import dataclass, replace

from tilewright.dataflow.errors import InputError
from tilewright.workloads.audio import FrameEmbedding
from tilewright.workloads.patches import PatchEmbedding
from tilewright.workloads.run import Phase
from tilewright.workloads.sound import SpectrogramEmbedding, WaveEmbedding
from tilewright.workloads.towers import TwoTower, VisionTower
from tilewright.workloads.transformer import EncoderDecoder, Model, Staged, Transformer

MAX_TOKENS = 2**24
MAX_IMAGE = 2**14
DEFAULT_TOKENS = 512
DEFAULT_DECODER_TOKENS = 128
_TOWER_PHASES = ("prefill:text_tower", "prefill:vision_tower")


@dataclass(frozen=True, slots=True)
class Sizes:
    """What a caller states; None is the model's default."""

    batch: int
    seq: int | None
    decoder_seq: int | None
    cache: int | None
    image: int | None
    samples: int | None = None


def fitted(model: Model, phase: Phase, sizes: Sizes, source: str) -> tuple[Model, int, int]:
    """The model for the image stated, its tokens, and the tokens of its encoder (0: none).

    Raises InputError for a size that is out of bounds, that the model does not take, or that its
    positions do not hold.
    """
    _check("batch", sizes.batch, 1)
    for name, number, least in (
        ("seq", sizes.seq, 1), ("decoder_seq", sizes.decoder_seq, 1), ("cache", sizes.cache, 0),
    ):  # fmt: skip
        if number is not None:
            _check(name, number, least)
    cache = sizes.cache or 0
    if sizes.samples is not None and not _hears(model):
        raise InputError(f"{source}: {model.model_type} takes no samples of sound (samples)")
    if phase == "decode" and model.decodes and not cache:
        raise InputError("phase decode needs cache > 0: the tokens that are held before the step")
    if phase == "train" and cache:
        raise InputError(f"phase train holds no tokens before the step, got cache {cache}")
    if not model.decodes and (phase == "decode" or cache):
        raise InputError(f"{source}: {model.model_type} is an encoder: it has no decode phase and no cache")
    if phase == "prefill:encoder" and not isinstance(model, EncoderDecoder):
        raise InputError(
            f"{source}: phase 'prefill:encoder': {model.model_type} has no encoder beside a decoder"
        )
    if isinstance(model, EncoderDecoder):
        return model, *_of_pair(model, phase, sizes, source)
    if phase in _TOWER_PHASES and not isinstance(model, TwoTower):
        raise InputError(f"{source}: {model.model_type} has no towers (phase {phase!r})")
    if sizes.decoder_seq is not None:
        raise InputError(f"{source}: {model.model_type} has no decoder beside an encoder (decoder_seq)")
    if isinstance(model, Staged):
        return _of_stages(model, sizes, source)
    if isinstance(model, VisionTower):
        patches = model.vision.embedding
        assert isinstance(patches, PatchEmbedding)
        vision, seq = _of_image(model.vision, patches, sizes, source)
        return replace(model, vision=vision), seq, 0
    if isinstance(model, TwoTower):
        return _of_towers(model, sizes, source)
    assert isinstance(model, Transformer)
    if isinstance(model.embedding, WaveEmbedding):
        return _of_wave(model, model.embedding, sizes, source)
    if isinstance(model.embedding, SpectrogramEmbedding | FrameEmbedding):
        return model, _of_spectrogram(model.embedding, sizes, source), 0
    if isinstance(model.embedding, PatchEmbedding):
        model, seq = _of_image(model, model.embedding, sizes, source)
        return model, seq, 0
    if sizes.image is not None:
        raise InputError(f"{source}: {model.model_type} takes tokens (seq), no image")
    seq = sizes.seq or (1 if phase == "decode" else _default(model, DEFAULT_TOKENS, cache))
    check_positions(model, seq, cache, source)
    return model, seq, 0


def _of_pair(model: EncoderDecoder, phase: Phase, sizes: Sizes, source: str) -> tuple[int, int]:
    """Tokens of the decoder and of the encoder; the encoder of sound always has the same number."""
    if sizes.image is not None:
        raise InputError(f"{source}: {model.model_type} takes tokens (seq), no image")
    seq, encoder_seq, frames = sizes.decoder_seq, model.encoder_tokens, model.encoder_frames
    if encoder_seq is None:
        encoder_seq = sizes.seq or _default(model.encoder, DEFAULT_TOKENS, 0)
    elif phase == "prefill:encoder":
        if sizes.seq not in (None, frames):
            raise InputError(f"{source}: the encoder takes {frames} frames, got seq {sizes.seq}")
    elif sizes.seq is not None and seq not in (None, sizes.seq):
        raise InputError(f"{source}: seq {sizes.seq} and decoder_seq {seq}: both are the decoder's tokens")
    elif sizes.seq is not None:
        seq = sizes.seq
    if seq is None:
        n_tokens = encoder_seq if model.repeats_input else DEFAULT_DECODER_TOKENS
        default = _default(model.decoder, n_tokens, sizes.cache or 0)
        seq = 1 if phase == "decode" else default
    check_positions(model.encoder, encoder_seq, 0, source)
    check_positions(model.decoder, seq, sizes.cache or 0, source)
    return seq, encoder_seq


def _of_stages(model: Staged, sizes: Sizes, source: str) -> tuple[Model, int, int]:
    """The model for an image of the stated side, and the positions of its first stage."""
    model = replace(model, image=_side(model.image, sizes, model.model_type, 1, source))
    try:
        stages = model.stages(model.image)
    except ValueError as error:
        raise InputError(f"{source}: {error}") from None
    return model, stages[0].n_tokens, 0


def _of_towers(model: TwoTower, sizes: Sizes, source: str) -> tuple[Model, int, int]:
    """The model for an image of the stated side, and the tokens of the text."""
    vision = model.vision
    assert isinstance(vision.embedding, PatchEmbedding)
    alone = replace(sizes, seq=None)
    vision, _ = _of_image(vision, vision.embedding, alone, source)
    seq = sizes.seq or _default(model.text, DEFAULT_TOKENS, 0)
    check_positions(model.text, seq, 0, source)
    return replace(model, vision=vision), seq, 0


def _side(own: int, sizes: Sizes, model_type: str, least: int, source: str) -> int:
    """The side of the image in pixels: `own` where none is stated."""
    if sizes.seq is not None:
        raise InputError(f"{source}: {model_type} takes an image, no seq")
    side = own if sizes.image is None else sizes.image
    if not isinstance(side, int) or isinstance(side, bool) or not least <= side <= MAX_IMAGE:
        raise InputError(f"image must be an integer in {least}..{MAX_IMAGE}, got {side!r}")
    return side


def _of_image(
    model: Transformer, patches: PatchEmbedding, sizes: Sizes, source: str
) -> tuple[Transformer, int]:
    """The model for an image of the stated side, and the tokens that it becomes."""
    side = _side(patches.image, sizes, model.model_type, patches.patch, source)
    patches = replace(patches, image=side)
    return replace(model, embedding=patches), patches.n_tokens


def _hears(model: Model) -> bool:
    """Whether the model takes samples of sound."""
    return isinstance(model, Transformer) and isinstance(model.embedding, WaveEmbedding)


def _of_wave(
    model: Transformer, wave: WaveEmbedding, sizes: Sizes, source: str
) -> tuple[Transformer, int, int]:
    """The model for a wave of the samples stated (`seq` is another word for them), and its tokens."""
    if sizes.image is not None:
        raise InputError(f"{source}: {model.model_type} takes samples of sound, no image")
    if sizes.seq is not None and sizes.samples not in (None, sizes.seq):
        raise InputError(
            f"{source}: seq {sizes.seq} and samples {sizes.samples}: both are the samples of sound"
        )
    stated = sizes.seq if sizes.samples is None else sizes.samples
    n_samples = wave.n_samples if stated is None else stated
    _check("samples", n_samples, 1)
    wave = replace(wave, n_samples=n_samples)
    if not wave.n_tokens:
        raise InputError(
            f"{source}: samples must be at least {wave.least_samples} to become a token, got {n_samples}"
        )
    return replace(model, embedding=wave), wave.n_tokens, 0


def _of_spectrogram(spectrogram: SpectrogramEmbedding | FrameEmbedding, sizes: Sizes, source: str) -> int:
    """The tokens of a spectrogram, whose size is the model's own; `seq` may state its frames."""
    own = spectrogram.n_frames
    if sizes.image is not None or sizes.seq not in (None, own, spectrogram.n_tokens):
        raise InputError(f"{source}: the model takes spectrograms of {own} frames, got seq {sizes.seq}")
    return spectrogram.n_tokens


def check_tokens(name: str, number: int) -> int:
    """`number` if it is at least 1. Raises InputError."""
    _check(name, number, 1)
    return number


def _check(name: str, number: int, least: int) -> None:
    if not isinstance(number, int) or isinstance(number, bool) or not least <= number <= MAX_TOKENS:
        raise InputError(f"{name} must be an integer in {least}..{MAX_TOKENS}, got {number!r}")


def _default(model: Transformer, n_tokens: int, cache: int) -> int:
    """`n_tokens`, or as many as the model has positions for."""
    return n_tokens if model.max_positions is None else max(1, min(n_tokens, model.max_positions - cache))


def check_positions(model: Model, seq: int, cache: int, source: str) -> None:
    """Raises InputError if the tokens held and computed exceed the positions that the model has."""
    if model.max_positions is not None and seq + cache > model.max_positions:
        raise InputError(
            f"{source}: cache {cache} + seq {seq} exceed the {model.max_positions} positions of the model"
        )
