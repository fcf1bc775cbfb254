"""FuseMax and FLAT against the figures that their artifact published, and the command that shows them."""

import json
from pathlib import Path

import pytest

from tilewright import reproduction
from tilewright.cases import flat, fusemax
from tilewright.cases.attention import choice, models, simulate, tokens
from tilewright.cases.case import CaseResult, Claim, Point, case_named, design_file, published
from tilewright.cli import run as run_command
from tilewright.dataflow.errors import InputError
from tilewright.runs import from_file


@pytest.fixture(scope="module")
def fusemax_result() -> CaseResult:
    return fusemax.run()


@pytest.mark.parametrize(
    ("quantity", "limit"),
    [("latency_s", 0.03), ("dram_bytes", 0.05), ("util_2d", 0.03), ("util_1d", 0.03), ("energy_pj", 0.10)],
)
def test_every_published_point_of_fusemax_comes_out(
    fusemax_result: CaseResult, quantity: str, limit: float
) -> None:
    errors = [
        abs(one.error_fraction)
        for one in fusemax_result.points
        if one.quantity == quantity and one.error_fraction is not None
    ]
    assert len(errors) == 30
    assert max(errors) < limit


def test_the_means_of_fusemax_come_out(fusemax_result: CaseResult) -> None:
    assert {claim.name: claim.holds for claim in fusemax_result.claims} == {
        "attention_speedup": True, "attention_energy": True, "end_to_end_speedup": True, "end_to_end_energy": True,
    }  # fmt: skip
    assert len(fusemax_result.points) == 5 * 4 * 6 * 5


@pytest.mark.parametrize("platform", flat.PLATFORMS)
def test_published_points_of_flat_come_out(platform: str) -> None:
    known = published("flat")
    missed = []
    for model in models():
        for length in flat.LENGTHS:
            name = f"{platform}/{model.name}/{length}"
            if f"{name}/mem_traffic" not in known:
                continue
            report = simulate(
                "flat", platform, model, tokens(length), choice(platform, model, tokens(length))
            )
            moved = report.dram_read_bytes + report.dram_write_bytes
            assert moved == pytest.approx(known[f"{name}/mem_traffic"], rel=0.002)
            if abs(report.latency_ms * 1e-3 / known[f"{name}/actual_latency"] - 1) > 0.05:
                missed.append(name)
    # Array and memory are both busy all the time there, and queueing shows; the published model has none.
    assert missed == ([] if platform == "cloud" else [f"edge/{name}/512" for name in ("BERT", "TrXL", "T5")])


def test_the_design_files_of_a_case_are_what_the_case_runs(fusemax_result: CaseResult) -> None:
    ours = {one.id: one.ours for one in fusemax_result.points}
    for name in fusemax.CONFIGURATIONS:
        report = from_file(design_file("fusemax", name), None).simulate("tile")
        assert report.latency_ms * 1e-3 == ours[f"BERT/4K/{name}/latency_s"]
        assert report.energy_pj == ours[f"BERT/4K/{name}/energy_pj"]


def test_our_own_choice_is_no_slower_than_the_published_one() -> None:
    model = models()[0]
    pinned = choice("edge", model, 2048)
    report = simulate("flat", "edge", model, 2048, pinned)
    moved = report.dram_read_bytes + report.dram_write_bytes
    found = flat._alternative("edge", model, "2K", report.latency_ms, moved)
    assert found["speedup"] >= 1


def test_a_claim_holds_within_its_range_and_shares_differ_by_difference() -> None:
    assert Claim("x", 2.0, 1.9, 2.1, 2.1).holds
    assert not Claim("x", 2.0, 1.9, 2.1, 2.11).holds
    assert Point("a", "util", "fraction", 0.5, 0.4).error_fraction == pytest.approx(0.1)
    assert Point("a", "latency", "s", 3.0, 2.0).error_fraction == 0.5
    assert Point("a", "latency", "s", 3.0).error_fraction is None


def test_an_unknown_case_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(InputError, match=r"case 'fusemx' is unknown .did you mean 'fusemax'"):
        case_named("fusemx")


def test_reproduce_writes_tables_and_a_figure(
    tmp_path: Path,
    fusemax_result: CaseResult,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(
        fusemax, "CASE", type(fusemax.CASE)("fusemax", "", lambda: fusemax_result, fusemax.draw)
    )
    assert run_command(["reproduce", "fusemax", "--out", str(tmp_path), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert {one["quantity"] for one in answer["points"]} == set(fusemax.UNITS)
    names = {"points.csv", "claims.csv", "fusemax.png", "fusemax.svg"}
    assert {file.name for file in tmp_path.iterdir()} == names
    (row,) = (one for one in reproduction.summaries(answer["points"]) if one["quantity"] == "latency_s")
    assert (row["n_points"], row["n_published"]) == (120, 30)
