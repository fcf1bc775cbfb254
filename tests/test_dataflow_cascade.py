"""The cascade grammar: what it means, and the one line that a wrong text gets."""

from pathlib import Path

import pytest

from tilewright.dataflow.cascade import Cascade, cascade_names, load_cascade, parse_cascade
from tilewright.dataflow.errors import InputError
from tilewright.dataflow.graph import Graph
from tilewright.dataflow.operator import Index, IndexTerm, Kind, Mask
from tilewright.dataflow.tensor import Role

PRELUDE = """ranks m, n, k, t
in  X[m,k], W[n,k] : weight int8, A[m,n], V[n,k], S[m,t]
out Y[m,n]
"""
STATE = "R[m,t] = R[t-1] + S init 0\n"
HEADS = {"b": 2, "h": 4, "hkv": 2, "m": 3, "n": 8, "e": 5, "f": 6}


def _parse(statements: str, prelude: str = PRELUDE) -> Cascade:
    return parse_cascade(prelude + statements, "text")


def _message(statements: str, prelude: str = PRELUDE) -> str:
    with pytest.raises(InputError) as caught:
        _parse(statements, prelude)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def _bind(statements: str, prelude: str = PRELUDE, **sizes: int) -> Graph:
    return _parse(statements, prelude).bind({"m": 2, "n": 3, "k": 4, "t": 5} | sizes)


def _macs(graph: Graph) -> int:
    return sum(graph.macs(operator) for operator in graph.operators)


# What a text means


def test_every_shipped_cascade_parses_and_is_known_by_its_name() -> None:
    for name in cascade_names():
        assert load_cascade(name).name == name


def test_a_product_of_two_tensors_is_summed_over_the_ranks_that_the_left_side_lacks() -> None:
    graph = _bind("Y[m,n] = X[m,k] * W[n,k] / sqrt(K)")
    (product,) = graph.operators
    assert (product.kind, product.reduce, product.reduced_ranks) == (Kind.CONTRACTION, "sum", ("k",))
    assert dict(product.parameters) == {"scale": 0.5}  # 1 / sqrt(4), folded into the product
    assert graph.macs(product) == 2 * 3 * 4
    weight = graph.tensor_by_name["W"]
    assert (weight.role, weight.dtype, graph.tensor_by_name["X"].dtype) == (Role.WEIGHT, "int8", "fp16")


def test_each_term_of_a_sum_is_summed_for_itself() -> None:
    graph = _bind("Y[m,n] = X[m,k] * W[n,k] + 2 * X[m,k] * V[n,k] - A")
    kinds = [(operator.kind, operator.function) for operator in graph.operators]
    product = (Kind.CONTRACTION, "mul")
    assert kinds == [product, product, (Kind.POINTWISE, "add"), (Kind.POINTWISE, "sub")]
    assert dict(graph.operators[1].parameters) == {"scale": 2.0}


def test_an_explicit_sum_of_a_product_is_a_contraction_and_other_reductions_are_not() -> None:
    graph = _bind("Y[m,n] = sum[k] (X * W)")
    assert [operator.kind for operator in graph.operators] == [Kind.CONTRACTION]
    graph = _bind("Y[m,n] = max[k] (X * W)")
    assert [operator.kind for operator in graph.operators] == [Kind.POINTWISE, Kind.REDUCTION]


def test_softmax_expands_to_its_four_operations_and_shares_the_exponentials() -> None:
    graph = _bind("Y[m,n] = softmax[n] A")
    assert [operator.name for operator in graph.operators] == ["Y.max", "Y.sub", "Y.exp", "Y.sum", "Y"]
    assert graph.operators[-1].function == "div"


def test_a_text_may_define_macros_of_its_own() -> None:
    text = "macro centred[r](x) = x - mean[r] x\nY[m,n] = centred[n] A"
    assert [operator.name for operator in _bind(text).operators] == ["Y.mean", "Y"]


def test_grouped_heads_read_the_keys_of_their_group() -> None:
    graph = load_cascade("attention_three_pass").bind(HEADS)
    key = graph.operators[0].inputs[1]
    assert key.indices[1] == Index((IndexTerm("h", 1, 2),))
    assert graph.n_elements("K") == 2 * 2 * 8 * 5


