"""The picture of a cascade: what stands in it, where lanes run, and what is refused."""

import re
from pathlib import Path

import pytest

from tilewright.dataflow.cascade import load_cascade, parse_cascade
from tilewright.dataflow.cascade_summary import describe_cascade
from tilewright.dataflow.cascade_text import statement_views
from tilewright.dataflow.errors import InputError
from tilewright.reports.cascade_graph import MAX_STATEMENTS, draw_cascade, lanes


def _draw(name: str, file: Path) -> None:
    cascade = load_cascade(name)
    draw_cascade(cascade, cascade.bind({}), describe_cascade(cascade, {}), file)


@pytest.mark.parametrize("name", ["attention_one_pass", "shifted_window_attention", "softmax"])
def test_every_statement_and_live_in_stands_in_the_picture(name: str, tmp_path: Path) -> None:
    file = tmp_path / "picture.svg"
    _draw(name, file)
    words = re.findall(r"<text[^>]*>([^<]*)</text>", file.read_text(encoding="utf-8"))
    cascade = load_cascade(name)
    for tensor in cascade.tensors.values():
        title = f"{tensor.name}[{','.join(tensor.ranks)}]"
        assert title in [word.removesuffix("  (out)") for word in words]
    steps = [word for word in words if word.startswith("step by step")]
    assert steps == (["step by step: n1 = 0 .. 7"] if name == "attention_one_pass" else [])


def test_the_same_cascade_gives_the_same_bytes(tmp_path: Path) -> None:
    for suffix in (".svg", ".png"):
        first, second = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
        _draw("gqa", first)
        _draw("gqa", second)
        assert first.read_bytes() == second.read_bytes()
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"


def test_lanes_that_overlap_are_apart_and_neighbours_need_none() -> None:
    cascade = load_cascade("attention_one_pass")
    placed = lanes(statement_views(cascade, cascade.bind({})))
    assert {lane.name for lane, _ in placed if not lane.steps} == {"QK", "RM", "SLN", "PRM", "RD"}
    assert {lane.name for lane, _ in placed if lane.steps} == {"RM", "RD", "RNV"}
    for lane, number in placed:
        for other, beside in placed:
            if lane is not other and number == beside:
                assert lane.span[1] < other.span[0] or other.span[1] < lane.span[0]


def test_a_picture_is_svg_or_png_and_of_a_page_at_most(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.pdf: a picture is stored as \.svg or \.png"):
        _draw("gqa", tmp_path / "a.pdf")
    lines = "".join(f"Y{k}[m] = exp(Y{k - 1})\n" for k in range(1, MAX_STATEMENTS + 2))
    cascade = parse_cascade(f"ranks m\nin Y0[m]\nout Y{MAX_STATEMENTS + 1}[m]\n{lines}", "long")
    summary = describe_cascade(cascade, {"m": 2})
    with pytest.raises(InputError, match="a picture holds at most 60 statements, got 61"):
        draw_cascade(cascade, cascade.bind({"m": 2}), summary, tmp_path / "a.svg")
    assert list(tmp_path.iterdir()) == []
