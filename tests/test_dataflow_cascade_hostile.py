"""What a wrong or hostile cascade gets: one line with the place, in bounded time."""

import time

import pytest

from tilewright.dataflow.cascade import load_cascade, parse_cascade
from tilewright.dataflow.cascade_summary import describe_cascade
from tilewright.dataflow.errors import InputError

PRELUDE = "ranks m, n, k\nin X[m,k], W[n,k], B[m,n], PICK[m] : index\nout Y[m,n]\n"
STEPS = "ranks m, t\nin S[m,t], X[m]\nout Y[m]\niterate t\n"
SIZES: dict[str, int | float] = {"m": 2, "n": 3, "k": 4}
SECONDS_PER_TEXT = 3.0


def _message(text: str, sizes: dict[str, int | float] | None = None) -> str:
    """The one line that a text gets when it is parsed, bound and summed up."""
    start = time.process_time()
    with pytest.raises(InputError) as caught:
        describe_cascade(parse_cascade(text, "text"), SIZES if sizes is None else sizes)
    assert time.process_time() - start < SECONDS_PER_TEXT
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("Y[m,n] = sum[k] (X * sum[k] W)",
         "text:4:26: a double sum over 'k': another one stands around it, at line 4, column 14"),
        ("Y[m,n] = sum[k] exp(sum[k] (X * W))", "text:4:25: a double sum over 'k'"),
        ("Y[m,n] = sum[k,k] (X * W)", "text:4:16: sum[...] names rank 'k' twice"),
        ("Y[m,n] = (X * W) * (X * W)", "text:4:18: the sum over 'k' is implied over 3 tensors, not 2"),
        ("Y[m,n] = sum[n] (X * W)", "text:4:10: a sum over 'k' is implied beside an explicit one"),
        ("Y[m,n] = softmax[n,n] B", "text:4:20: softmax[...] names rank 'n' twice"),
        ("Y[m,n] = Z\nZ[m,n] = Y", "text:4:10: tensor 'Z' is read before it is assigned"),
        ("Z[m,n] = B", "text:3:5: tensor 'Y' is never assigned"),
        ("Y[m,n] = expp(B)", "text:4:10: function 'expp' is unknown (did you mean 'exp'?)"),
        ("Y[m,n] = max(N) * B", "text:4:10: function 'max' takes 2 arguments, got 1"),
        ("Y[m,n] = sqrt(N, 2) * B", "text:4:10: function 'sqrt' takes 1 arguments, got 2"),
        ("Y[m,n] = B[m / n,n]", "text:4:14: an index cannot divide by a rank"),
        ("Y[m,n] = B[mod(m, n),n]", "text:4:12: mod(...) takes an index and a number"),
        ("Y[m,n] = B[mod(m, 0),n]", "text:4:1: an index divides m by 0"),
        ("Y[m,n] = B[(m + n) / 2,n]", "text:4:1: an index divides m, n by 2: beside multiples of it, one rank"),
        ("Y[m,n] = B[m - 1,n]", "text:4:1: 'B' is read at -1..0 along 'm', which has 2 elements"),
        ("Y[m,n] = B[PICK,PICK]", "text:4:10: tensor 'B' is read at data along one rank and at ranks along"),
        ("Y[m,n] = sum[k] (W[n,k] * B[PICK,0])", "text:4:27: tensor 'B' is read at data along one rank"),
        ("Y[m,n] = B where abs(n - m) > 2", "text:4:29: abs(...) in a condition is bounded by < or <="),
        ("Y[m,n] = B where abs(n) <= 2", "each side of a condition is a rank plus or minus a number"),
        ("Y[m,n] = B where n <= m, k <= m", "text:4:28: the conditions of a statement are about one pair of ranks"),
        ("iterate q\nY[m,n] = B", "text:4:9: rank 'q' is not declared"),
        ("split q -> q1, q0\nY[m,n] = B", "text:4:7: rank 'q' is not declared"),
        ("Y[m,n] = " + "9" * 500 + " * B", "text:4:10: a number has at most 32 digits and is finite"),
        ("Y[m,n] = 1e999 * B", "text:4:10: a number has at most 32 digits and is finite"),
        ("param a = b, b = 2 * a\nY[m,n] = a * B", "text:4:11: 'a' is defined by itself"),
        ("param a = W\nY[m,n] = a * B", "text:4:11: 'W' is not a rank, size, offset or parameter"),
        ("macro f[r](x) = g[r] x\nmacro g[r](x) = f[r] x\nY[m,n] = f[n] B",
         "text:6:10: macro 'f' expands without end, or more than 256 times"),
    ],
)  # fmt: skip
def test_a_wrong_statement_gets_its_line_and_column(statement: str, message: str) -> None:
    assert message in _message(PRELUDE + statement)


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("R[m,t] = R[t+1] + S init 0", "text:5:10: tensor 'R' is read 1 steps of 't' in the future"),
        (
            "R[m,t] = R[t-1] + Q[t+2] init 0\nQ[m,t] = S init 0",
            "text:5:19: tensor 'Q' is read 2 steps of 't' in the fu",
        ),
        ("R[m,t] = R[t-1] + S init inf - inf", "text:5:30: a number here has no value"),
        ("R[m,t] = R[last(t)] + S init 0", "text:5:10: last(t) is read within the steps of 't'"),
    ],
)
def test_a_read_of_the_future_is_refused_by_name(statement: str, message: str) -> None:
    assert message in _message(f"{STEPS}{statement}\nY[m] = X", {"m": 2, "t": 3})


