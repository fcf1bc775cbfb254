"""The verb `map`: hierarchies and mappings as YAML, and what the shell answers."""

import json
from pathlib import Path

import pytest

from tilewright.cli import run

HIERARCHIES = Path(__file__).resolve().parents[1] / "examples" / "hierarchies"


def test_a_stated_mapping_is_priced(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(HIERARCHIES / "h3.yaml"), "--gemm", "1024x4096x1024", "--json"]
    assert run(["map", *arguments, "--mapping", str(HIERARCHIES / "h3_gemm_mapping.yaml")]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["backing_words"] == 13_631_488
    assert answer["cycles"] == 16_777_216
    assert "certificate" not in answer


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mac_pj: 1\nlevels: [{name: d, read_pj: 1, write_pj: 1, capcity_bytes: 3}]", "did you mean 'capacity_bytes'"),
        ("mac_pj: 1\nlevels: [{name: d, read_pj: -1, write_pj: 1}]", "levels.0.read_pj"),
        ("mac_pj: 1\nlevels: [{name: d, read_pj: 1, write_pj: 1}, {name: b, read_pj: 1, write_pj: 1}]",
         "level 'b' needs a capacity"),
    ],
)  # fmt: skip
def test_a_wrong_hierarchy_is_one_line(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "h.yaml"
    file.write_text(text, encoding="utf-8")
    assert run(["map", str(file), "--gemm", "4x4x4"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
