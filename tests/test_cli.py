"""The command line as a user types it: answers as JSON, wrong input in one line with exit status 2."""

import json
from pathlib import Path
from typing import Any

import pytest

from tilewright.cli import run

ROOT = Path(__file__).resolve().parents[1]
CONFIG = str(ROOT / "examples/gpt2_medium/config.json")
DESIGN = """
workload: {model: tiny-gpt2, phase: prefill, seq: 16}
device: u280
parameters: {rows: 8, cols: 8}
"""


def _json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert run([*arguments, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def _refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line of a wrong input."""
    assert run(list(arguments)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


def test_count_prints_the_golden_parameters_and_operations(capsys: pytest.CaptureFixture[str]) -> None:
    # gpt2-medium prefill of 512: golden counts of the reference implementation, docs/workloads.md.
    answer = _json(capsys, "count", CONFIG, "--seq", "512")
    assert answer["params_total"] == 354_823_168
    assert answer["flops_total"] == 387_705_733_120
    assert answer["lowering"] == "reference"


def test_simulate_answers_with_every_field_of_its_contract(capsys: pytest.CaptureFixture[str]) -> None:
    answer = _json(capsys, "simulate", "tiny-gpt2", "--seq", "16", "--set", "rows=8", "--set", "cols=8")
    fields = (
        "latency_cycles latency_ms clock_mhz energy_pj energy area dram_bytes utilisation bound_cycles"
        " bottleneck per_op extrapolated error_fraction model_version provenance"
    )
    assert set(fields.split()) <= set(answer)
    assert answer["lowering"] == "hardware"
    assert answer["bound_cycles"] <= answer["latency_cycles"]
    assert answer["latency_ms"] == pytest.approx(answer["latency_cycles"] / answer["clock_mhz"] / 1e3)
    assert sum(part["total"] for name, part in answer["energy"]["energy_pj"].items() if name != "total") == (
        pytest.approx(answer["energy_pj"])
    )


def test_options_replace_the_fields_of_a_workload_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "workload.yaml"
    file.write_text("model: tiny-gpt2\nphase: prefill\nseq: 16\n", encoding="utf-8")
    stated = _json(capsys, "count", str(file))
    replaced = _json(capsys, "count", str(file), "--seq", "32")
    assert replaced["flops_linear"] == 2 * stated["flops_linear"]


def test_a_design_file_is_simulated_and_compared(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text(DESIGN, encoding="utf-8")
    second.write_text(DESIGN.replace("rows: 8", "rows: 16"), encoding="utf-8")
    latency = _json(capsys, "simulate", "--design", str(first))["latency_ms"]
    rows = {row["figure"]: row for row in _json(capsys, "compare", str(first), str(second))["rows"]}
    assert rows["latency_ms"]["first"] == latency
    assert rows["latency_ms"]["ratio"] < 1
    assert rows["macs"]["ratio"] == 1


def test_a_declared_architecture_is_simulated(capsys: pytest.CaptureFixture[str]) -> None:
    answer = _json(capsys, "simulate", "--design", str(ROOT / "examples/declared_architecture.yaml"))
    assert set(answer["utilisation"]) == {"arrays", "vector", "dma", "dram"}


def test_the_bound_is_below_the_simulation(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("simulate", "tiny-gpt2", "--seq", "16")
    bound = _json(capsys, *arguments, "--fidelity", "bound")
    tile = _json(capsys, *arguments)
    assert bound["latency_cycles"] == tile["bound_cycles"] <= tile["latency_cycles"]


def test_explain_steps_each_ordered_parameter(capsys: pytest.CaptureFixture[str]) -> None:
    rows = _json(capsys, "simulate", "tiny-gpt2", "--seq", "16", "--explain")["explain"]
    assert {"rows", "cols", "hbm_channels"} <= {row["parameter"] for row in rows}


@pytest.mark.parametrize("what", ["models", "adapters", "cascades", "templates", "devices", "memories"])
def test_every_list_has_entries(capsys: pytest.CaptureFixture[str], what: str) -> None:
    assert _json(capsys, "list", what)[what]


def test_a_shipped_cascade_is_summarised(capsys: pytest.CaptureFixture[str]) -> None:
    assert _json(capsys, "cascade", "check", "attention_one_pass")["passes"]["n"] == 1
    assert _json(capsys, "cascade", "check", "attention_three_pass")["passes"]["n"] == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["cont"], "No such command"),
        (["count"], "Missing argument"),
        (["count", "none.json"], "none.json"),
        (["count", "gpt2", "--seq", "x"], "--seq"),
        (["count", "gpt2", "--seq", "0"], "--seq"),
        (["count", "gpt2", "--phase", "prefil"], "phase"),
        (["count", "gpt2", "--adapter", "lora:r=2000"], "2000"),
        (["count", "gpt2", "--adapter", "lora:r=8,targets=nothing"], "nothing"),
        (["simulate"], "MODEL"),
        (["simulate", "gpt2", "--device", "u28"], "did you mean 'u280'"),
        (["simulate", "gpt2", "--template", "sequental"], "did you mean 'sequential'"),
        (["simulate", "gpt2", "--set", "row=4"], "did you mean 'rows'"),
        (["simulate", "gpt2", "--set", "rows"], "NAME=VALUE"),
        (["simulate", "gpt2", "--set", "rows=3.5"], "rows"),
        (["simulate", "gpt2", "--set", "stationarity=outpt"], "stationarity"),
        (["simulate", "gpt2", "--set", "rows=128", "--set", "cols=128", "--set", "arrays=4"], "dsp"),
        (["simulate", "gpt2", "--set", "hbm_channels=64"], "hbm_channels"),
        (["simulate", "gpt2", "--design", "x.yaml"], "MODEL cannot be given"),
        (["simulate", "--design", "nowhere/x.yaml"], "No such file"),
        (["compare", "nowhere.json", "nowhere.json"], "No such file"),
        (["cascade", "check", "nowhere"], "nowhere"),
        (["cascade", "check", "lora", "--set", "zz=3"], "zz"),
        (["report", "nowhere"], "nowhere"),
    ],
)
def test_wrong_input_ends_in_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert words in _refusal(capsys, *arguments)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("{component: array}", "component 'array' is unknown"),
        ("{component: buffer, name: b}", "components.0.capacity_bytes is missing"),
        ("{component: buffer, nam: b}", "did you mean 'name'"),
        (
            "{component: link, name: l, bytes_per_cycle: '3', latency_cycles: 1}",
            "components.0.bytes_per_cycle",
        ),
        (
            "{component: noc, name: n, hops: 1, link_bytes_per_cycle: 0, multicast: true}",
            "must be > 0, got 0",
        ),
        ("3", "components.0 must be a mapping"),
    ],
)
def test_a_wrong_declared_architecture_names_the_component_and_field(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, entry: str, words: str
) -> None:
    file = tmp_path / "design.yaml"
    text = DESIGN.partition("parameters")[0] + f"architecture: {{slots: {{}}, components: [{entry}]}}\n"
    file.write_text(text, encoding="utf-8")
    assert words in _refusal(capsys, "simulate", "--design", str(file))
