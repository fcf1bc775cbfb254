import os
import sqlite3
from dataclasses import replace
from math import inf
from pathlib import Path

import pytest

from tests.search_toy import WORKLOAD, toy_plan
from tilewright.dataflow.errors import InputError
from tilewright.search.outcome import Generation, Outcome, Row
from tilewright.search.store import FILE_NAME, Store, load_details, load_fronts
from tilewright.search.study import EvaluationKeys, StudyError, StudyWorkload
from tilewright.sim.design import Design

PLAN = toy_plan().identity()


def _row(number: int, latency_ms: float = 1.0, status: str = "ok") -> Row:
    design = Design("toy", "toy_asic", {"rows": number, "fused": True, "kind": "a"})
    outcome = Outcome(
        status, "why", inf if status == "infeasible" else 0.0, status == "ok",  # type: ignore[arg-type]
        {"latency_ms": latency_ms, "energy_mj": 0.1 + 0.2}, {"toy": {"cycles": number}},
    )  # fmt: skip
    return Row(number, number // 2, f"key{number}", "asic", design, outcome)


def _put_all(store: Store, numbers: range) -> None:
    for number in numbers:
        store.put(_row(number))


def test_what_was_put_is_read_back_to_the_last_bit(tmp_path: Path) -> None:
    rows = [_row(0), _row(1, status="infeasible"), _row(2, 0.5)]
    state = Generation(0, "asic", 0.25, 1, 2, 0, 1)
    with Store(tmp_path, PLAN, resume=False) as store:
        for row in reversed(rows):
            store.put(row)
        store.put_generation([state])
        assert store.get("key1") == (replace(rows[1].outcome, details={}), 1, 0)
        assert store.get("key9") is None
    fronts = load_fronts(tmp_path)
    assert list(fronts.rows) == [replace(r, outcome=replace(r.outcome, details={})) for r in rows]
    assert fronts.fronts[0].history == (state,)
    assert [row.key for row in fronts.front("asic").rows] == ["key2"]
    assert load_details(tmp_path, "key2") == {"toy": {"cycles": 2}}
    assert os.listdir(tmp_path) == [FILE_NAME]


def test_a_row_takes_the_place_that_it_has_in_this_run(tmp_path: Path) -> None:
    with Store(tmp_path, PLAN, resume=False) as store:
        store.put(_row(7))
        store.renumber("key7", 3, 1)
        assert store.get("key7") == (replace(_row(7).outcome, details={}), 3, 1)


def test_a_study_is_not_taken_up_without_being_asked_to(tmp_path: Path) -> None:
    Store(tmp_path, PLAN, resume=False).close()
    with pytest.raises(InputError, match="holds this study already; resume it"):
        Store(tmp_path, PLAN, resume=False)
    Store(tmp_path, PLAN, resume=True).close()


def test_a_study_may_be_resumed_with_more_evaluations(tmp_path: Path) -> None:
    Store(tmp_path, PLAN, resume=False).close()
    more = toy_plan(evaluations=9999).identity()
    Store(tmp_path, more, resume=True).close()  # refused, were it another study
    assert load_fronts(tmp_path).plan == PLAN == more


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 5}, "seed is 0 there, 5 here"),
        ({"objectives": ("edp",)}, 'objectives is ["latency_ms", "energy_mj"] there, ["edp"] here'),
        ({"constraints": ("power_w <= 5",)}, 'constraints is [] there, ["power_w <= 5"] here'),
        ({"space": {"rows": (1, 2)}}, 'space is {} there, {"rows": [1, 2]} here'),
    ],
)
def test_the_folder_of_another_study_is_refused_with_the_field_that_differs(
    tmp_path: Path, change: dict[str, object], said: str
) -> None:
    Store(tmp_path, PLAN, resume=False).close()
    before = (tmp_path / FILE_NAME).read_bytes()
    with pytest.raises(InputError) as refusal:
        Store(tmp_path, toy_plan(**change).identity(), resume=True)
    assert f"holds another study: {said}" in str(refusal.value)
    assert (tmp_path / FILE_NAME).read_bytes() == before


