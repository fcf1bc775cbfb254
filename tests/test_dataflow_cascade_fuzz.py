"""Texts at random: a cascade with finite costs or one line with its place, in bounded time and memory."""

import resource
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.cascade_texts import grown_texts, mutated_texts
from tilewright.dataflow.cascade import parse_cascade
from tilewright.dataflow.cascade_summary import describe_cascade
from tilewright.dataflow.cascade_text import statement_views
from tilewright.dataflow.errors import InputError

SECONDS_PER_TEXT = 3.0
MORE_MEMORY_KIB = 400 * 1024
N_LONG = 10_000

SIZES = st.sampled_from((4, 4, 4, 1, 2, 3, 5, 16, 0, -1, 10**9, 10**18, 2.5, float("nan"), float("inf")))
_SLOW_IS_NO_FAULT = [HealthCheck.too_slow, HealthCheck.data_too_large]


def _costs_or_one_line(text: str, size: int | float) -> bool:
    """Whether the text is a cascade. Fails for any other error than one line, and for a slow answer."""
    start = time.process_time()
    message = ""
    try:
        cascade = parse_cascade(text, "text")
        sizes = dict.fromkeys(cascade.unsized, size)
        found = describe_cascade(cascade, sizes)
        assert len(statement_views(cascade, cascade.bind(sizes))) == len(cascade.declarations.statements)
        assert found.macs >= 0
        assert all(count >= 0 for _, count in (*found.evaluations, *found.reductions))
        assert found.footprint.total_bytes > 0
    except InputError as error:
        message = str(error)
        assert message.startswith("text:")
        assert "\n" not in message
    assert time.process_time() - start < SECONDS_PER_TEXT
    return not message


def _peak_kib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@settings(max_examples=150, suppress_health_check=_SLOW_IS_NO_FAULT)
@given(mutated_texts(), SIZES)
def test_a_mutated_cascade_costs_something_or_gets_one_line(text: str, size: int | float) -> None:
    _costs_or_one_line(text, size)


@settings(max_examples=150, suppress_health_check=_SLOW_IS_NO_FAULT)
@given(grown_texts(), SIZES)
def test_a_text_grown_from_the_grammar_costs_something_or_gets_one_line(text: str, size: int | float) -> None:
    _costs_or_one_line(text, size)


@pytest.mark.slow
@pytest.mark.parametrize("texts", [mutated_texts, grown_texts], ids=["mutated", "grown"])
def test_ten_thousand_texts_leave_memory_as_it_was_and_many_are_cascades(texts: object) -> None:
    before, sound = _peak_kib(), []

    @settings(max_examples=N_LONG, suppress_health_check=_SLOW_IS_NO_FAULT)
    @given(texts(), SIZES)  # type: ignore[operator]
    def check(text: str, size: int | float) -> None:
        sound.append(_costs_or_one_line(text, size))

    check()
    assert sum(sound) > N_LONG // 50
    assert _peak_kib() - before < MORE_MEMORY_KIB