@pytest.mark.parametrize(
    ("text", "sizes", "message"),
    [
        ("Y[m,n] = X * W", {"m": 2, "k": 4}, "text: rank 'n' needs a size"),
        ("Y[m,n] = X * W", {"m": 0, "n": 1, "k": 1}, "text: rank 'm' must be in 1..1000000000, got 0"),
        ("Y[m,n] = X * W", {"m": -3, "n": 1, "k": 1}, "text: rank 'm' must be in 1..1000000000, got -3"),
        ("Y[m,n] = X * W", {"m": 10**40, "n": 1, "k": 1}, "text: rank 'm' must be in 1..1000000000, got 1000"),
        ("Y[m,n] = X * W", {"m": float("nan"), "n": 1, "k": 1}, "text: rank 'm' must be a whole number, got nan"),
        ("Y[m,n] = X * W", {"m": 10**9, "n": 10**9, "k": 1},
         "text: tensor 'B' has 1.6e+19 bits, more than 9.22e+18"),
        ("Y[m,n] = X * W", {"m": 10**8, "n": 10**8, "k": 10**8},
         "text: operator 'Y' has 1e+24 points, more than 9.22e+18"),
        ("Z[n,m] = B[n,m]\nY[m,n] = B", {"m": 2, "n": 3, "k": 1},
         "text:4:1: 'B' is read at 0..2 along 'm', which has 2"),
    ],
)  # fmt: skip
def test_wrong_sizes_and_shapes_that_clash_are_refused(
    text: str, sizes: dict[str, int | float], message: str
) -> None:
    assert message in _message(PRELUDE + text, sizes)


def test_sizes_that_need_each_other_are_refused_where_they_are_defined() -> None:
    text = "ranks m = N, n = 2 * K, k = M\nin A[m,n]\nout Y[m]\nY[m] = sum[n] A"
    assert _message(text, {}) == "text:1:11: 'M' is defined by itself"
    text = "ranks n = N1\nin A[n]\nout Y[n]\nsplit n -> n1, n0 : N0 = 2\nY[n] = exp(A)"
    assert _message(text, {}) == "text:1:11: 'N' is defined by itself"


