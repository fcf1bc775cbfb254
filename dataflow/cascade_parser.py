"""Text of a cascade to its lines, by a lark grammar; imported only where a cascade is parsed."""

import math
from functools import cache
from importlib.resources import files
from typing import Any, Literal, cast

from lark import Lark, Token, Transformer, UnexpectedCharacters, UnexpectedEOF, UnexpectedInput, v_args
from lark.exceptions import VisitError

from tilewright.dataflow.cascade_syntax import (
    NOWHERE,
    Binary,
    Call,
    Condition,
    Expr,
    GroupLine,
    IndexLine,
    IterateLine,
    Line,
    MacroLine,
    Name,
    Number,
    Pair,
    Place,
    RankLine,
    Read,
    Reduce,
    ScalarLine,
    SplitLine,
    Statement,
    TensorLine,
)

#: Characters of a text, brackets within one another, signs of a statement and digits of a number; more is no
#: cascade.
MAX_CHARACTERS = 1 << 16
MAX_NESTING = 64
MAX_SIGNS = 512
MAX_DIGITS = 32

_WORDS = {
    "SIGN": "'+' or '-'", "PRODUCT": "'*' or '/'", "LSQB": "'['", "RSQB": "']'", "LPAR": "'('",
    "RPAR": "')'", "COMMA": "','", "EQUAL": "'='", "NAME": "a name", "NUMBER": "a number",
    "_NL": "a new line",
    "$END": "the end", "COLON": "':'", "COMPARISON": "a comparison", "INIT": "'init'", "WHERE": "'where'",
}  # fmt: skip


def parse_lines(text: str, source: str) -> tuple[Line, ...]:
    """The lines of a cascade in order.

    Raises InputError with line and column where the text does not follow the grammar, or goes beyond what
    a page of it can be: its length, the depth of its brackets, the digits of a number.
    """
    if len(text) > MAX_CHARACTERS:
        raise NOWHERE.refuse(source, f"a cascade has at most {MAX_CHARACTERS} characters, got {len(text)}")
    text = text.replace("\r\n", "\n")
    _check_nesting(text, source)
    try:
        tree = _grammar().parse(text)
        return cast(tuple[Line, ...], _Lines(source).transform(tree))
    except UnexpectedInput as error:
        raise _place_of(error, text).refuse(source, _syntax_message(error, text)) from None
    except VisitError as error:
        raise error.orig_exc from None


def _check_nesting(text: str, source: str) -> None:
    """Raises InputError where brackets stand deeper in one another than MAX_NESTING, or terms follow without end."""
    depth = n_signs = 0
    for number, line in enumerate(text.split("\n"), start=1):
        if line[:1] not in ("", " ", "\t", "#"):
            depth = n_signs = 0  # a statement starts
        for column, character in enumerate(line.partition("#")[0], start=1):
            depth += (character in "([") - (character in ")]")
            n_signs += character in "+-*/"
            if n_signs > MAX_SIGNS:
                raise Place(number, column).refuse(source, f"a statement has more than {MAX_SIGNS} signs")
            if depth > MAX_NESTING:
                raise Place(number, column).refuse(
                    source, f"brackets stand more than {MAX_NESTING} deep in one another"
                )


@cache
def _grammar() -> Lark:
    text = files("tilewright.dataflow").joinpath("cascade.lark").read_text(encoding="utf-8")
    return Lark(text, parser="lalr", propagate_positions=False, maybe_placeholders=True)


def _place_of(error: UnexpectedInput, text: str) -> Place:
    if isinstance(error, UnexpectedEOF) or error.line < 1:
        lines = text.rstrip().split("\n")
        return Place(len(lines), len(lines[-1]) + 1)
    return Place(error.line, error.column)


def _syntax_message(error: UnexpectedInput, text: str) -> str:
    if isinstance(error, UnexpectedCharacters):
        return f"unexpected character {text[error.pos_in_stream or 0]!r}"
    token = getattr(error, "token", None)
    found = "the end of the text" if token is None or token.type == "$END" else repr(str(token)).strip()
    if token is not None and token.type == "_NL":
        found = "the end of the line"
    expected = sorted(getattr(error, "accepts", None) or getattr(error, "expected", None) or ())
    named = [_WORDS.get(name, repr(name.lower())) for name in expected]
    return f"unexpected {found}" + (f", expected {', '.join(named)}" if len(named) <= 6 else "")


def _place(token: Token) -> Place:
    return Place(token.line or 1, token.column or 1)


def _named(token: Token) -> Name:
    return Name(str(token), _place(token))


