"""The declarations of a cascade: ranks, scalars, tensors, macros, each name with one meaning."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tilewright.dataflow.cascade_index import CONSTANTS, Names, named_in
from tilewright.dataflow.cascade_syntax import (
    Expr,
    GroupLine,
    IndexLine,
    IterateLine,
    Line,
    MacroLine,
    Name,
    Place,
    RankLine,
    ScalarLine,
    SplitLine,
    Statement,
    TensorLine,
)
from tilewright.dataflow.errors import InputError, nearest
from tilewright.dataflow.tensor import DTYPE_BITS, Role

#: The word of a declaration that lets a tensor be read beyond its ends.
PADDED = "padded"

#: Ranks of a text, the parts of split ones included.
MAX_RANKS = 64


@dataclass(frozen=True, slots=True)
class DeclaredTensor:
    """A tensor of the text. `order` is the statement that assigns it, -1 for a live-in.

    A `padded` one may be read beyond its ends within a reduction, where nothing is found.
    """

    name: str
    ranks: tuple[str, ...]
    role: Role | None
    dtype: str | None
    order: int
    init: Expr | None
    place: Place
    padded: bool = False


@dataclass(frozen=True, slots=True)
class Scalar:
    """An offset (`whole`) or a parameter; without a default it must be given."""

    name: str
    default: Expr | None
    whole: bool


@dataclass(frozen=True)
class Declarations:
    """All that the statements may name; `statements` come with the group that they stand under.

    `default_sizes` are those of ranks that need not be given.
    """

    names: Names
    default_sizes: Mapping[str, Expr]
    scalars: tuple[Scalar, ...]
    tensors: Mapping[str, DeclaredTensor]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    macros: Mapping[str, MacroLine]
    statements: tuple[tuple[Statement, str], ...]


@dataclass
class _Draft:
    source: str
    taken: dict[str, str] = field(default_factory=lambda: dict.fromkeys(CONSTANTS, "a constant"))
    ranks: list[str] = field(default_factory=list)

    def take(self, name: Name, meaning: str) -> str:
        """Give a name its one meaning. Raises InputError if it has one already."""
        if name.name in self.taken:
            raise name.place.refuse(self.source, f"{name.name!r} is {self.taken[name.name]} already")
        self.taken[name.name] = meaning
        return name.name

    def take_rank(self, name: Name) -> str:
        """A rank takes its name in lower case and its size's name in upper case."""
        if name.name != name.name.lower():
            raise name.place.refuse(
                self.source, f"rank {name.name!r} must be in lower case: {name.name.upper()!r} is its size"
            )
        self.take(name, "a rank")
        self.take(Name(name.name.upper(), name.place), f"the size of rank {name.name!r}")
        self.ranks.append(name.name)
        return name.name

    def known_rank(self, name: Name) -> str:
        """Raises InputError for a rank that is not declared (closest one named)."""
        if name.name not in self.ranks:
            hint = nearest(name.name, self.ranks)
            raise name.place.refuse(self.source, f"rank {name.name!r} is not declared{hint}")
        return name.name


def declare(lines: tuple[Line, ...], source: str, macros: Mapping[str, MacroLine]) -> Declarations:
    """Collect the declarations of a text; `macros` are those known without one.

    Raises InputError: a name with two meanings, a rank or tensor that is not declared, a tensor that is
    assigned twice or never, a word that is neither role nor data type.
    """
    draft = _Draft(source)
    default_sizes: dict[str, Expr] = {}
    for line in lines:
        if isinstance(line, RankLine):
            for name, size in zip(line.names, line.sizes, strict=True):
                draft.take_rank(name)
                if size is not None:
                    default_sizes[name.name] = size
    splits = _splits(lines, draft)
    maps = {
        draft.take(line.name, "an index map"): (line.variable.name, line.value)
        for line in lines
        if isinstance(line, IndexLine)
    }
    scalars = tuple(
        Scalar(draft.take(line.name, "a scalar"), line.default, line.whole)
        for line in lines
        if isinstance(line, ScalarLine)
    )
    iterated = tuple(
        draft.known_rank(name) for line in lines if isinstance(line, IterateLine) for name in line.names
    )
    default_sizes |= {
        line.inner.name: line.default
        for line in lines
        if isinstance(line, SplitLine) and line.default is not None
    }
    if len(draft.ranks) > MAX_RANKS:
        raise InputError(f"{source}: a cascade has at most {MAX_RANKS} ranks, got {len(draft.ranks)}")
    sizes = {rank.upper() for rank in draft.ranks}
    names = Names(
        source, tuple(draft.ranks), splits, maps, frozenset(sizes | {s.name for s in scalars}), iterated
    )
    _check_defaults(names, default_sizes, scalars)
    own_macros = {draft.take(line.name, "a macro"): line for line in lines if isinstance(line, MacroLine)}
    statements = _statements(lines)
    tensors, inputs, outputs = _tensors(lines, statements, draft)
    return Declarations(
        names, default_sizes, scalars, tensors, inputs, outputs, {**macros, **own_macros}, statements
    )


