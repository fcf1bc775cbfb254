"""Slowdowns of companies of transfers, kept between processes beside the compiled kernels.

A file holds those of one configuration as one version of the models finds them: its name has a digest of all
their code and data, so an edit anywhere begins a new file. Processes append to it at the same time.
"""

from pathlib import Path

from tilewright.sim.version import model_version

_END = "."  # a line without it was cut short, and is passed over


def slowdown_file(config_name: str) -> Path:
    """Where the slowdowns on a configuration are kept."""
    from tilewright.dataflow.kernel import CACHE_FOLDER

    return Path(CACHE_FOLDER) / f"slowdowns-{config_name}-{model_version()}.txt"


def read_slowdowns(file: Path) -> dict[int, int]:
    """Slowdowns in `sim.traffic.UNIT` by company; none where the file cannot be read."""
    try:
        lines = file.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return {}
    rows = [line.split() for line in lines]
    whole = [row[:2] for row in rows if len(row) == 3 and row[2] == _END]
    return {int(a): int(b) for a, b in whole if a.isdecimal() and b.isdecimal()}


def add_slowdowns(file: Path, found: dict[int, int]) -> None:
    """Append `found` by one write; what cannot be written is found again another time."""
    # a line break comes first, so that a line that was cut short spoils none of these
    text = "".join(f"\n{company} {slowdown} {_END}" for company, slowdown in found.items())
    try:
        with file.open("ab", buffering=0) as out:
            out.write(f"{text}\n".encode("ascii"))
    except OSError:
        return
