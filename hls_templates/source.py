"""Just enough reading of generated C++ for the linter: functions, declarations, pragmas, constants."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

_WORD = r"[A-Za-z_]\w*"
_DECLARATION = re.compile(
    rf"(?:^|[;{{}}(,]|\)\s*)\s*(?:static\s+|const\s+|constexpr\s+)*"
    rf"(?P<type>(?:{_WORD}::)*{_WORD}(?:\s*<[^;{{}}()]*>)?)\s*(?P<mark>[&*]?)\s*"
    rf"(?P<name>{_WORD})\s*(?P<dims>(?:\[[^\]]*\])*)\s*(?=[;,=)(])"
)
_KEYWORDS = frozenset({"return", "else", "new", "delete", "case", "typedef", "struct", "if", "for", "while"})


@dataclass(frozen=True, slots=True)
class Pragma:
    """One `#pragma HLS`: its line number, directive, and options in order; a flag has the value None."""

    line: int
    directive: str
    options: tuple[tuple[str, str | None], ...]

    def option(self, name: str) -> str | None:
        return next((value for key, value in self.options if key.lower() == name), None)

    def has(self, name: str) -> bool:
        return any(key.lower() == name for key, _ in self.options)


@dataclass(frozen=True, slots=True)
class Declared:
    """A variable or a parameter: its type, `&` or `*` or nothing, and the text of its dimensions."""

    type: str
    mark: str
    dims: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Function:
    """A function's name, parameters in order, body without comments, and the lines that it spans."""

    name: str
    parameters: tuple[tuple[str, Declared], ...]
    body: str
    first_line: int
    last_line: int
    local: Mapping[str, Declared] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Source:
    """A file: its lines without comments, functions, pragmas, global names and array types."""

    name: str
    lines: tuple[str, ...]
    functions: tuple[Function, ...]
    pragmas: tuple[Pragma, ...]
    constants: Mapping[str, int]
    array_types: Mapping[str, tuple[str, ...]]
    global_names: Mapping[str, Declared]

    def function_at(self, line: int) -> Function | None:
        return next((f for f in self.functions if f.first_line <= line <= f.last_line), None)


def read_source(name: str, text: str, included: str = "") -> Source:
    """Read one file; `included` is the text of headers that it includes, for constants and types."""
    plain = _without_comments(text)
    both = _without_comments(included) + "\n" + plain
    functions = tuple(_functions(plain))
    outside = _outside(both)
    return Source(
        name=name,
        lines=tuple(plain.splitlines()),
        functions=functions,
        pragmas=tuple(_pragmas(plain)),
        constants={
            key: int(value) for key, value in re.findall(rf"const\s+int\s+({_WORD})\s*=\s*(-?\d+)\s*;", both)
        },
        array_types={
            key: tuple(re.findall(r"\[([^\]]*)\]", dims))
            for key, dims in re.findall(rf"typedef\s+{_WORD}\s+({_WORD})((?:\[[^\]]*\])+)\s*;", both)
        },
        global_names=_declared(outside),
    )


def _without_comments(text: str) -> str:
    """Comments as spaces, so that lines keep their numbers; string literals are kept."""

    def blank(match: re.Match[str]) -> str:
        found = match.group(0)
        return found if found.startswith('"') else re.sub(r"[^\n]", " ", found)

    return re.sub(r'"(?:\\.|[^"\\\n])*"|//[^\n]*|/\*.*?\*/', blank, text, flags=re.DOTALL)


def _pragmas(text: str) -> list[Pragma]:
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        match = re.match(r"\s*#\s*pragma\s+HLS\s+(\S+)\s*(.*)$", line, flags=re.IGNORECASE)
        if match:
            parts = re.sub(r"\s*=\s*", "=", match.group(2)).split()
            options = [part.partition("=") for part in parts]
            pairs = tuple((key, value if equals else None) for key, equals, value in options)
            found.append(Pragma(number, match.group(1).upper(), pairs))
    return found


def _functions(text: str) -> list[Function]:
    """Functions at file level: a name, parameters in parentheses, a body in braces."""
    blanked = re.sub(r"(?m)^\s*#.*$", lambda m: " " * len(m.group(0)), text)
    found = []
    for match in re.finditer(rf"({_WORD})\s*\(([^(){{}};]*)\)\s*{{", blanked):
        start = match.end() - 1
        if _depth(blanked, match.start()) > 0 or match.group(1) in _KEYWORDS:
            continue
        end = _closing(blanked, start)
        first = text.count("\n", 0, start) + 1
        parameters = _parameters(match.group(2))
        body = text[start + 1 : end]
        found.append(
            Function(
                match.group(1),
                parameters,
                body,
                first,
                text.count("\n", 0, end) + 1,
                _declared(re.sub(r"(?m)^\s*#.*$", "", body)),
            )
        )
    return found


def _depth(text: str, position: int) -> int:
    before = re.sub(r'extern\s+"C"\s*{', " ", text[:position])
    return before.count("{") - before.count("}")


def _closing(text: str, start: int) -> int:
    depth = 0
    for position in range(start, len(text)):
        if text[position] == "{":
            depth += 1
        elif text[position] == "}":
            depth -= 1
            if depth == 0:
                return position
    return len(text)


def _parameters(text: str) -> tuple[tuple[str, Declared], ...]:
    found = []
    for part in _split(text):
        match = re.match(
            rf"\s*(?:const\s+)?(.+?)\s*([&*]?)\s*({_WORD})\s*((?:\[[^\]]*\])*)\s*$", part, re.DOTALL
        )
        if match:
            type_, mark, name, dims = match.groups()
            found.append((name, Declared(type_, mark, tuple(re.findall(r"\[([^\]]*)\]", dims)))))
    return tuple(found)


def _split(text: str) -> list[str]:
    """Split at commas outside of angle brackets."""
    parts, depth, current = [], 0, ""
    for letter in text:
        depth += (letter == "<") - (letter == ">")
        if letter == "," and depth == 0:
            parts.append(current)
            current = ""
        else:
            current += letter
    return [*parts, current]


def _declared(text: str) -> dict[str, Declared]:
    found: dict[str, Declared] = {}
    for match in _DECLARATION.finditer(text):
        if (
            match.group("type").split("<")[0].strip() not in _KEYWORDS
            and match.group("name") not in _KEYWORDS
        ):
            dims = tuple(re.findall(r"\[([^\]]*)\]", match.group("dims")))
            found[match.group("name")] = Declared(match.group("type"), match.group("mark"), dims)
    return found


def _outside(text: str) -> str:
    """The text with everything in braces left out."""
    found, depth = [], 0
    for letter in re.sub(r"(?m)^\s*#.*$", "", text):
        depth += (letter == "{") - (letter == "}")
        if depth == 0 or (letter == "{" and depth == 1):
            found.append(";" if letter == "}" else letter if letter != "{" else " ")
    return "".join(found)
