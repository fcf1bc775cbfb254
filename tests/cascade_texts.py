"""Texts that are nearly cascades: shipped ones with tokens changed, and ones grown from the grammar."""

import re
from importlib.resources import files

from hypothesis import strategies as st

from tilewright.dataflow.cascade import cascade_names

_TOKEN = re.compile(r"[A-Za-z][A-Za-z0-9_]*|[0-9.]+|\n[ ]*|[ ]+|->|<=|>=|#[^\n]*|.")

SHIPPED_TEXTS = {
    name: files("tilewright.dataflow").joinpath("cascades", f"{name}.cascade").read_text(encoding="utf-8")
    for name in cascade_names()
}
_TOKENS = {name: _TOKEN.findall(text) for name, text in SHIPPED_TEXTS.items()}
_POOL = sorted({token for tokens in _TOKENS.values() for token in tokens if token[0] != "#"})
_ODD = [
    "0", "-1", "1e400", "9" * 31, "9" * 400, "last(n1)", "mod(n, 0)", "N - N", "inf", "lowest", "padded", "index",
    "iterate m\n", "split m -> m1, m0\n", "init 0", "where n <= m", "softmax[m,n]", "((", "))", "é", "\t", "\x00",
    "macro loop[r](x) = loop[r] x\n", "ranks m = N\n", "QK", "AV", "S[t-1]", "= 1 / 0", "* 1000000000 *",
]  # fmt: skip


@st.composite
def mutated_texts(draw: st.DrawFn) -> str:
    """A shipped text with up to four tokens left out, doubled, exchanged or replaced."""
    tokens = list(_TOKENS[draw(st.sampled_from(sorted(_TOKENS)))])
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(tokens) - 1))
        match draw(st.sampled_from(("drop", "double", "swap", "replace", "odd", "line"))):
            case "drop":
                tokens[place] = ""
            case "double":
                tokens[place] *= 2
            case "swap":
                other = draw(st.integers(0, len(tokens) - 1))
                tokens[place], tokens[other] = tokens[other], tokens[place]
            case "replace":
                tokens[place] = draw(st.sampled_from(_POOL))
            case "odd":
                tokens[place] = draw(st.sampled_from(_ODD))
            case "line":
                lines = "".join(tokens).split("\n")
                moved = lines.pop(draw(st.integers(0, len(lines) - 1)))
                lines.insert(draw(st.integers(0, len(lines))), moved)
                tokens = _TOKEN.findall("\n".join(lines)) or ["\n"]
    return "".join(tokens)


RANKS = ("a", "b", "c", "d")
_NUMBERS = st.sampled_from(("0", "1", "2", "3", "0.5", "A", "B", "C0", "k", "sqrt(B)", "-1", "inf", "1e9"))
_RANK = st.sampled_from((*RANKS, "c1", "c0"))
_PLACE = st.deferred(
    lambda: st.one_of(
        _RANK, _RANK, _RANK, st.just("(c1,c0)"), _NUMBERS, st.just("I"), st.just("last(d)"), st.just("g(a)"),
        st.builds("{}+{}".format, _PLACE, _NUMBERS), st.builds("{}-{}".format, _PLACE, _PLACE),
        st.builds("{}*{}".format, _NUMBERS, _PLACE), st.builds("({})/{}".format, _PLACE, _NUMBERS),
        st.builds("mod({},{})".format, _PLACE, _NUMBERS),
    )
)  # fmt: skip
_NAMES = ("X", "W", "T", "Y0", "Y1", "Y2", "Y3")
_READ = st.one_of(
    st.sampled_from(_NAMES),
    st.builds(
        "{}[{}]".format, st.sampled_from(_NAMES), st.lists(_PLACE, min_size=1, max_size=3).map(",".join)
    ),
)
_EXPRESSION = st.recursive(
    st.one_of(_READ, _READ, _NUMBERS),
    lambda inner: st.one_of(
        st.builds("{} {} {}".format, inner, st.sampled_from("+-*/"), inner),
        st.builds("({})".format, inner),
        st.builds("{}({})".format, st.sampled_from(("exp", "relu", "sqrt", "nothing")), inner),
        st.builds("{}({}, {})".format, st.sampled_from(("max", "min", "pow")), inner, inner),
        st.builds(
            "{}[{}] ({})".format, st.sampled_from(("sum", "max", "mean", "softmax", "twice")), _RANK, inner
        ),
    ),
    max_leaves=8,
)
_CONDITION = st.one_of(
    st.builds("{} {} {}".format, _PLACE, st.sampled_from(("<=", "<", ">", ">=")), _PLACE),
    st.builds("abs({}-{}) < {}".format, _RANK, _RANK, _NUMBERS),
)


