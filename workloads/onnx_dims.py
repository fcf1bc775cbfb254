"""Sizes of an ONNX model's inputs: symbols bound by name, by the usual names of a run's terms, or as stated."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from tilewright.dataflow.errors import InputError, nearest
from tilewright.workloads.onnx_file import GraphInput, OnnxModel
from tilewright.workloads.onnx_tensor import MAX_ELEMENTS
from tilewright.workloads.read import shown

MAX_SIZE = 2**24

#: Symbols by the term of a run that they usually stand for, lower case, without "_", "-" and ".".
_USUAL = {
    "batch": ("batch", "batchsize", "n", "b", "bs", "nbatch"),
    "seq": ("seq", "sequence", "seqlen", "seqlength", "sequencelength", "sequencelen", "s", "tokens", "length",
            "numtokens", "ntokens", "inputlength", "inputseqlen", "textlength", "encodersequencelength",
            "decodersequencelength"),
    "decoder_seq": ("decodersequencelength", "decoderseq", "decoderseqlen", "targetsequencelength"),
    "cache": ("past", "cache", "pastlen", "pastlength", "pastseq", "pastseqlen", "pastsequence",
              "pastsequencelength", "cachelength", "cachelen", "pastdecodersequencelength"),
    "image": ("height", "width", "h", "w", "imagesize", "imageheight", "imagewidth"),
}  # fmt: skip
_TOTAL = ("totalsequencelength", "totalseqlen", "totallength", "totalsequence", "kvlength", "attentionlength")
_NUMBER = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class OnnxTerms:
    """Sizes as a caller states them; None is not stated. `dims` binds symbols by name."""

    batch: int | None = None
    seq: int | None = None
    decoder_seq: int | None = None
    cache: int | None = None
    image: int | None = None
    dims: Mapping[str, int | float] | None = None


@dataclass(frozen=True, slots=True)
class Bound:
    """Shapes of the inputs, and the sizes of the run that they make: `seq` is 1 where no input is of tokens."""

    shapes: Mapping[str, tuple[int, ...]]
    batch: int
    seq: int
    cache: int


def bind(model: OnnxModel, terms: OnnxTerms) -> Bound:
    """The shapes of a model's inputs.

    A symbol is what `dims` says, else the term whose usual names it is among; a sum of symbols and numbers
    ("past_sequence_length + 1") is their sum. A dimension without a name is called "input[axis]". Raises
    InputError for symbols that stay unbound, names in `dims` that the file lacks, sizes out of bounds, and
    terms that differ from sizes that the file fixes.
    """
    binder = _Binder(model, terms)
    shapes = {value.name: binder.shape(value) for value in model.inputs}
    if binder.unbound:
        names = ", ".join(shown(name) for name in binder.unbound)
        raise InputError(
            f"{model.source}: symbolic dimensions without a size: {names}; state them by name (dims), or as"
            " batch, seq, cache or image where that is what they are"
        )
    for name, shape in shapes.items():
        if prod(shape) > MAX_ELEMENTS:
            raise InputError(
                f"{model.source}: input {shown(name)} has {prod(shape):.3g} elements, at most {MAX_ELEMENTS}"
            )
    batch, seq = _run_sizes(model, shapes)
    _check_fixed(model, shapes, terms, batch, seq, binder.used)
    return Bound(shapes, batch, seq, terms.cache or 0)


class _Binder:
    """Binds one symbol after the other and remembers what was bound by what."""

    def __init__(self, model: OnnxModel, terms: OnnxTerms) -> None:
        self._source = model.source
        self._terms = terms
        self._dims: dict[str, int] = {}
        self.unbound: list[str] = []
        self.used: set[str] = set()
        known = sorted({name for value in model.inputs for name in self._names(value)})
        for name, size in (terms.dims or {}).items():
            if name not in known:
                raise InputError(
                    f"{self._source}: dims: no dimension is named {shown(name)}{nearest(name, known)};"
                    f" named: {', '.join(known) or 'none'}"
                )
            _check(f"dims: {name}", size, 0)
            self._dims[name] = int(size)

    def _names(self, value: GraphInput) -> list[str]:
        """The symbols of an input, those inside sums too."""
        found = []
        for axis, dim in enumerate(value.dims):
            if isinstance(dim, str):
                found.append(dim or f"{value.name}[{axis}]")
                found += [part for part in _parts(dim) if part != dim and not _NUMBER.fullmatch(part)]
        return found

    def shape(self, value: GraphInput) -> tuple[int, ...]:
        return tuple(
            dim if isinstance(dim, int) else self._size(dim or f"{value.name}[{axis}]")
            for axis, dim in enumerate(value.dims)
        )

    def _size(self, symbol: str) -> int:
        """The size of a symbol or a sum; 0 where it is unbound, which is noted."""
        if symbol in self._dims:
            return self._dims[symbol]
        parts = _parts(symbol)
        if len(parts) > 1:
            return sum(int(part) if _NUMBER.fullmatch(part) else self._size(part) for part in parts)
        size = self._by_usual_name(symbol)
        if size is None and symbol not in self.unbound:
            self.unbound.append(symbol)
        return size or 0

    def _by_usual_name(self, symbol: str) -> int | None:
        word = re.sub(r"[_\-. ]", "", symbol.lower())
        if word in _TOTAL and self._terms.seq is not None and self._terms.cache is not None:
            self.used |= {"seq", "cache"}
            return self._terms.seq + self._terms.cache
        for term, names in reversed(_USUAL.items()):
            size: int | None = getattr(self._terms, term)
            if word in names and size is not None:
                self.used.add(term)
                return size
        return 1 if word in _USUAL["batch"] else None


def _parts(symbol: str) -> list[str]:
    """The terms of a sum "a + b + 1"; the symbol itself where it is none."""
    parts = [part.strip() for part in symbol.split("+")]
    return parts if len(parts) > 1 and all(parts) else [symbol]


def _run_sizes(model: OnnxModel, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, int]:
    """Sequences, and tokens of each: of the first input of row numbers or states, else an image's."""
    first = next((shapes[value.name] for value in model.inputs if value.dims), ())
    for value in model.inputs:
        shape = shapes[value.name]
        if len(shape) in (2, 3):
            return shape[0], shape[1] if len(shape) == 3 or not _is_real(value) else 1
    return (first[0] if first else 1), 1


