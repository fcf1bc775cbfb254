"""Syntax of a cascade back to text, and its statements as they run: for tables and pictures."""

from dataclasses import dataclass

from tilewright.dataflow.cascade import Cascade
from tilewright.dataflow.cascade_syntax import (
    Binary,
    Call,
    Expr,
    Name,
    Number,
    Pair,
    Read,
    Reduce,
    Statement,
)
from tilewright.dataflow.graph import Graph
from tilewright.dataflow.operator import Kind, Operator

_STRENGTH = {"+": 1, "-": 1, "*": 2, "/": 2}


@dataclass(frozen=True, slots=True)
class StatementView:
    """A statement in the place where it runs.

    `reads` are the tensors of the text that it needs now, `past` those of which it needs an earlier step,
    with the number of steps. `evaluations` are points by function or reduction, largest first.
    """

    name: str
    ranks: tuple[str, ...]
    shape: tuple[int, ...]
    formula: str
    kind: Kind
    serial_rank: str
    n_bytes: int
    macs: int
    evaluations: tuple[tuple[str, int], ...]
    reads: tuple[str, ...]
    past: tuple[tuple[str, int], ...]


def expression_text(expr: Expr) -> str:
    """An expression as one would write it."""
    match expr:
        case Number(value):
            return f"{value:g}" if isinstance(value, float) else str(value)
        case Name(name):
            return name
        case Read(tensor, indices):
            return f"{tensor}[{','.join(map(expression_text, indices))}]"
        case Reduce(function, ranks, argument):
            inner = expression_text(argument)
            bracketed = f" ({inner})" if isinstance(argument, Binary) else f" {inner}"
            return f"{function}[{','.join(map(expression_text, ranks))}]{bracketed}"
        case Call(function, arguments):
            return f"{function}({', '.join(map(expression_text, arguments))})"
        case Pair(items):
            return f"({','.join(map(expression_text, items))})"
        case Binary(sign, left, right):
            before, after = _side(left, sign, left=True), _side(right, sign, left=False)
            return f"{before} {sign} {after}"
    return str(expr)


def _side(expr: Expr, sign: str, *, left: bool) -> str:
    """An operand, in brackets where its own operator binds less."""
    text = expression_text(expr)
    if not isinstance(expr, Binary):
        return text
    weaker = _STRENGTH[expr.operator] < _STRENGTH[sign]
    equal = _STRENGTH[expr.operator] == _STRENGTH[sign] and not left
    return f"({text})" if weaker or equal else text


def statement_text(statement: Statement) -> str:
    """The right side of a statement, its condition and its initial value."""
    text = expression_text(statement.value)
    if statement.init is not None:
        text += f"  init {expression_text(statement.init)}"
    if statement.conditions:
        conditions = (
            f"{expression_text(one.left)} {one.comparison} {expression_text(one.right)}"
            for one in statement.conditions
        )
        text += f"  where {', '.join(conditions)}"
    return text


def statement_views(cascade: Cascade, graph: Graph) -> tuple[StatementView, ...]:
    """The statements of `cascade` in the order in which `graph`, bound to it, runs them."""
    statements = {statement.name.name: statement for statement, _ in cascade.declarations.statements}
    parts: dict[str, list[Operator]] = {name: [] for name in statements}
    for operator in graph.operators:
        parts[operator.name.partition(".")[0]].append(operator)
    order = [operator.name for operator in graph.operators if operator.name in statements]
    return tuple(_view(graph, statements[name], parts[name]) for name in order)


def short(number: int) -> str:
    """A count in at most four digits and a letter: 134.2 M."""
    for exponent, letter in ((15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if number >= 10**exponent:
            return f"{number / 10**exponent:.4g} {letter}"
    return str(number)


def cost_text(view: StatementView) -> str:
    """What a statement costs: multiply-accumulates, then evaluations, largest first."""
    parts = [f"{short(view.macs)} MAC"] if view.macs else []
    parts += [f"{name} {short(count)}" for name, count in view.evaluations]
    return ", ".join(parts[:5]) + (" ..." if len(parts) > 5 else "")


def _view(graph: Graph, statement: Statement, operators: list[Operator]) -> StatementView:
    name = statement.name.name
    own = {operator.output.tensor for operator in operators} - {name}
    reads: dict[str, None] = {}
    past: dict[str, int] = {}
    evaluations: dict[str, int] = {}
    for operator in operators:
        for access in operator.inputs:
            if access.tensor in own:
                continue
            if steps := operator.steps_back(access):
                past[access.tensor] = max(steps, past.get(access.tensor, 0))
            else:
                reads[access.tensor] = None
        what = operator.reduce if operator.kind is Kind.REDUCTION else operator.function
        what = operator.reduce if operator.kind is Kind.REDUCTION else operator.function
        if operator.kind is Kind.GATHER:
            what = operator.kind.value
        if operator.kind is not Kind.CONTRACTION:
            evaluations[what] = evaluations.get(what, 0) + graph.n_points(operator)
    last = operators[-1]
    kinds = [operator.kind for operator in operators]
    heaviest = next((kind for kind in _WEIGHT if kind in kinds), last.kind)
    ranks = graph.tensor_by_name[name].ranks
    return StatementView(
        name, ranks, tuple(graph.size(rank) for rank in ranks), statement_text(statement), heaviest,
        last.serial_rank, graph.n_bytes(name), sum(graph.macs(operator) for operator in operators),
        tuple(sorted(evaluations.items(), key=lambda item: (-item[1], item[0]))), tuple(reads),
        tuple(past.items()),
    )  # fmt: skip


#: A statement of several operators is of the first kind here that is among them.
_WEIGHT = (Kind.CONTRACTION, Kind.SCAN, Kind.REDUCTION, Kind.GATHER)
