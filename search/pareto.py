"""Pareto fronts: dominance, hypervolume, knee. Costs are lower-is-better throughout."""

import numpy as np
from numpy.typing import NDArray


def pareto_mask(costs: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Mark the designs that no other design dominates; equal designs all stay.

    costs: (n_designs, n_objectives), finite. Returns (n_designs,). Raises ValueError for a value that is not
    finite.
    """
    if not np.isfinite(costs).all():
        raise ValueError("costs must be finite")
    # In lexicographic order nothing is dominated by what follows it, so whatever is still a candidate when
    # its turn comes stays.
    order = np.lexsort(costs.T[::-1])
    ordered = costs[order]
    candidate = np.ones(len(costs), dtype=np.bool_)
    for i in range(len(ordered)):
        if candidate[i]:
            rest = ordered[i + 1 :]
            candidate[i + 1 :] &= (rest < ordered[i]).any(axis=1) | (rest == ordered[i]).all(axis=1)
    mask = np.empty_like(candidate)
    mask[order] = candidate
    return mask


def dominated_by(front: NDArray[np.float64], cost: NDArray[np.float64]) -> bool:
    """Whether a row of `front` is nowhere worse than `cost` and somewhere better.

    front: (n_designs, n_objectives), cost: (n_objectives,).
    """
    no_worse = (front <= cost).all(axis=1)
    return bool((no_worse & (front < cost).any(axis=1)).any())


def hypervolume(costs: NDArray[np.float64], reference: NDArray[np.float64]) -> float:
    """The exact volume between `reference` and the designs that are better than it in every objective.

    costs: (n_designs, n_objectives), reference: (n_objectives,). 0.0 if no design is.
    """
    from pymoo.indicators.hv import HV

    inside = costs[(costs < reference).all(axis=1)]
    if len(inside) == 0:
        return 0.0
    if inside.shape[1] == 1:
        return float(reference[0] - inside.min())
    return float(HV(ref_point=reference)(inside))


def knee_index(costs: NDArray[np.float64]) -> int:
    """The design of a front that gives up least: the one closest to the ideal point.

    Each objective is scaled so that its best and worst value on the front are 0 and 1 (an objective that does
    not vary counts as 0); the ideal point is 0 in all of them, the distance Euclidean, and of equally close
    designs the first is taken. costs: (n_designs, n_objectives). Raises ValueError for an empty front.
    """
    if len(costs) == 0:
        raise ValueError("an empty front has no knee")
    low, high = costs.min(axis=0), costs.max(axis=0)
    span = np.where(high > low, high - low, 1.0)
    return int(np.argmin((((costs - low) / span) ** 2).sum(axis=1)))