def test_a_condition_reaches_all_that_is_computed_from_the_masked_tensor() -> None:
    graph = load_cascade("attention_three_pass").bind(HEADS)
    assert {operator.mask for operator in graph.operators} == {Mask("n", "m", upper=5)}
    # queries 0..2 behind 5 cached tokens see 6, 7 and 8 keys
    assert _macs(graph) == 2 * 4 * (6 + 7 + 8) * (5 + 6)
    full = load_cascade("attention_three_pass").bind(HEADS, skip_masked=False)
    assert _macs(full) == 2 * 4 * 3 * 8 * (5 + 6)


def test_both_forms_of_attention_have_the_same_products() -> None:
    three = load_cascade("attention_three_pass").bind(HEADS)
    for tile in (1, 3, 4, 8, 100):
        assert _macs(load_cascade("attention_one_pass").bind(HEADS | {"n0": tile})) == _macs(three)


def test_a_recurrence_is_scans_with_a_serial_rank_and_state_that_keeps_it() -> None:
    graph = load_cascade("attention_one_pass").bind(HEADS | {"n0": 4})
    scans = [operator.name for operator in graph.operators if operator.kind is Kind.SCAN]
    assert scans == ["RM", "RD.mul", "RD", "RNV.mul", "RNV"]
    assert {operator.serial_rank for operator in graph.operators[:-1]} == {"n1"}
    assert graph.operators[-1].serial_rank == ""
    states = {tensor.name for tensor in graph.tensors if tensor.role is Role.STATE}
    assert states == {"RM", "RD", "RNV"}
    assert graph.tensor_by_name["RD"].ranks == ("b", "h", "m", "n1")
    last = graph.operators[-1].inputs[1].indices[3]
    assert last == Index(offset=8 // 4 - 1)


def test_statements_beside_a_recurrence_move_out_of_its_steps() -> None:
    prelude = "ranks m, t\nin X[m,t], G[m]\nout Y[m]\niterate t\n"
    text = """S[m,t] = max(S[t-1], X) init 0
H[m]   = exp(G)
R[m,t] = R[t-1] + S * H init 0
Y[m]   = R[last(t)]
"""
    graph = parse_cascade(prelude + text, "text").bind({"m": 2, "t": 3})
    assert [operator.name for operator in graph.operators] == ["H", "S", "R.mul", "R", "Y"]


def test_two_tensors_may_each_read_the_others_step_before() -> None:
    prelude = "ranks t\nin X[t]\nout Y[t]\niterate t\n"
    text = "P[t] = Y[t-1] + X init 1\nY[t] = P * P[t-1] init 0"
    graph = parse_cascade(prelude + text, "text").bind({"t": 3})
    assert [(o.name, o.kind, dict(o.parameters)) for o in graph.operators] == [
        ("P", Kind.SCAN, {"init_0": 0.0}), ("Y", Kind.SCAN, {"init_1": 1.0}),
    ]  # fmt: skip


def test_a_causal_window_of_a_convolution_reads_no_index_below_zero() -> None:
    prelude = "ranks t, k, d\nin U[t,d], F[k,d]\nout C[t,d]\n"
    text = "C[t,d] = U[t-k,d] * F[k,d]"
    with pytest.raises(InputError, match=r"'U' is read at -2\.\.7 along 't', which has 8 elements"):
        parse_cascade(prelude + text, "conv").bind({"t": 8, "k": 3, "d": 2})
    graph = parse_cascade(prelude + text + " where k <= t", "conv").bind({"t": 8, "k": 3, "d": 2})
    assert _macs(graph) == (1 + 2 + 3 * 6) * 2


def test_types_come_from_the_tensor_then_the_text_then_the_role() -> None:
    dtypes = {"activation": "int8", "weight": "int4", "A": "fp32"}
    graph = _parse("Y[m,n] = X[m,k] * W[n,k] + A").bind({"m": 2, "n": 3, "k": 4, "t": 5}, dtypes)
    found = {tensor.name: tensor.dtype for tensor in graph.tensors}
    assert found == {
        "X": "int8", "W": "int8", "A": "fp32", "V": "int8", "S": "int8", "Y.dot": "int8", "Y": "int8",
    }  # fmt: skip


def test_a_prefix_stands_before_every_operator_and_tensor() -> None:
    graph = _parse("Y[m,n] = X[m,k] * W[n,k]").bind({"m": 2, "n": 3, "k": 4, "t": 5}, prefix="l0_")
    assert graph.operators[0].name == "l0_Y"
    assert graph.outputs == ("l0_Y",)
    assert graph.inputs[0] == "l0_X"


def test_sizes_may_be_given_by_rank_or_by_size_name() -> None:
    cascade = load_cascade("attention_one_pass")
    upper = {name.upper(): size for name, size in HEADS.items()} | {"N0": 4}
    assert cascade.bind(upper) == cascade.bind(HEADS | {"n0": 4})


def test_an_indented_line_continues_the_one_before_and_comments_do_not_count() -> None:
    text = "# a product\nY[m,n] = X[m,k]   # left\n\n    # and right\n    * W[n,k]\n# end"
    assert _macs(_bind(text)) == 2 * 3 * 4


# What a wrong text gets


@pytest.mark.parametrize(
    ("statements", "message"),
    [
        ("Y[m,n] = X[m,k] * W[n,q]", "text:4:23: 'q' is not a rank, size, offset or parameter"),
        ("Z[m,q] = A", "text:4:5: rank 'q' is not declared"),
        ("Y[m,n] = X[m,k] * Q[n,k]", "text:4:19: tensor 'Q' is not declared"),
        ("Y[m,n] = X[m,n,k] * W[n,k]", "text:4:10: tensor 'X' has 2 ranks, 3 indices given"),
        ("Y[m,n] = A\nY[m,n] = A", "text:5:1: tensor 'Y' is assigned already, at line 4"),
        ("X[m,k] = A", "text:4:1: tensor 'X' is an input"),
        ("Z[m,n] = A", "text:3:5: tensor 'Y' is never assigned"),
        ("Y[n,m] = A", "text:4:1: tensor 'Y' is declared as Y[m,n]"),
        ("Y[m,n] = sotfmax[n] A", "text:4:10: reduction 'sotfmax' is unknown (did you mean 'softmax'?)"),
        ("Y[m,n] = epx(A)", "text:4:10: function 'epx' is unknown (did you mean 'exp'?)"),
        ("Y[m,n] = exp(A, A)", "text:4:10: function 'exp' takes 1 arguments, got 2"),
        ("Y[m,n] = max[k] A", "text:4:10: max[k]: what is reduced has no rank 'k'"),
        ("Y[m,n] = max[q] A", "text:4:14: rank 'q' is not declared"),
        ("Y[m,n] = Z\nZ[m,n] = A", "text:4:10: tensor 'Z' is read before it is assigned"),
        ("Y[m,n] = Y + A", "text:4:10: tensor 'Y' is read by the statement that assigns it"),
        ("Y[m,n] = 1 + 2", "text:4:1: 'Y' is assigned a number; no tensor is read"),
        ("Y[m,n] = m * A", "text:4:10: rank 'm' is not a value; its size is 'M'"),
        ("Y[m,n] = S[m,t]", "text:4:10: rank 't' is not on the left side"),
        ("Z[m] = A\nY[m,n] = A", "text:4:8: rank 'n' is not on the left side"),
        ("Y[m,n] = exp(X * W)", "text:4:16: rank 'k' is not on the left side"),
        ("Y[m,n] = X * W * V", "text:4:16: the sum over 'k' is implied over 3 tensors, not 2"),
        ("Y[m,n] = X * exp(W * V)", "the sum over 'k' is implied over a product within a product"),
        ("Y[m,n] = X * A / V", "text:4:18: it is open whether the sum over 'k' includes the division"),
        ("Y[m,n] = sum[t] (S * X)", "text:4:10: a sum over 'k' is implied beside an explicit one"),
        ("Z[m,n,k] = A\nY[m,n] = A", "text:4:1: rank 'k' is on the left side and on no tensor at the right"),
        ("Y[m,n] = A where n <= n + 1", "text:4:20: the condition is about rank 'n' alone"),
        ("Y[m,n] = A where n <= k", "text:4:20: the statement does not run over the ranks of its condition"),
        ("Y[m,n] = A where 2 * n <= m", "each side of a condition is a rank plus or minus a number"),
        ("Y[m,n] = A where n <= 3", "each side of a condition is a rank plus or minus a number"),
        ("Y[m,n] = A[m*n,n]", "text:4:13: a product of two ranks is not an affine index"),
        ("Y[m,n] = A[m,(m,n)]", "text:4:15: (m, n) is not a split rank; split ranks: none"),
        ("ranks m", "text:4:7: 'm' is a rank already"),
        ("param M = 1", "text:4:7: 'M' is the size of rank 'm' already"),
        ("ranks Q", "text:4:7: rank 'Q' must be in lower case: 'Q' is its size"),
        ("in Q[m] : wieght", "'wieght' is neither a role nor a data type (did you mean 'weight'?)"),
        ("in Q[m,m]", "text:4:8: tensor 'Q' has rank 'm' twice"),
        ("split q -> q1, q0", "text:4:7: rank 'q' is not declared"),
        ("split n -> n1, n0 : M0", "the size of the inner part 'n0' is named 'N0', got 'M0'"),
        ("iterate q", "text:4:9: rank 'q' is not declared"),
        ("Y[m,n] = A *", "text:4:12: unexpected the end of the text"),
        ("Y[m,n] == A", "text:4:9: unexpected '=', expected"),
        ("Y[m,n] = A ? 2", "text:4:12: unexpected character '?'"),
    ],
)  # fmt: skip
def test_a_wrong_text_gets_one_line_with_line_and_column(statements: str, message: str) -> None:
    assert message in _message(statements)


@pytest.mark.parametrize(
    ("statements", "message"),
    [
        ("R[m,t] = R[t-1] + S", ":5:10: tensor 'R' is read before its first step; give it an 'init'"),
        ("R[m,t] = R[t+1] + S init 0", ":5:10: tensor 'R' is read 1 steps of 't' in the future"),
        ("R[m,t] = S + R init 0", ":5:14: tensor 'R' is read by the statement that assigns it"),
        (STATE + "Z[m] = R[m,m]", ":6:8: iterated rank 't' of 'R' is read at t, t - k or last(t)"),
        (STATE + "Z[m,t] = R[last(t)] + S", ":6:10: last(t) is read within the steps of 't'"),
        (STATE + "Z[m] = R[m,t-1]", ":6:8: an earlier step is read outside of the steps of 't'"),
        ("R[m,t] = R[t-1] + sum[t] Q init 0\nQ[m,t] = S", ":5:26: tensor 'Q' is read before it is assigned"),
        (
            "P[m,t] = S + Q[t-1]\nZ[m] = sum[t] P\nQ[m,t] = S * Z init 0",
            ":5:12: 'P' reads an earlier step of 'Q', which another traversal of 't' writes",
        ),
        ("Z[m] = S[m,last(m)]", ":5:12: last(...) takes one iterated rank"),
        ("Z[m] = sum[t] S init X", ":5:22: 'X' is not a rank, size, offset or parameter"),
    ],
)
def test_a_recurrence_that_cannot_run_gets_one_line_with_line_and_column(
    statements: str, message: str
) -> None:
    prelude = "ranks m, t\nin  S[m,t], X[m]\nout Y[m]\niterate t\n"
    assert message in _message(f"{statements}\nY[m] = X", prelude)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"m": 2, "n": 3, "k": 4}, "text: rank 't' needs a size"),
        ({"m": 0, "n": 3, "k": 4, "t": 5}, "text: rank 'm' must be in 1..1000000000, got 0"),
        ({"m": 2.5, "n": 3, "k": 4, "t": 5}, "text: rank 'm' must be a whole number, got 2.5"),
        ({"m": 2, "n": 3, "k": 4, "t": 5, "M": 2}, "text: 'M' is given twice"),
        ({"m": 2, "n": 3, "k": 4, "t": 5, "kk": 2}, "text: 'kk' is no rank or scalar (did you mean 'k'?)"),
    ],
)
def test_wrong_sizes_get_one_line(sizes: dict[str, float], message: str) -> None:
    with pytest.raises(InputError) as caught:
        _parse("Y[m,n] = A").bind(sizes)
    assert str(caught.value) == message


