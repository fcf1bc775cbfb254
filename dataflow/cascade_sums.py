"""What is looked at before a cascade's statement is lowered: sums within sums, and how large it grows."""

from collections.abc import Mapping

from tilewright.dataflow.cascade_syntax import Binary, Call, Expr, Name, Pair, Place, Read, Reduce


def n_terms(expr: Expr, known: dict[int, tuple[Expr, int]]) -> int:
    """Nodes of an expression written out; `known` holds those of parts that were counted, by identity.

    Macros repeat their argument as one value, so that few values may stand for very many terms.
    """
    if id(expr) in known:
        return known[id(expr)][1]
    parts: tuple[Expr, ...] = ()
    match expr:
        case Reduce(_, ranks, argument):
            parts = (*ranks, argument)
        case Call(_, arguments):
            parts = arguments
        case Binary(_, left, right):
            parts = (left, right)
        case Read(_, indices):
            parts = indices
        case Pair(items):
            parts = items
    found = 1 + sum(n_terms(part, known) for part in parts)
    known[id(expr)] = expr, found
    return found


def check_sums(expr: Expr, source: str) -> None:
    """Raises InputError for a sum over a rank within a sum over it: what of the rank is meant is open."""
    _check(expr, source, {})


def _check(expr: Expr, source: str, outer: Mapping[str, Place]) -> None:
    """`outer` are the ranks that sums around `expr` are over, and where they are named."""
    match expr:
        case Reduce(function, ranks, argument):
            named = {rank.name: rank.place for rank in ranks if isinstance(rank, Name)}
            for name, place in named.items() if function == "sum" else ():
                if name in outer:
                    around = outer[name]
                    raise place.refuse(
                        source,
                        f"a double sum over {name!r}: another one stands around it, at line {around.line},"
                        f" column {around.column}; name an intermediate",
                    )
            _check(argument, source, {**outer, **named} if function == "sum" else outer)
        case Call(_, arguments):
            for argument in arguments:
                _check(argument, source, outer)
        case Binary(_, left, right):
            _check(left, source, outer)
            _check(right, source, outer)