_HEAD = """ranks a = 3, b = 4, c, d = B
offset k = 1
index g(a) = a / 2
split c -> c1, c0 : C0
macro twice[r](x) = x + sum[r] x
in X[a,b], W[b,c] : weight padded, T[a,d], I[a] : index
"""


@st.composite
def grown_texts(draw: st.DrawFn) -> str:
    """Declarations and up to five statements that mostly fit together, one in four of them at random."""
    iterated = draw(st.sampled_from(("", "", "c1", "d", "a")))
    known = {"X": "a b", "W": "b c", "T": "a d"}
    lines = []
    for number in range(draw(st.integers(1, 5))):
        name = f"Y{number}"
        if draw(st.integers(0, 3)) == 0:
            left = draw(st.lists(_RANK, max_size=3, unique=True))
            line = f"{name}[{','.join(left)}] = {draw(_EXPRESSION)}" + draw(
                st.sampled_from(("", " init A - k"))
            )
        else:
            left, value = draw(_fitting(known, iterated))
            past = f"{name}[{iterated}-1] * " if iterated in left and draw(st.booleans()) else ""
            line = f"{name}[{','.join(left)}] = {past}{value}" + (" init 0" if past else "")
        if draw(st.integers(0, 4)) == 0:
            line += " where " + ", ".join(draw(st.lists(_CONDITION, min_size=1, max_size=2)))
        known[name] = " ".join(left)
        lines.append(line)
    out = f"out {lines[-1].partition(' =')[0]}\n"
    return _HEAD + (f"iterate {iterated}\n" if iterated else "") + out + "\n".join(lines) + "\n"


@st.composite
def _fitting(draw: st.DrawFn, known: dict[str, str], iterated: str) -> tuple[list[str], str]:
    """The ranks of a left side and a value that has them, made of tensors that are known."""
    first, second = (draw(st.sampled_from(sorted(known))) for _ in range(2))
    ranks, both = known[first].split(), list(dict.fromkeys((known[first] + " " + known[second]).split()))
    match draw(st.sampled_from(("map", "product", "reduce", "macro", "move", "parts"))):
        case "map":
            return both, draw(st.sampled_from(("exp({}) + {}", "max({}, {})", "{} - 2 * {}"))).format(
                first, second
            )
        case "product":
            kept = [rank for rank in both if rank == iterated or draw(st.booleans())]
            return kept, f"{first} * {second} / sqrt(B)"
        case "reduce" if ranks:
            rank = draw(st.sampled_from(ranks))
            return [
                r for r in ranks if r != rank
            ], f"{draw(st.sampled_from(('sum', 'max', 'mean')))}[{rank}] {first}"
        case "macro" if ranks:
            return (
                ranks,
                f"{draw(st.sampled_from(('softmax', 'twice')))}[{draw(st.sampled_from(ranks))}] {first}",
            )
        case "move":
            places = [draw(st.sampled_from((rank, rank, f"mod({rank}+k, {rank.upper()})"))) for rank in ranks]
            return ranks, f"exp({first}[{','.join(places)}])" if ranks else f"exp({first})"
        case "parts":
            return ["b", "c1", "c0"], "relu(W[b,(c1,c0)])"
    return ranks, f"relu({first})"
