"""Cascades: attention variants, token mixers and adapters as text, bound to sizes as graphs."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from tilewright.dataflow.cascade_declare import Declarations, DeclaredTensor, declare
from tilewright.dataflow.cascade_lower import lower
from tilewright.dataflow.cascade_order import in_loops
from tilewright.dataflow.cascade_step import Step
from tilewright.dataflow.cascade_syntax import MacroLine
from tilewright.dataflow.errors import InputError, nearest
from tilewright.dataflow.graph import Graph
from tilewright.dataflow.textfile import read_text

#: A cascade is a page of text; the parser counts its characters.
MAX_FILE_BYTES = 1 << 18

#: Macros that every cascade may use; a text defines more with `macro`.
MACROS = """
macro softmax[r](x) = exp(x - max[r] x) / sum[r] exp(x - max[r] x)
macro logsumexp[r](x) = log(sum[r] exp(x - max[r] x)) + max[r] x
macro variance[r](x) = mean[r] square(x - mean[r] x)
"""


@dataclass(frozen=True)
class Cascade:
    """A checked cascade: what it declares and its steps, one primitive each, before sizes are known.

    `summary` is the comment line that the text starts with.
    """

    name: str
    declarations: Declarations
    steps: tuple[Step, ...]
    summary: str = ""

    @property
    def ranks(self) -> tuple[str, ...]:
        """All ranks in the text's order, the parts of split ones last."""
        return self.declarations.names.ranks

    @property
    def splits(self) -> Mapping[str, tuple[str, str]]:
        """The outer and inner part of each split rank."""
        return self.declarations.names.splits

    @property
    def unsized(self) -> tuple[str, ...]:
        """The ranks that must be given a size: without a default, and not the outer part of a split one."""
        outer = {parts[0] for parts in self.splits.values()}
        return tuple(r for r in self.ranks if r not in outer and r not in self.declarations.default_sizes)

    @property
    def tensors(self) -> Mapping[str, DeclaredTensor]:
        """The tensors of the text by name; intermediates of one statement are not among them."""
        return self.declarations.tensors

    def bind(
        self,
        ranks: Mapping[str, int | float],
        dtypes: Mapping[str, str] | None = None,
        prefix: str = "",
        *,
        skip_masked: bool = True,
    ) -> Graph:
        """The graph for given sizes.

        ranks: elements of each rank, by its name or its size's (a split rank and its inner part, not
        the outer one), offsets and parameters; what has a default need not be given. dtypes: data type by
        tensor or by role; a type in the text stands before that of the role; default fp16. prefix goes
        before the name of each operator and tensor. Without `skip_masked`, masked points count too.

        Raises InputError: a size that is missing, unknown, not whole or not positive; an index beyond
        its tensor; an unknown data type.
        """
        from tilewright.dataflow.cascade_bind import bind

        return bind(self, ranks, dtypes or {}, prefix, skip_masked)


def parse_cascade(text: str, name: str) -> Cascade:
    """The cascade of a text; `name` stands before line and column in errors.

    Raises InputError (one line, `name:line:column: ...`) for a text that is not a cascade.
    """
    return _parsed(text, name, name)


def load_cascade(name_or_path: str | Path) -> Cascade:
    """A cascade that comes with Tilewright, by name, or the one in a file (`*.cascade`).

    `name.cascade` is the file if there is one, else the shipped one of that name. Raises InputError for an
    unknown name (closest one named) or a file that cannot be read.
    """
    stated = str(name_or_path)
    known = cascade_names()
    if stated in known:
        return _shipped(stated)
    path = Path(name_or_path)
    if path.name == stated and path.suffix == ".cascade" and path.stem in known and not path.exists():
        return _shipped(path.stem)
    if not path.is_file() and path.suffix != ".cascade" and "/" not in stated:
        raise InputError(
            f"cascade {stated!r} is neither a name nor a file{nearest(stated, list(known))};"
            f" known: {', '.join(known)}"
        )
    return _parsed(read_text(path, MAX_FILE_BYTES), path.stem, stated)


def cascade_names() -> tuple[str, ...]:
    """The cascades that come with Tilewright, sorted."""
    folder = files("tilewright.dataflow").joinpath("cascades")
    names = [entry.name.removesuffix(".cascade") for entry in folder.iterdir()]
    return tuple(sorted(name for name in names if "." not in name and name[0] != "_"))


@cache
def _shipped(name: str) -> Cascade:
    file = files("tilewright.dataflow").joinpath("cascades", f"{name}.cascade")
    return _parsed(file.read_text(encoding="utf-8"), name, name)


def _parsed(text: str, name: str, source: str) -> Cascade:
    from tilewright.dataflow.cascade_parser import parse_lines

    try:
        text = text.removeprefix("\ufeff")
        declarations = declare(parse_lines(text, source), source, _macros())
        steps = in_loops(lower(declarations), source)
    except RecursionError:
        raise InputError(f"{source}: an expression is nested too deeply") from None
    if not declarations.outputs:
        raise InputError(f"{source}:1:1: a cascade needs an 'out' tensor")
    first = text.lstrip("\ufeff\n").partition("\n")[0]
    return Cascade(name, declarations, steps, first[1:].strip() if first.startswith("#") else "")


@cache
def _macros() -> Mapping[str, MacroLine]:
    from tilewright.dataflow.cascade_parser import parse_lines

    lines = parse_lines(MACROS, "macros")
    return {line.name.name: line for line in lines if isinstance(line, MacroLine)}
