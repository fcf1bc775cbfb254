"""The parser on texts that nobody meant: a cascade or one line, never anything else."""

from hypothesis import given
from hypothesis import strategies as st

from tilewright.dataflow.cascade import Cascade, cascade_names, load_cascade, parse_cascade
from tilewright.dataflow.cascade_parser import parse_lines
from tilewright.dataflow.cascade_syntax import (
    Binary,
    Call,
    GroupLine,
    Name,
    Number,
    RankLine,
    Read,
    Statement,
)
from tilewright.dataflow.errors import InputError

WORDS = (
    "ranks", "index", "offset", "param", "in", "out", "let", "split", "iterate", "group", "macro", "init",
    "where", "weight", "m", "n", "n1", "n0", "N", "N0", "Q", "K", "Y", "c", "exp", "max", "softmax", "sum",
    "last", "->", "[", "]", "(", ")", ",", ":", "=", "+", "-", "*", "/", "<=", ">", "1", "0.5", "2e9", "\n",
    "\n ",
)  # fmt: skip
SOUND = "ranks m, n, e\nin Q[m,e], K[n,e]\nout Y[m,n]\nsplit n -> n1, n0 : N0\niterate n1\n"


def _one_line_or_cascade(text: str) -> None:
    message = "text:"
    try:
        assert isinstance(parse_cascade(text, "text"), Cascade)
    except InputError as error:
        message = str(error)
    assert message.startswith("text:")
    assert "\n" not in message


@given(st.lists(st.sampled_from(WORDS), max_size=30).map(" ".join))
def test_any_words_give_a_cascade_or_one_line(text: str) -> None:
    _one_line_or_cascade(text)


@given(st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join))
def test_any_words_as_a_statement_give_a_cascade_or_one_line(text: str) -> None:
    _one_line_or_cascade(f"{SOUND}Y[m,n] = {text}")


@given(st.text(max_size=40))
def test_any_characters_give_a_cascade_or_one_line(text: str) -> None:
    _one_line_or_cascade(text)


@given(st.sampled_from(cascade_names()), st.data())
def test_a_shipped_text_with_a_piece_cut_out_gives_a_cascade_or_one_line(
    name: str, data: st.DataObject
) -> None:
    text = _text_of(name)
    first = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(first, min(len(text), first + 12)))
    _one_line_or_cascade(text[:first] + text[end:])


def _text_of(name: str) -> str:
    from importlib.resources import files

    return files("tilewright.dataflow").joinpath("cascades", f"{name}.cascade").read_text(encoding="utf-8")


def test_lines_come_in_order_with_the_place_of_each_name() -> None:
    rank, group, statement = parse_lines("ranks m\n\ngroup norm\nY[m] = exp(X[m]) / 2\n", "text")
    assert isinstance(rank, RankLine)
    assert isinstance(group, GroupLine)
    assert isinstance(statement, Statement)
    assert (group.name.name, group.name.place.line, group.name.place.column) == ("norm", 3, 7)
    read = Read("X", (Name("m"),))
    assert statement.value == Binary("/", Call("exp", (read,)), Number(2))
    assert (statement.name.place.line, statement.name.place.column) == (4, 1)


def test_products_bind_closer_than_sums_and_both_to_the_left() -> None:
    (statement,) = parse_lines("Y[] = A - B - C * D / E", "text")
    assert isinstance(statement, Statement)
    product = Binary("/", Binary("*", Name("C"), Name("D")), Name("E"))
    assert statement.value == Binary("-", Binary("-", Name("A"), Name("B")), product)


def test_line_ends_of_other_systems_and_keywords_within_names_are_no_matter() -> None:
    lines = parse_lines("ranks m\r\nin inner[m], outer[m]\r\nY[m] = inner * outer\r\n", "text")
    assert len(lines) == 4
    assert load_cascade("linear").name == "linear"
