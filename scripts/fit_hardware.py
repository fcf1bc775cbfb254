"""Fit the constants that the package carries, on half of its own measurements; prints both halves' errors.

Of every set the groups (layers of a Gemmini by name, else rows) count from 0; those with even numbers are fitted.
Fitted are the layers whose mapping was chosen, and of a GPU its products, softmax, norms and GELU above 100 us.
`python scripts/fit_hardware.py` prints rows of sim/data/fitted_constants.csv and of sim/data/validated_errors.csv.
"""

from pathlib import Path
from statistics import mean

from tilewright import sim
from tilewright.calibration import fit_constants
from tilewright.dataflow.graph import Graph
from tilewright.hardware import predict
from tilewright.hardware_points import HardwarePoint, Layer, in_first_half, read_points
from tilewright.sim.fitted import ANY_DEVICE, constants_of

DATA = Path(sim.__file__).parent / "data"
FITTED = ("matmul", "linear", "bmm", "softmax", "layernorm", "ln", "gelu")


def usable(point: HardwarePoint) -> bool:
    return isinstance(point.work, Graph | Layer) and not point.set.endswith("_short")


def error(points: list[HardwarePoint], values: dict[str, float]) -> float:
    return mean(abs(predict(point, values) / point.reference - 1) for point in points)


def report(name: str, points: list[HardwarePoint], values: dict[str, float]) -> None:
    first = [point for point in points if in_first_half(point, points)]
    second = [point for point in points if not in_first_half(point, points)]
    halves = [f"{error(half, values):.3f} ({len(half)})" if half else "-" for half in (first, second, points)]
    print(f"#   {name}: fitted half {halves[0]}, other half {halves[1]}, all {halves[2]}")


def fit(template: str, device: str, points: list[HardwarePoint], chosen: list[HardwarePoint]) -> None:
    constants = constants_of(template, ANY_DEVICE)
    half = [point for name in dict.fromkeys(p.set for p in chosen)
            for same in [[p for p in chosen if p.set == name]]
            for point in same if in_first_half(point, same)]  # fmt: skip
    values = fit_constants(half, constants, lambda point, given: predict(point, given))
    print(f"{template} {device}: {values} on {len(half)} points")
    for name in dict.fromkeys(point.set for point in points):
        report(name, [point for point in points if point.set == name], values)


def main() -> None:
    layers = [point for point in read_points(DATA / "gemmini_points.csv") if usable(point)]
    operators = [point for point in read_points(DATA / "gpu_points.csv") if usable(point)]
    for device in dict.fromkeys(point.device for point in operators):
        own = [point for point in operators if point.device == device]
        fit("gpu_like", device, own, [p for p in own if p.set.endswith(tuple(f"_{op}" for op in FITTED))])
    fit("systolic_ws", "asic45", layers, [point for point in layers if point.set == "gemmini_mapped"])


if __name__ == "__main__":
    main()
