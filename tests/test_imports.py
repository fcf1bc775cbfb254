"""The arrows between packages, held by reading every import statement."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT = {
    "dataflow": {"dataflow"},
    "workloads": {"workloads", "dataflow"},
    "sim": {"sim", "dataflow"},
    "search": {"search", "sim", "workloads", "dataflow"},
    "hls_templates": {"hls_templates", "sim", "workloads", "dataflow"},
    "reports": {"reports", "sim", "search", "workloads", "dataflow"},
}


def _imported_parts(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        found |= {name.split(".")[1] for name in names if name.startswith("tilewright.")}
    return found


@pytest.mark.parametrize("part", sorted(MAY_IMPORT))
def test_a_package_imports_only_what_lies_below_it(part: str) -> None:
    files = list((ROOT / part).rglob("*.py"))
    assert files
    for file in files:
        above = _imported_parts(file) - MAY_IMPORT[part]
        assert not above, f"{file.relative_to(ROOT)} imports tilewright.{above.pop()}"
