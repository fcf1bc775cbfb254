"""Syntax back to text, and statements in the order in which they run."""

import pytest

from tilewright.dataflow.cascade import cascade_names, load_cascade, parse_cascade
from tilewright.dataflow.cascade_parser import parse_lines
from tilewright.dataflow.cascade_syntax import Statement
from tilewright.dataflow.cascade_text import (
    cost_text,
    expression_text,
    short,
    statement_text,
    statement_views,
)
from tilewright.dataflow.operator import Kind


def _shipped_statements(name: str) -> list[Statement]:
    return [statement for statement, _ in load_cascade(name).declarations.statements]


@pytest.mark.parametrize("name", cascade_names())
def test_a_statement_written_out_parses_to_itself(name: str) -> None:
    for statement in _shipped_statements(name):
        (again,) = parse_lines(f"Y[] = {statement_text(statement)}", "text")
        assert isinstance(again, Statement)
        assert (again.value, again.init) == (statement.value, statement.init)
        stated = [(c.left, c.comparison, c.right) for c in statement.conditions]
        assert [(c.left, c.comparison, c.right) for c in again.conditions] == stated


@pytest.mark.parametrize(
    "text",
    [
        "A - (B - C)",
        "A / (B * C)",
        "(A + B) * C",
        "max[i,j] (A + B)",
        "exp(A) * sum[n] B",
        "A[b,(n1,n0)]",
        "2.5 * A",
    ],
)
def test_brackets_stand_where_they_are_needed_and_nowhere_else(text: str) -> None:
    (statement,) = parse_lines(f"Y[] = {text}", "text")
    assert isinstance(statement, Statement)
    assert expression_text(statement.value) == text


def test_a_view_tells_reads_of_this_step_from_those_of_earlier_ones() -> None:
    graph = load_cascade("attention_one_pass").bind({"m": 4, "n": 4, "n0": 2})
    views = {view.name: view for view in statement_views(load_cascade("attention_one_pass"), graph)}
    assert list(views) == ["QK", "RM", "SLN", "PRM", "RD", "SLNV", "RNV", "AV"]
    assert (views["RM"].kind, views["RM"].reads, views["RM"].past) == (Kind.SCAN, ("QK",), (("RM", 1),))
    assert (views["PRM"].reads, views["PRM"].past) == (("RM",), (("RM", 1),))
    assert views["QK"].macs == 8 * 10 * 64
    assert views["QK"].serial_rank == "n1"
    assert views["AV"].serial_rank == ""
    assert views["AV"].shape == (1, 8, 4, 64)
    assert cost_text(views["SLN"]) == "exp 80, sub 80"


def test_statements_come_in_the_order_in_which_they_run() -> None:
    text = "ranks m, t\nin X[m,t], G[m]\nout Y[m]\niterate t\nS[m,t] = max(S[t-1], X) init 0\nH[m] = exp(G)\n"
    text += "R[m,t] = R[t-1] + S * H init 0\nY[m] = R[last(t)]\n"
    cascade = parse_cascade(text, "text")
    assert [view.name for view in statement_views(cascade, cascade.bind({"m": 2, "t": 3}))] == [
        "H",
        "S",
        "R",
        "Y",
    ]


def test_counts_are_short() -> None:
    assert [short(n) for n in (0, 999, 1000, 134_217_728, 5 * 10**16)] == [
        "0",
        "999",
        "1 k",
        "134.2 M",
        "50 P",
    ]