def test_shapes_that_clash_are_refused_at_the_statement() -> None:
    with pytest.raises(InputError, match=r"text:4:17: 'V' is read at 0\.\.4 along 'n', which has 3 elements"):
        _bind("Y[m,n] = S[m,t] * V[t,n]", n=3)


def test_heads_that_do_not_divide_are_refused_at_the_index() -> None:
    with pytest.raises(
        InputError, match="attention_three_pass:9:42: an index is not whole for these sizes: 4/3"
    ):
        load_cascade("attention_three_pass").bind(HEADS | {"hkv": 3})


def test_the_outer_part_of_a_split_follows_and_is_not_given() -> None:
    with pytest.raises(InputError, match="rank 'n1' follows from its split, give the inner part"):
        load_cascade("attention_one_pass").bind(HEADS | {"n1": 4})


def test_unknown_types_are_refused_with_the_closest_known() -> None:
    with pytest.raises(InputError, match=r"data type 'int9' of 'Q' is unknown \(did you mean 'int8'\?\)"):
        load_cascade("attention_three_pass").bind(HEADS, {"Q": "int9"})
    with pytest.raises(InputError, match="'kv' is neither a tensor nor a role"):
        load_cascade("attention_three_pass").bind(HEADS, {"kv": "int8"})


def test_a_file_is_read_and_an_unknown_name_or_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "mine.cascade"
    file.write_text(PRELUDE + "Y[m,n] = A", encoding="utf-8")
    assert load_cascade(file).name == "mine"
    file.write_text(PRELUDE + "Y[m,n] = B", encoding="utf-8")
    with pytest.raises(InputError, match=r"mine\.cascade:4:10: tensor 'B' is not declared"):
        load_cascade(file)
    with pytest.raises(InputError, match="cascade 'atention_one_pass' is neither a name nor a file"):
        load_cascade("atention_one_pass")
    with pytest.raises(InputError, match=r"gone\.cascade: No such file"):
        load_cascade(tmp_path / "gone.cascade")
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="not UTF-8 text at byte 0"):
        load_cascade(file)