def _is_real(value: GraphInput) -> bool:
    from onnx import TensorProto

    return value.elem_type in (
        TensorProto.FLOAT,
        TensorProto.FLOAT16,
        TensorProto.BFLOAT16,
        TensorProto.DOUBLE,
    )


def _check_fixed(
    model: OnnxModel,
    shapes: Mapping[str, tuple[int, ...]],
    terms: OnnxTerms,
    batch: int,
    seq: int,
    used: set[str],
) -> None:
    """Raises InputError for a term that no symbol took and that is not what the file fixes.

    A batch of 1, which is what a run has where none is stated, leaves the file's.
    """
    sides = next((shape[-2:] for shape in shapes.values() if len(shape) == 4), ())
    fixed = {"batch": (batch,), "seq": (seq,), "image": sides, "cache": (0,), "decoder_seq": (seq,)}
    for name, sizes in fixed.items():
        stated = getattr(terms, name)
        if stated is None or name in used or (name == "batch" and stated == 1):
            continue
        if not sizes or any(size != stated for size in sizes):
            held = "x".join(map(str, sizes)) or "none"
            raise InputError(f"{model.source}: {name} {stated} is not what the file fixes: {held}")


def check_terms(terms: OnnxTerms) -> None:
    """Raises InputError for a size out of bounds."""
    for name in ("batch", "seq", "decoder_seq", "cache", "image"):
        size = getattr(terms, name)
        if size is not None:
            _check(name, size, 0 if name == "cache" else 1)


def _check(name: str, size: object, least: int) -> None:
    if not isinstance(size, int) or isinstance(size, bool) or not least <= size <= MAX_SIZE:
        raise InputError(f"{name} must be an integer in {least}..{MAX_SIZE}, got {size!r}")