def _check_defaults(names: Names, sizes: Mapping[str, Expr], scalars: tuple[Scalar, ...]) -> None:
    """Raises InputError for a default that is no number, or that needs itself."""
    defaults = {rank.upper(): size for rank, size in sizes.items()}
    defaults |= {scalar.name: scalar.default for scalar in scalars if scalar.default is not None}
    needs = {name: named_in(names.scalar(default)) for name, default in defaults.items()}
    for rank, (outer, inner) in names.splits.items():
        needs[outer.upper()] = (rank.upper(), inner.upper())
    for name, default in defaults.items():
        reached: set[str] = set()
        waiting = [name]
        while waiting:
            for other in needs.get(waiting.pop(), ()):
                if other == name:
                    raise default.place.refuse(names.source, f"{name!r} is defined by itself")
                if other not in reached:
                    reached.add(other)
                    waiting.append(other)


def _splits(lines: tuple[Line, ...], draft: _Draft) -> dict[str, tuple[str, str]]:
    found: dict[str, tuple[str, str]] = {}
    for line in lines:
        if not isinstance(line, SplitLine):
            continue
        rank = draft.known_rank(line.rank)
        if rank in found:
            raise line.rank.place.refuse(draft.source, f"rank {rank!r} is split twice")
        found[rank] = draft.take_rank(line.outer), draft.take_rank(line.inner)
        if line.size is not None and line.size.name != line.inner.name.upper():
            raise line.size.place.refuse(
                draft.source,
                f"the size of the inner part {line.inner.name!r} is named {line.inner.name.upper()!r},"
                f" got {line.size.name!r}",
            )
    return found


def _statements(lines: tuple[Line, ...]) -> tuple[tuple[Statement, str], ...]:
    found, group = [], ""
    for line in lines:
        if isinstance(line, GroupLine):
            group = line.name.name
        elif isinstance(line, Statement):
            found.append((line, group))
    return tuple(found)


def _tensors(
    lines: tuple[Line, ...], statements: tuple[tuple[Statement, str], ...], draft: _Draft
) -> tuple[dict[str, DeclaredTensor], tuple[str, ...], tuple[str, ...]]:
    """Declared tensors by name, the live-in and the live-out ones."""
    stated = {line.name.name: line for line in lines if isinstance(line, TensorLine)}
    directions: dict[str, list[str]] = {"in": [], "out": [], "let": []}
    tensors: dict[str, DeclaredTensor] = {}
    for line in lines:
        if isinstance(line, TensorLine):
            directions[line.direction].append(draft.take(line.name, "a tensor"))
            if line.direction == "in":
                tensors[line.name.name] = _tensor(line.name, line.ranks, line, -1, None, draft)
    for order, (statement, _) in enumerate(statements):
        name = statement.name
        if name.name in tensors:
            before = tensors[name.name]
            already = (
                "is an input" if before.order < 0 else f"is assigned already, at line {before.place.line}"
            )
            raise name.place.refuse(draft.source, f"tensor {name.name!r} {already}")
        said = stated.get(name.name)
        if said is None:
            draft.take(name, "a tensor")
        elif [rank.name for rank in said.ranks] != [rank.name for rank in statement.ranks]:
            declared = ",".join(rank.name for rank in said.ranks)
            raise name.place.refuse(
                draft.source, f"tensor {name.name!r} is declared as {name.name}[{declared}]"
            )
        tensors[name.name] = _tensor(name, statement.ranks, said, order, statement.init, draft)
    for direction in ("out", "let"):
        for missing in (tensor for tensor in directions[direction] if tensor not in tensors):
            raise stated[missing].name.place.refuse(draft.source, f"tensor {missing!r} is never assigned")
    return tensors, tuple(directions["in"]), tuple(directions["out"])


def _tensor(
    name: Name,
    ranks: tuple[Name, ...],
    stated: TensorLine | None,
    order: int,
    init: Expr | None,
    draft: _Draft,
) -> DeclaredTensor:
    named = tuple(draft.known_rank(rank) for rank in ranks)
    for position, rank in enumerate(ranks):
        if rank.name in named[:position]:
            raise rank.place.refuse(draft.source, f"tensor {name.name!r} has rank {rank.name!r} twice")
    role, dtype, padded = None, None, False
    roles = [role.value for role in Role]
    for word in stated.words if stated else ():
        if word.name in roles:
            role = Role(word.name)
        elif word.name in DTYPE_BITS:
            dtype = word.name
        elif word.name == PADDED:
            padded = True
        else:
            hint = nearest(word.name, [*roles, *DTYPE_BITS, PADDED])
            raise word.place.refuse(draft.source, f"{word.name!r} is neither a role nor a data type{hint}")
    return DeclaredTensor(name.name, named, role, dtype, order, init, name.place, padded)