def test_a_text_without_an_output_is_refused() -> None:
    assert _message("Z[m,n] = A", "ranks m, n\nin A[m,n]\n") == "text:1:1: a cascade needs an 'out' tensor"


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing", "  \t\n"])
def test_an_empty_text_is_refused(text: str) -> None:
    assert _message("", text) == "text:1:1: a cascade needs an 'out' tensor"


def test_an_expression_that_is_nested_without_end_is_refused_in_one_line() -> None:
    deep = "Y[m,n] = " + "exp(" * 5000 + "A" + ")" * 5000
    assert _message(deep) == "text:4:269: brackets stand more than 64 deep in one another"
    chain = "Y[m,n] = A" + " + A" * 5000
    assert _message(chain) == "text:4:2060: a statement has more than 512 signs"
    bomb = "".join(f"macro f{k}[r](x) = f{k - 1}[r] (x * x * x * x)\n" for k in range(1, 100))
    bomb = "macro f0[r](x) = x * x\n" + bomb + "Y[m,n] = f99[n] A"
    assert _message(bomb) == "text:104:10: macro 'f94' expands to more than 4096 terms"


@pytest.mark.parametrize(
    ("scalar", "message"),
    [
        ("(N - 3)", "text:4:1: a number here has no value: division by zero"),
        ("sqrt(0 - N)", "text:4:1: a number here has no value: math domain error"),
        ("exp(N * 1000)", "text:4:1: a number here has no value: math range error"),
    ],
)
def test_a_number_without_a_value_is_refused_when_sizes_are_bound(scalar: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        _bind(f"Y[m,n] = A / {scalar}")
    assert str(caught.value) == message
