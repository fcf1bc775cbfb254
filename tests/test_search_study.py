import pytest

from tests.search_toy import WORKLOAD, toy_plan
from tilewright.dataflow.errors import InputError
from tilewright.search.study import StudyWorkload


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"workloads": ()}, "workloads must name at least one"),
        ({"workloads": (WORKLOAD, WORKLOAD)}, "workloads name 'toy' twice"),
        ({"devices": ("a", "a")}, "devices name 'a' twice"),
        ({"objectives": ("latency",)}, "objective 'latency' is unknown (did you mean 'latency_ms'?)"),
        (
            {"combine": "wurst"},
            "combine 'wurst' is unknown (did you mean 'worst'?); known: sum, geomean, worst",
        ),
        ({"sampler": "nsga3"}, "sampler 'nsga3' is unknown (did you mean 'nsga2'?)"),
        ({"fidelity": "tiles"}, "fidelity 'tiles' is unknown (did you mean 'tile'?)"),
        ({"mapping_objective": "speed"}, "mapping_objective 'speed' is unknown"),
        ({"evaluations": 0}, "evaluations must be > 0, got 0"),
        ({"population": 3}, "population must be >= 4, got 3"),
        ({"seed": -1}, "seed must be >= 0, got -1"),
        ({"constraints": ("powr_w <= 5",)}, "did you mean 'power_w'"),
        ({"constraints": ("power_w <= 5", "power_w<=5.0")}, "a constraint is stated twice"),
        (
            {"objectives": ("ttft_ms",), "workloads": (StudyWorkload("d", (), 1, "k", phase="decode"),)},
            "objective 'ttft_ms' needs a workload of phase prefill",
        ),
    ],
)
def test_a_wrong_plan_is_refused_in_one_line(change: dict[str, object], said: str) -> None:
    with pytest.raises(InputError) as refusal:
        toy_plan(**change)
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_workload_needs_a_weight_and_tokens() -> None:
    with pytest.raises(InputError, match="weight must be > 0, got -1"):
        StudyWorkload("w", (), 1, "k", weight=-1.0)
    with pytest.raises(InputError, match="tokens must be > 0, got 0"):
        StudyWorkload("w", (), 0, "k")