def test_a_split_that_leaves_nothing_is_refused() -> None:
    text = "ranks n\nin A[n]\nout Y[n1,n0]\nsplit n -> n1, n0 : N0 = N - N\nY[n1,n0] = A[(n1,n0)]"
    assert _message(text, {"n": 4}) == "text: rank 'n0' must be in 1..1000000000, got 0"
    text = "ranks n\nin A[n]\nout Y[n1,n0]\nsplit n -> n1, n0\nY[n1,n0] = exp(A[(n1,n0)]) where n1 <= n0"
    assert "the inner part of 'n' must divide 5" in _message(text, {"n": 5, "n0": 2})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (PRELUDE + "Y[m,n] = " + "(" * 3000 + "B" + ")" * 3000, "text:4:74: brackets stand more than 64 deep"),
        (PRELUDE + "Y[m,n] = B" + " + B" * 3000, "text:4:2060: a statement has more than 512 signs"),
        (PRELUDE + "".join(f"Z{k}[m,n] = exp(B)\n" for k in range(2000)) + "Y[m,n] = B",
         "text:1004:1: a cascade has at most 1000 operators"),
        ("# " + "x" * 100_000, "text:1:1: a cascade has at most 65536 characters, got 100002"),
        ("ranks " + ", ".join(f"r{k}" for k in range(99)) + "\nin A[r0]\nout Y[r0]\nY[r0] = A",
         "text: a cascade has at most 64 ranks, got 99"),
        (PRELUDE + "macro f0[r](x) = x + x\n"
         + "".join(f"macro f{k}[r](x) = f{k - 1}[r] x + f{k - 1}[r] (x + x)\n" for k in range(1, 40))
         + "Y[m,n] = f39[n] B", "expands without end, or more than 256 times"),
    ],
)  # fmt: skip
def test_a_text_that_grows_without_end_is_refused(text: str, message: str) -> None:
    assert message in _message(text)


@pytest.mark.parametrize(
    ("read", "message"),
    [
        ("T[7*x+3*y]", "text: the positions read along 'z' are too many to list"),
        ("T[x/3+x/4+y-y]", "text:4:10: 'T' is read along 'z' in more pieces than can be checked"),
    ],
)
def test_an_index_that_cannot_be_followed_at_its_sizes_is_refused(read: str, message: str) -> None:
    text = f"ranks x, y, z\nin T[z]\nout O[x,y]\nO[x,y] = exp({read})"
    found = _message(text, {"x": 10**8 - 5, "y": 10**7 - 7, "z": 10**9})
    assert found.split(": ", 1)[1] == message.split(": ", 1)[1]


def test_long_recurrences_that_read_each_other_backwards_take_no_time() -> None:
    steps = "".join(f"Z{k}[m,t] = S + Z{k + 1}[t-1] init 0\n" for k in range(300))
    start = time.process_time()
    found = describe_cascade(
        parse_cascade(f"{STEPS}{steps}Z300[m,t] = S + Z0 init 0\nY[m] = Z0[last(t)]", "text"),
        {"m": 2, "t": 3},
    )
    assert time.process_time() - start < SECONDS_PER_TEXT
    assert dict(found.evaluations)["add"] == 301 * 2 * 3


def test_a_padded_tensor_is_read_beyond_its_ends_in_reductions_only() -> None:
    prelude = "ranks t, i\nin U[t] : padded, F[i]\nout O[t]\n"
    conv = parse_cascade(prelude + "O[t] = U[t+i-1] * F[i]", "text").bind({"t": 4, "i": 3})
    assert conv.macs(conv.operators[0]) == 4 * 3
    assert _message(prelude + "O[t] = U[t+1]", {"t": 4, "i": 3}) == (
        "text:4:1: 'U' is read beyond its ends along 't' outside of a reduction"
    )
    assert "is read at 9..14 along 't', which has 4" in _message(
        prelude + "O[t] = U[t+i+9] * F[i]", {"t": 4, "i": 3}
    )


def test_defaults_are_sizes_of_other_ranks_too_and_give_way_to_what_is_stated() -> None:
    text = "ranks h = 8, m = 2 * H, d = floor(M / 3)\nin A[h,m,d]\nout Y[h]\nY[h] = sum[m,d] A"
    cascade = parse_cascade(text, "text")
    assert cascade.unsized == ()
    assert cascade.bind({}).ranks == {"h": 8, "m": 16, "d": 5}
    assert cascade.bind({"h": 3}).ranks == {"h": 3, "m": 6, "d": 2}
    assert cascade.bind({"M": 4}).ranks == {"h": 8, "m": 4, "d": 1}


def test_the_list_of_known_ranks_of_a_shipped_text_needs_no_size() -> None:
    assert load_cascade("gqa").unsized == ()
    assert parse_cascade("ranks m, n = 2\nin A[m,n]\nout Y[m1]\nsplit m -> m1, m0\nY[m1] = sum[m0,n] A[(m1,m0),n]",
                         "text").unsized == ("m", "m0")  # fmt: skip
