"""The syntax tree of a cascade text, as the parser makes it; it carries no checks."""

from dataclasses import dataclass, field
from typing import Literal

from tilewright.dataflow.errors import InputError


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands in the text, both counted from 1."""

    line: int
    column: int

    def refuse(self, source: str, message: str) -> InputError:
        """The error to raise: `source:line:column: message`."""
        return InputError(f"{source}:{self.line}:{self.column}: {message}")


NOWHERE = Place(1, 1)
Sign = Literal["+", "-", "*", "/"]


@dataclass(frozen=True, slots=True)
class Number:
    value: int | float
    place: Place = field(default=NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class Name:
    """A rank, the size of a rank, a parameter, an offset, or a tensor at the indices it is declared with."""

    name: str
    place: Place = field(default=NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class Read:
    tensor: str
    indices: tuple["Expr", ...]
    place: Place = field(default=NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class Reduce:
    """`max[n] argument`, or a macro that takes ranks."""

    function: str
    ranks: tuple["Expr", ...]
    argument: "Expr"
    place: Place = field(default=NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class Call:
    function: str
    arguments: tuple["Expr", ...]
    place: Place = field(default=NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class Binary:
    operator: Sign
    left: "Expr"
    right: "Expr"
    place: Place = field(default=NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class Pair:
    """`(n1, n0)`: the parts of a split rank, outermost first."""

    items: tuple["Expr", ...]
    place: Place = field(default=NOWHERE, compare=False)


Expr = Number | Name | Read | Reduce | Call | Binary | Pair


@dataclass(frozen=True, slots=True)
class RankLine:
    """`ranks h = 8, m`: each with its default size, None where one must be given."""

    names: tuple[Name, ...]
    sizes: tuple["Expr | None", ...]


@dataclass(frozen=True, slots=True)
class IndexLine:
    """`index g(h) = ...`"""

    name: Name
    variable: Name
    value: Expr


@dataclass(frozen=True, slots=True)
class ScalarLine:
    """`offset c = 0` or `param alpha = 16`; a default of None must be given when ranks are bound."""

    name: Name
    default: Expr | None
    whole: bool


@dataclass(frozen=True, slots=True)
class TensorLine:
    """A declared tensor; `direction` is "in", "out" or "let" (an intermediate)."""

    direction: Literal["in", "out", "let"]
    name: Name
    ranks: tuple[Name, ...]
    words: tuple[Name, ...]


@dataclass(frozen=True, slots=True)
class SplitLine:
    """`split n -> n1, n0 : N0 = 16`"""

    rank: Name
    outer: Name
    inner: Name
    size: Name | None
    default: Expr | None


@dataclass(frozen=True, slots=True)
class IterateLine:
    names: tuple[Name, ...]


@dataclass(frozen=True, slots=True)
class GroupLine:
    name: Name


@dataclass(frozen=True, slots=True)
class MacroLine:
    """`macro softmax[r](x) = ...`"""

    name: Name
    ranks: tuple[Name, ...]
    arguments: tuple[Name, ...]
    body: Expr


@dataclass(frozen=True, slots=True)
class Condition:
    """`left comparison right`, comparison one of <= >= < >; `abs(n - m) < w` bounds a distance."""

    left: Expr
    comparison: str
    right: Expr
    place: Place


@dataclass(frozen=True, slots=True)
class Statement:
    """`tensor[ranks] = value init ... where ...`"""

    name: Name
    ranks: tuple[Name, ...]
    value: Expr
    init: Expr | None
    conditions: tuple[Condition, ...]


Line = (
    RankLine
    | IndexLine
    | ScalarLine
    | TensorLine
    | SplitLine
    | IterateLine
    | GroupLine
    | MacroLine
    | Statement
)
