import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilewright.dataflow.errors import InputError
from tilewright.search.constraint import Constraint, parse_constraint

finite = st.floats(-1e6, 1e6)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dsp_fraction <= 0.8", Constraint("dsp_fraction", "<=", 0.8, "fpga")),
        ("area_mm2<=200", Constraint("area_mm2", "<=", 200.0, "asic")),
        (" power_w  <  75.5 ", Constraint("power_w", "<", 75.5)),
        ("bram_fraction <= 0.5", Constraint("bram36_fraction", "<=", 0.5, "fpga")),
        ("tokens_per_s >= 1e3", Constraint("tokens_per_s", ">=", 1000.0)),
        ("gpt-2 (r=16).latency_ms <= 50", Constraint("gpt-2 (r=16).latency_ms", "<=", 50.0)),
    ],
)
def test_a_constraint_is_a_metric_a_comparison_and_a_number(text: str, expected: Constraint) -> None:
    assert parse_constraint(text, ("other", "gpt-2 (r=16)")) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("latncy_ms <= 5", "did you mean 'latency_ms'"),
        ("latency_ms 5", "must stand in it"),
        ("latency_ms <= fast", "must be a number, got 'fast'"),
        ("latency_ms <= nan", "must be finite"),
        ("latency_ms <= 5 <= 6", "must be a number"),
        ("decode.latncy_ms <= 5", "did you mean 'decode.latency_ms'"),
    ],
)
def test_a_wrong_constraint_is_refused_in_one_line(text: str, said: str) -> None:
    with pytest.raises(InputError) as refusal:
        parse_constraint(text, ("decode",))
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_the_violation_is_the_distance_to_the_limit_relative_to_it() -> None:
    assert parse_constraint("area_mm2 <= 200").violation(250.0) == pytest.approx(0.25)
    assert parse_constraint("tokens_per_s >= 100").violation(25.0) == pytest.approx(0.75)
    assert parse_constraint("power_w == 10").violation(8.0) == pytest.approx(0.2)
    assert parse_constraint("latency_ms >= 0").violation(-2.0) == pytest.approx(2.0)


@given(st.sampled_from(["<=", ">=", "<", ">", "=="]), finite, finite)
def test_the_violation_is_zero_exactly_where_the_comparison_holds(
    op: str, limit: float, value: float
) -> None:
    holds = {
        "<=": value <= limit, "<": value < limit, "==": value == limit,
        ">=": value >= limit, ">": value > limit,
    }[op]  # fmt: skip
    assert (Constraint("latency_ms", op, limit).violation(value) == 0) == holds


@given(st.sampled_from(["<=", ">=", "<", ">", "=="]), finite, finite, st.floats(0, 1e6), st.booleans())
def test_what_a_bound_rules_out_is_violated_by_every_value_that_it_allows(
    op: str, limit: float, bound: float, slack: float, maximised: bool
) -> None:
    constraint = Constraint("latency_ms", op, limit)
    if constraint.surely_violated(bound, maximised):
        assert constraint.violation(bound - slack if maximised else bound + slack) > 0


def test_a_constraint_of_one_device_class_does_not_apply_to_the_other() -> None:
    assert not parse_constraint("dsp_fraction <= 0.8").applies_to("asic")
    assert parse_constraint("dsp_fraction <= 0.8").applies_to("fpga")
    assert parse_constraint("area <= 0.8").applies_to("asic")
