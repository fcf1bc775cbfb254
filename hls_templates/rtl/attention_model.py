"""One-pass attention in numpy: the integers of `rtl.softmax` in its order, and how far they are from exact."""

import numpy as np
from numpy.typing import NDArray

from tilewright.dataflow.errors import InputError
from tilewright.hls_templates.rtl import fixed_model as model
from tilewright.hls_templates.rtl.fixed_model import Words
from tilewright.hls_templates.rtl.softmax import LARGEST_WEIGHT, SUM_FRACTION_BITS

_HALF = 1 << (model.FRACTION_BITS - 1)


def scale_of(scale: float) -> tuple[int, int]:
    """(multiplier, shift): a score times multiplier / 2^shift is scale * score as a word of 16 fraction bits.

    Raises InputError outside of 2^-16 .. 1.
    """
    if not 2.0**-16 <= scale <= 1:
        raise InputError(f"attention: scale must be in 2**-16 .. 1, got {scale}")
    shift = 8
    return round(scale * 2.0 ** (model.FRACTION_BITS + shift)), shift


def attention(q: Words, k: Words, v: Words, tile_keys: int, multiplier: int, shift: int) -> Words:
    """y (f, queries) as words of 16 fraction bits. q: (e, queries), k: (keys, e), v: (f, keys), 8 bit."""
    n_keys, n_queries = k.shape[0], q.shape[1]
    maximum = np.zeros(n_queries, dtype=np.int64)
    sums = np.zeros(n_queries, dtype=np.int64)
    mixed = np.zeros((v.shape[0], n_queries), dtype=np.int64)
    for first in range(0, n_keys, tile_keys):
        scores = k[first : first + tile_keys] @ q
        new = scores.max(axis=0) if not first else np.maximum(maximum, scores.max(axis=0))
        factor = _exponential(maximum - new if first else 0 * new, multiplier, shift)
        weights = (
            _exponential(scores - new, multiplier, shift) * LARGEST_WEIGHT + _HALF
        ) >> model.FRACTION_BITS
        sums = (sums * factor + _HALF) >> model.FRACTION_BITS
        sums += weights.sum(axis=0) << SUM_FRACTION_BITS
        mixed = (mixed * factor + _HALF) >> model.FRACTION_BITS
        mixed += v[:, first : first + tile_keys] @ weights
        maximum = new
    return _divided(mixed, sums)


def _exponential(difference: Words, multiplier: int, shift: int) -> Words:
    return model.evaluate("exp", np.maximum((difference * multiplier) >> shift, model.SMALLEST))


def _divided(mixed: Words, sums: Words) -> Words:
    exponent = np.frexp(sums.astype(np.float64))[1].astype(np.int64) - 1
    mantissa = (sums << (31 - exponent)) >> 15
    inverse = model.evaluate("reciprocal", mantissa)
    doubled = (mixed * inverse) << 1
    return ((doubled >> (exponent - SUM_FRACTION_BITS)) + 1) >> 1


def exact_attention(
    q: Words, k: Words, v: Words, scale: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(v softmax(scale k q), what the rounding of weights to 1 / 127 of the largest can make of it).

    Each weight is off by half a unit of 127 at most, and every tile rounds what was mixed by half a unit: with the
    exact sum S of weights in units, |error| <= n_keys * (max |v| + |y|) / 2 / S, and a little for the functions.
    """
    scores = scale * (k @ q)
    weights = np.exp(scores - scores.max(axis=0))
    exact = (v @ weights) / weights.sum(axis=0)
    units = LARGEST_WEIGHT * weights.sum(axis=0)
    bound = k.shape[0] * (np.abs(v).max() + np.abs(exact)) / 2 / units
    return exact, np.minimum(bound * 1.02 + 0.02, 256.0)
