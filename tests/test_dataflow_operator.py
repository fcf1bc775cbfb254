"""Operators: masks are counted in closed form, reads of the past are told from others."""

from hypothesis import given
from hypothesis import strategies as st

from tilewright.dataflow.operator import Access, Index, IndexTerm, Kind, Mask, Operator

BOUND = st.none() | st.integers(-12, 12)


def test_a_causal_mask_over_cached_tokens_counts_the_trapezium() -> None:
    # queries 0, 1, 2 after 4 cached tokens see 5, 6 and 7 keys
    assert Mask("n", "m", upper=4).n_points(7, 3) == 5 + 6 + 7


def test_a_window_of_two_tokens_counts_two_keys_a_query_but_for_the_first() -> None:
    assert Mask("n", "m", upper=0, lower=-1).n_points(4, 4) == 1 + 2 + 2 + 2


@given(st.integers(1, 9), st.integers(1, 9), BOUND, BOUND)
def test_the_closed_form_counts_what_enumeration_counts(
    rank_size: int, of_size: int, upper: int | None, lower: int | None
) -> None:
    distances = [i - j for i in range(rank_size) for j in range(of_size)]
    kept = [d for d in distances if (upper is None or d <= upper) and (lower is None or d >= lower)]
    assert Mask("n", "m", upper=upper, lower=lower).n_points(rank_size, of_size) == len(kept)


def test_only_a_negative_offset_on_the_serial_rank_is_a_read_of_the_past() -> None:
    state = Access("s", (Index.of("m"), Index((IndexTerm("t"),), -1)))
    current, final = Access.of("s", "m", "t"), Access("s", (Index.of("m"), Index(offset=7)))
    step = Operator("step", Kind.SCAN, current, (state, current, final), serial_rank="t")
    assert [step.steps_back(access) for access in step.inputs] == [1, 0, 0]
    assert Operator("plain", Kind.POINTWISE, current, (state,)).steps_back(state) == 0


def test_reduced_ranks_are_those_that_the_output_lacks() -> None:
    product = Operator(
        "p", Kind.CONTRACTION, Access.of("y", "m", "n"), (Access.of("x", "m", "k"), Access.of("w", "n", "k"))
    )
    assert product.ranks == ("m", "n", "k")
    assert product.reduced_ranks == ("k",)