def test_a_file_that_is_no_study_is_refused_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / FILE_NAME
    file.write_text("notes, nothing else\n" * 100)
    with pytest.raises(InputError, match="is not the store of a study"):
        Store(tmp_path, PLAN, resume=True)
    assert file.read_text().startswith("notes")


def test_a_database_of_something_else_is_refused(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / FILE_NAME)
    connection.execute("CREATE TABLE notes (text TEXT)")
    connection.close()
    with pytest.raises(InputError, match="is a database, but not the store of a study"):
        Store(tmp_path, PLAN, resume=True)


def test_a_store_of_another_schema_is_refused(tmp_path: Path) -> None:
    Store(tmp_path, PLAN, resume=False).close()
    connection = sqlite3.connect(tmp_path / FILE_NAME)
    with connection:
        connection.execute("UPDATE meta SET value = '99' WHERE name = 'schema_version'")
    connection.close()
    with pytest.raises(InputError, match="has schema version 99, this program reads 1"):
        Store(tmp_path, PLAN, resume=True)


def test_a_study_that_is_running_is_not_opened_a_second_time(tmp_path: Path) -> None:
    with Store(tmp_path, PLAN, resume=False):
        with pytest.raises(StudyError, match="is in use by another run"):
            Store(tmp_path, PLAN, resume=True)
        with pytest.raises(StudyError, match="is in use by another run"):
            load_fronts(tmp_path)


def test_a_full_disk_is_one_line_and_keeps_what_was_there(tmp_path: Path) -> None:
    with Store(tmp_path, PLAN, resume=False) as store:
        store.put(_row(0))
        store._connection.execute("PRAGMA max_page_count = 12")  # as a disk without room for more
        with pytest.raises(StudyError, match="database or disk is full"):
            _put_all(store, range(1, 10_000))
    assert load_fronts(tmp_path).rows[0].key == "key0"


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match=r"file/out: cannot be made: Not a directory"):
        Store(tmp_path / "file" / "out", PLAN, resume=False)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only to root")
def test_a_read_only_folder_is_one_line(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StudyError, match="unable to open database file"):
        Store(tmp_path, PLAN, resume=False)


def test_a_folder_without_a_study_has_no_fronts(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no study"):
        load_fronts(tmp_path)


def test_the_key_of_an_evaluation_changes_with_all_that_decides_it_and_with_nothing_else() -> None:
    design = Design("toy", "toy_asic", {"rows": 1, "fused": True})
    key = EvaluationKeys(toy_plan()).of(design)
    same = [toy_plan(seed=9), toy_plan(evaluations=5), toy_plan(objectives=("edp",)), toy_plan(population=8)]
    assert {EvaluationKeys(plan).of(design) for plan in same} == {key}
    assert EvaluationKeys(toy_plan()).of(replace(design, parameters={"fused": True, "rows": 1})) == key
    other_workload = StudyWorkload("toy", network=(), tokens=1, key="another model")
    plans = [
        toy_plan(fidelity="bound"),
        toy_plan(tables=("other",)),
        toy_plan(combine="worst"),
        toy_plan(workloads=(other_workload,)),
        toy_plan(workloads=(replace(WORKLOAD, weight=2.0),)),
        toy_plan(workloads=(replace(WORKLOAD, lowering="reference"),)),
    ]
    designs = [
        replace(design, parameters={"rows": 2, "fused": True}),
        replace(design, parameters={"rows": 1, "fused": 1}),
        replace(design, device="toy_fpga"),
        replace(design, template="twice"),
        replace(design, objective="energy"),
    ]
    keys = [EvaluationKeys(plan).of(design) for plan in plans]
    keys += [EvaluationKeys(toy_plan()).of(other) for other in designs]
    assert len({key, *keys}) == 1 + len(plans) + len(designs)
