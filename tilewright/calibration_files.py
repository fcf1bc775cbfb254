"""`tilewright calibrate`: read a user's measurements, fit, write the constants and the figure."""

from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from tilewright.calibration import Fit, calibrate, constants_to_fit
from tilewright.dataflow.errors import InputError
from tilewright.dataflow.textfile import write_whole
from tilewright.hardware import predict
from tilewright.hardware_models import MeasuredModel
from tilewright.hardware_points import HardwarePoint, read_points
from tilewright.sim.version import model_version


def run(file: Path, template: str, device: str, out: Path, n_folds: int = 5) -> dict[str, Any]:
    """Fit and write `out` (YAML) with a figure beside it; returns what `calibrate --json` prints.

    Nothing is written unless the fit and the figure are done. Raises InputError for an unknown template or device,
    a value or unit that means nothing (row, value), or too few points of that device.
    """
    constants_to_fit(template, device)
    points = read_points(file)
    for point in points:
        if point.is_wrong:
            raise InputError(f"{file}: row {point.number}: {point.skipped_because}")
    left_out: Counter[str] = Counter()
    usable = []
    for point in points:
        if reason := _unfit(point, template, device):
            left_out[reason] += 1
        else:
            usable.append(point)
    try:
        fit = calibrate(usable, template, device, n_folds)
    except InputError as error:
        most = left_out.most_common(1)
        why = f"; {most[0][1]} rows left out: {most[0][0]}" if most else ""
        raise InputError(f"{file}: {error}{why}") from None
    figures = _draw(fit, out)
    write_whole(out, text_of(fit, file))
    return _answer(fit, left_out, [str(out), *map(str, figures)])


def _unfit(point: HardwarePoint, template: str, device: str) -> str:
    """Why a row is no measurement of that template on that device, or ""."""
    if point.skipped_because:
        return point.skipped_because
    if point.template != template:
        return f"a row for template {point.template!r}"
    if point.unit == "us" and point.device != device:
        return f"measured on {point.device}"
    if isinstance(point.work, MeasuredModel):
        return "a whole model, which is compared but not fitted"
    if point.set == "gemmini_default":
        return "the library's own tiling, whose time holds the host's search for it"
    try:
        predict(point, {}, device)
    except InputError as error:
        return str(error)
    return ""


def text_of(fit: Fit, file: Path) -> str:
    """The constants as part of a DESIGN.yaml, with what they were fitted on in comments."""
    stated = yaml.safe_dump(
        {"template": fit.template, "device": fit.device, "parameters": dict(fit.constants)}, sort_keys=False
    )
    return (
        f"# Fitted by `tilewright calibrate` to {len(fit.points)} points of {file.name}, model {model_version()}.\n"
        f"# Mean error {100 * fit.mean_abs_error_fraction:.2f} % on these points,"
        f" {100 * fit.held_out_error_fraction:.2f} % on points left out ({fit.n_folds} folds).\n"
        f"# `tilewright simulate MODEL --template {fit.template} --device {fit.device} --set @FILE` takes them;\n"
        "# with a line `workload:` this file is a DESIGN.yaml.\n" + stated
    )


def _draw(fit: Fit, out: Path) -> tuple[Path, Path]:
    from tilewright.reports.calibration import calibration_figure

    rows: dict[str, list[tuple[float, float, float]]] = {}
    for point, error, held_out in zip(fit.points, fit.errors, fit.held_out_errors, strict=True):
        measured = point.reference
        row = (measured, measured * (1 + error), measured * (1 + held_out))
        rows.setdefault(point.set, []).append(row)
    title = (
        f"{fit.template} on {fit.device}: mean error {100 * fit.mean_abs_error_fraction:.1f} %,"
        f" {100 * fit.held_out_error_fraction:.1f} % on points left out ({fit.n_folds} folds, hollow)"
    )
    return calibration_figure(rows, fit.points[0].unit, title, out.with_suffix(""))


def _answer(fit: Fit, left_out: Counter[str], files: list[str]) -> dict[str, Any]:
    sets: dict[str, list[tuple[float, float]]] = {}
    for point, error, held_out in zip(fit.points, fit.errors, fit.held_out_errors, strict=True):
        sets.setdefault(point.set, []).append((abs(error), abs(held_out)))
    return {
        "template": fit.template,
        "device": fit.device,
        "constants": dict(fit.constants),
        "n_points": len(fit.points),
        "n_folds": fit.n_folds,
        "mean_abs_error_fraction": fit.mean_abs_error_fraction,
        "held_out_error_fraction": fit.held_out_error_fraction,
        "sets": [
            {
                "name": name,
                "n_points": len(errors),
                "mean_abs_error_fraction": sum(error for error, _ in errors) / len(errors),
                "held_out_error_fraction": sum(error for _, error in errors) / len(errors),
            }
            for name, errors in sets.items()
        ],
        "left_out": [{"reason": reason, "rows": count} for reason, count in left_out.most_common()],
        "files": files,
    }
