"""Run mypy in strict mode over the packages as they are imported.

The editable install maps `tilewright.sim` to `sim/` through an import hook that no type checker follows, so
this links the folders under `build/typed/tilewright/` in the shape that they are imported in. A module
that does not resolve is an error: a check that silently saw `Any` would be worth nothing.
"""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("dataflow", "workloads", "sim", "search", "hls_templates", "reports")


def link_tree(root: Path) -> Path:
    """Make `build/typed/tilewright` and return it."""
    package = root / "build" / "typed" / "tilewright"
    shutil.rmtree(package.parent, ignore_errors=True)
    package.mkdir(parents=True)
    for file in (root / "tilewright").iterdir():
        if file.name != "__pycache__":
            (package / file.name).symlink_to(file)
    for part in PARTS:
        (package / part).symlink_to(root / part, target_is_directory=True)
    return package


def main() -> int:
    package = link_tree(ROOT)
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml")]
    probe = package.parent / "probe.py"
    probe.write_text("import tilewright.dataflow.graph\nreveal_type(tilewright.dataflow.graph.Graph)\n")
    answer = subprocess.run([*command, str(probe)], capture_output=True, text=True, cwd=ROOT)
    if "tilewright.dataflow.graph.Graph" not in answer.stdout:
        print("mypy does not resolve tilewright.*:", answer.stdout, sep="\n")
        return 1
    probe.unlink()
    return subprocess.run([*command, str(package), *sys.argv[1:]], cwd=ROOT).returncode


if __name__ == "__main__":
    raise SystemExit(main())
