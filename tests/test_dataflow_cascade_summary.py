"""The summary of a cascade: every figure by hand at sizes small enough to count."""

from pathlib import Path

import pytest

from tilewright.cli import run
from tilewright.dataflow.cascade import load_cascade, parse_cascade
from tilewright.dataflow.cascade_lower import UNARY
from tilewright.dataflow.cascade_summary import describe_cascade
from tilewright.dataflow.errors import InputError

SIZES = {"b": 2, "h": 4, "hkv": 2, "m": 3, "n": 8, "e": 5, "f": 6}


def test_the_counts_of_three_pass_attention_are_those_of_the_formulas() -> None:
    found = describe_cascade(load_cascade("attention_three_pass"), SIZES | {"c": 8})  # nothing masked
    scores = 2 * 4 * 3 * 8
    assert found.macs == scores * (5 + 6)
    assert found.exponentials == scores
    assert dict(found.evaluations) == {"sub": scores, "exp": scores, "div": scores}
    assert dict(found.reductions) == {"max": scores, "sum": scores}
    assert dict(found.passes) == {"b": 1, "h": 1, "m": 1, "n": 3, "e": 1, "f": 1}


def test_one_pass_pays_an_exponential_and_two_corrections_a_tile_and_saves_divisions() -> None:
    found = describe_cascade(load_cascade("attention_one_pass"), SIZES | {"c": 8, "n0": 2})
    rows, n_tiles = 2 * 4 * 3, 4
    assert found.macs == rows * 8 * (5 + 6)
    assert found.exponentials == rows * 8 + rows * n_tiles
    assert dict(found.evaluations)["mul"] == rows * n_tiles * (6 + 1)
    assert dict(found.evaluations)["div"] == rows * 6
    assert dict(found.passes)["n"] == 1
    assert dict(found.ranks)["n1"] == n_tiles
    assert found.fused_footprint.total_bytes <= found.footprint.total_bytes


def test_tensors_come_with_shape_role_and_direction() -> None:
    found = describe_cascade(load_cascade("lora"), {"t": 2, "o": 3, "i": 4, "r": 1})
    adapter = next(tensor for tensor in found.tensors if tensor.name == "A")
    assert (adapter.ranks, adapter.shape, adapter.role.value) == (("r", "i"), (1, 4), "adapter")
    assert [tensor.direction for tensor in found.tensors] == ["in"] * 4 + [""] * 3 + ["out"]
    assert [operator.macs for operator in found.operators] == [24, 8, 6, 0]


def test_sizes_that_are_missing_are_refused_in_one_line() -> None:
    text = "ranks t, o\nin X[t]\nout Y[t,o]\nlet Z[t]\nZ[t] = X\nY[t,o] = Z + B\nin B[o]\n"
    with pytest.raises(InputError, match="short: rank 't' needs a size"):
        describe_cascade(parse_cascade(text, "short"), {"o": 3})


def _documentation() -> str:
    return (Path(__file__).resolve().parents[1] / "docs" / "cascades.md").read_text(encoding="utf-8")


def test_the_worked_variant_of_the_documentation_costs_what_it_says(tmp_path: Path) -> None:
    page, file = _documentation(), tmp_path / "capped_window.cascade"
    file.write_text(page.split("```cascade\n")[1].split("```")[0], encoding="utf-8")
    found = describe_cascade(load_cascade(file), {})
    assert dict(found.passes)["n"] == 2
    assert (found.macs, found.exponentials) == (12 * 256 * (64 + 64), 12 * 256)
    assert found.traffic.read_bytes == 2 * 12 * (64 + 256 * 64 * 2)
    smaller = describe_cascade(load_cascade(file), {"h": 16, "w": 128})
    assert f"# {smaller.macs}, {smaller.exponentials}\n" in page
    assert (smaller.macs, smaller.exponentials) == (16 * 128 * (64 + 64), 16 * 128)


def test_the_documentation_shows_what_the_command_prints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, file = _documentation(), tmp_path / "capped_window.cascade"
    file.write_text(page.split("```cascade\n")[1].split("```")[0], encoding="utf-8")
    assert run(["cascade", "check", str(file)]) == 0
    printed = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    shown = page.split("```text\n")[1].split("\n```")[0].split("\n")
    assert len(shown) > 15
    assert printed[: len(shown)] == shown


def test_the_documentation_names_every_function_and_shipped_form_of_a_line() -> None:
    page = _documentation()
    listed = page.split("Functions: `")[1].split("`")[0].split()
    assert listed == list(UNARY)
    rows = [line.split("`")[1] for line in page.split("|---|---|\n")[1].split("\n\n")[0].splitlines()]
    words = [line.split()[0] for line in rows[:-1]]
    assert words == ["ranks", "index", "offset", "in", "split", "iterate", "group", "macro"]