@v_args(inline=True)
class _Lines(Transformer[Token, Any]):
    """Tree to lines; every method takes what the rule of its name holds."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self._source = source

    def start(self, *lines: Any) -> tuple[Line, ...]:
        found: list[Line] = []
        for line in lines:
            found.extend(line if isinstance(line, tuple) else (line,))
        return tuple(found)

    def names(self, *tokens: Token) -> tuple[Name, ...]:
        return tuple(_named(token) for token in tokens)

    def ranks(self, *pairs: tuple[Name, Expr | None]) -> RankLine:
        return RankLine(tuple(name for name, _ in pairs), tuple(size for _, size in pairs))

    def index(self, name: Token, variable: Token, value: Expr) -> IndexLine:
        return IndexLine(_named(name), _named(variable), value)

    def default(self, name: Token, value: Expr | None = None) -> tuple[Name, Expr | None]:
        return _named(name), value

    def offset(self, *pairs: tuple[Name, Expr | None]) -> tuple[ScalarLine, ...]:
        return tuple(ScalarLine(name, value, whole=True) for name, value in pairs)

    def param(self, *pairs: tuple[Name, Expr | None]) -> tuple[ScalarLine, ...]:
        return tuple(ScalarLine(name, value, whole=False) for name, value in pairs)

    def declaration(self, name: Token, *rest: Any) -> tuple[Name, tuple[Name, ...], tuple[Name, ...]]:
        ranks = next((part for part in rest if isinstance(part, tuple)), ())
        return _named(name), ranks, tuple(_named(word) for word in rest if isinstance(word, Token))

    def _tensors(
        self, direction: Literal["in", "out", "let"], parts: tuple[Any, ...]
    ) -> tuple[TensorLine, ...]:
        return tuple(TensorLine(direction, *part) for part in parts)

    def inputs(self, *parts: Any) -> tuple[TensorLine, ...]:
        return self._tensors("in", parts)

    def outputs(self, *parts: Any) -> tuple[TensorLine, ...]:
        return self._tensors("out", parts)

    def let(self, *parts: Any) -> tuple[TensorLine, ...]:
        return self._tensors("let", parts)

    def split(
        self,
        rank: Token,
        outer: Token,
        inner: Token,
        size: Token | None = None,
        default: Expr | None = None,
    ) -> SplitLine:
        named = None if size is None else _named(size)
        return SplitLine(_named(rank), _named(outer), _named(inner), named, default)

    def iterate(self, names: tuple[Name, ...]) -> IterateLine:
        return IterateLine(names)

    def group(self, name: Token) -> GroupLine:
        return GroupLine(_named(name))

    def macro(
        self, name: Token, ranks: tuple[Name, ...], arguments: tuple[Name, ...], body: Expr
    ) -> MacroLine:
        return MacroLine(_named(name), ranks, arguments, body)

    def init(self, value: Expr) -> Expr:
        return value

    def where(self, *conditions: Condition) -> tuple[Condition, ...]:
        return conditions

    def condition(self, left: Expr, comparison: Token, right: Expr) -> Condition:
        return Condition(left, str(comparison), right, _place(comparison))

    def statement(self, name: Token, *rest: Any) -> Statement:
        *ranks, value, init, conditions = rest
        return Statement(_named(name), ranks[0] if ranks and ranks[0] else (), value, init, conditions or ())

    def binary(self, left: Expr, operator: Token, right: Expr) -> Binary:
        return Binary(cast(Any, str(operator)), left, right, _place(operator))

    def signed(self, sign: Token, value: Expr) -> Expr:
        if sign == "+":
            return value
        if isinstance(value, Number):
            return Number(-value.value, _place(sign))
        return Binary("*", Number(-1, _place(sign)), value, _place(sign))

    def number(self, token: Token) -> Number:
        value = int(token) if token.isdigit() and len(token) <= MAX_DIGITS else float(token)
        if len(token) > MAX_DIGITS or value == math.inf:
            raise _place(token).refuse(
                self._source, f"a number has at most {MAX_DIGITS} digits and is finite"
            )
        return Number(value, _place(token))

    def name(self, token: Token) -> Name:
        return _named(token)

    def read(self, tensor: Token, *indices: Expr) -> Read:
        return Read(str(tensor), indices, _place(tensor))

    def reduce(self, function: Token, *rest: Expr) -> Reduce:
        return Reduce(str(function), rest[:-1], rest[-1], _place(function))

    def call(self, function: Token, *arguments: Expr) -> Call:
        return Call(str(function), arguments, _place(function))

    def pair(self, *items: Expr) -> Pair:
        return Pair(items, items[0].place)
