"""Fit the constants of a template to measurements, and say how well they hold for points left out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

import numpy as np
from numpy.typing import NDArray

from tilewright.dataflow.errors import InputError
from tilewright.hardware import predict
from tilewright.hardware_points import HardwarePoint
from tilewright.sim.device import device_named
from tilewright.sim.space import Parameter
from tilewright.sim.template import check_device, template_named

#: Fewer points than this for every constant are refused: a fit would describe them and nothing else.
POINTS_PER_CONSTANT = 2
_ROBUST = 0.1  # errors from here on count linearly, as outliers
_PRIOR = 0.3  # so far, in logarithm, a constant strays from its own value before that counts as such an error
_STEP = 0.02  # of a constant's logarithm, for slopes: cycles are whole, so finer steps may change nothing
_EVALUATIONS = 20

Predictor = Callable[[HardwarePoint, Mapping[str, float]], float]


@dataclass(frozen=True, slots=True)
class Fit:
    """Fitted constants and errors as fractions, over sets that weigh the same.

    `errors` are ours / measured - 1 of every point with the constants fitted to all; `held_out_errors` those with
    the constants fitted without the point's fold.
    """

    template: str
    device: str
    constants: Mapping[str, float]
    points: tuple[HardwarePoint, ...]
    errors: tuple[float, ...]
    held_out_errors: tuple[float, ...]
    n_folds: int

    @property
    def mean_abs_error_fraction(self) -> float:
        return _by_set(self.points, self.errors)

    @property
    def held_out_error_fraction(self) -> float:
        return _by_set(self.points, self.held_out_errors)


def calibrate(
    points: Sequence[HardwarePoint],
    template: str,
    device: str,
    n_folds: int = 5,
    run: Predictor | None = None,
) -> Fit:
    """Fit the constants of `template` on `device`; points of one group stay in one fold.

    Raises InputError for an unknown template or device, a template without constants, or too few points.
    """
    constants = constants_to_fit(template, device)
    needed = POINTS_PER_CONSTANT * len(constants)
    if len(points) < needed:
        raise InputError(
            f"{len(points)} points of {device} can be used, {len(constants)} constants need at least {needed}"
        )
    if n_folds < 2:
        raise InputError(f"n_folds must be >= 2, got {n_folds}")
    predicted: Predictor = run or (lambda point, values: predict(point, values, device))
    fitted = fit_constants(points, constants, predicted)
    errors = tuple(predicted(point, fitted) / point.reference - 1 for point in points)
    groups = list(dict.fromkeys(point.group for point in points))
    folds = min(n_folds, len(groups))
    held_out = [0.0] * len(points)
    for fold in range(folds):
        out = {group for position, group in enumerate(groups) if position % folds == fold}
        kept = [point for point in points if point.group not in out]
        values = fit_constants(kept, constants, predicted, fitted) if kept else fitted
        for at, point in enumerate(points):
            if point.group in out:
                held_out[at] = predicted(point, values) / point.reference - 1
    return Fit(template, device, fitted, tuple(points), errors, tuple(held_out), folds)


def constants_to_fit(template: str, device: str) -> tuple[Parameter, ...]:
    """The fitted constants of a template. Raises InputError where it has none or is not for the device."""
    family, target = template_named(template), device_named(device)
    check_device(family, target)
    constants = family.space(target).constants
    if not constants:
        raise InputError(f"template {template!r} has no constants that are fitted to measurements")
    return constants


def fit_constants(
    points: Sequence[HardwarePoint],
    constants: Sequence[Parameter],
    run: Predictor,
    start: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """Constants of least error in the logarithm of time, robust against outliers, within their limits.

    Every set of points weighs the same. Few points leave the constants near their own values, from which the
    search starts where `start` gives no others.
    """
    from scipy.optimize import least_squares

    low = np.log([float(constant.values[0]) for constant in constants])
    high = np.log([float(constant.values[-1]) for constant in constants])
    prior = np.log([float(constant.default) for constant in constants])
    begin = start or {constant.name: float(constant.default) for constant in constants}
    weights = np.sqrt(_weights(points))

    def residuals(logs: NDArray[np.float64]) -> NDArray[np.float64]:
        values = _named(constants, logs)
        ratios = [run(point, values) / point.reference for point in points]
        return np.concatenate([weights * np.log(ratios) / _ROBUST, (logs - prior) / _PRIOR])

    def slopes(logs: NDArray[np.float64]) -> NDArray[np.float64]:
        here = residuals(logs)
        columns = []
        for at in range(len(constants)):
            step = -_STEP if logs[at] + _STEP > high[at] else _STEP
            moved = logs.copy()
            moved[at] += step
            columns.append((residuals(moved) - here) / step)
        return np.stack(columns, axis=1)

    inside = np.clip(np.log([begin[constant.name] for constant in constants]), low + 1e-6, high - 1e-6)
    found = least_squares(
        residuals, inside, jac=slopes, bounds=(low, high), loss="soft_l1", max_nfev=_EVALUATIONS, xtol=1e-4,
        ftol=1e-4,
    )  # fmt: skip
    return {name: float(f"{value:.4g}") for name, value in _named(constants, found.x).items()}


def _named(constants: Sequence[Parameter], logs: NDArray[np.float64]) -> dict[str, float]:
    return {constant.name: float(np.exp(log)) for constant, log in zip(constants, logs, strict=True)}


def _weights(points: Sequence[HardwarePoint]) -> NDArray[np.float64]:
    """Weights that sum to the number of points and give every set the same share."""
    counts: dict[str, int] = {}
    for point in points:
        counts[point.set] = counts.get(point.set, 0) + 1
    share = len(points) / len(counts)
    return np.array([share / counts[point.set] for point in points])


def _by_set(points: Sequence[HardwarePoint], errors: Sequence[float]) -> float:
    """The mean over the sets of the mean absolute error of each."""
    by_set: dict[str, list[float]] = {}
    for point, error in zip(points, errors, strict=True):
        by_set.setdefault(point.set, []).append(abs(error))
    return mean(mean(values) for values in by_set.values())
