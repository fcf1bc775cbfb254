"""Files that users write: what is wrong is said in one line with file, field, limit and value."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilewright.dataflow.errors import InputError
from tilewright.files import DesignFile, StudyFile, WorkloadFile

STUDY = """
workloads:
  - {name: a, model: gpt2, seq: 64, weight: 2.5}
devices: [u280]
constraints: [used_fraction <= 0.8]
search: {evaluations: 10, seed: 3}
"""


def _problem(tmp_path: Path, text: str, kind: type[StudyFile | DesignFile | WorkloadFile] = StudyFile) -> str:
    file = tmp_path / "file.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        kind.load(file)
    message = str(caught.value)
    assert message.startswith(f"{file}")
    assert "\n" not in message
    return message.removeprefix(str(file))


def test_a_study_is_read_with_its_defaults(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(STUDY, encoding="utf-8")
    study = StudyFile.load(file)
    assert study.workloads[0].weight == 2.5
    assert study.workloads[0].phase == "prefill"
    assert study.objectives == ("latency_ms", "energy_mj", "area")
    assert study.search.evaluations == 10
    assert study.folder == tmp_path


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (STUDY.replace("devices", "devises"), "unknown key 'devises' (did you mean 'devices'?)"),
        (STUDY.replace("seq: 64", "sec: 64"), "unknown key 'workloads.0.sec' (did you mean 'seq'?)"),
        (STUDY.replace("seq: 64", "seq: '64'"), "workloads.0.seq: Input should be a valid integer, got '64'"),
        (STUDY.replace("seq: 64", "seq: 0"), "workloads.0.seq: Input should be greater than 0, got 0"),
        (STUDY.replace("seq: 64", "seq: 99999999999"), "workloads.0.seq"),
        (STUDY.replace("2.5", "-1.0"), "workloads.0.weight"),
        (STUDY.replace("2.5", ".nan"), "holds a value that is no plain data"),
        (STUDY.replace("evaluations: 10", "evaluations: true"), "search.evaluations"),
        (STUDY + "combine: som", "combine"),
        ("devices: [u280]", "workloads is missing"),
        ("workloads: []\ndevices: [u280]", "workloads"),
        ("workloads: [\n", ":2:1:"),
        ("a: 1\nb: 'x\n", ":"),
        ("a: 1\na: 2\n", ":2:1: key 'a' stands twice"),
        ("- 1\n", "must be a mapping"),
        ("", "must be a mapping"),
        ("a: &x [*x]\n", "aliases are not used here"),
        ("a: !!python/object/apply:os.system [ls]\n", "could not determine a constructor"),
        ("a: 2001-01-01\n", "no plain data"),
        ("[" * 3000, ""),
    ],
)
def test_a_wrong_study_is_refused_in_one_line(tmp_path: Path, text: str, words: str) -> None:
    assert words in _problem(tmp_path, text)


def test_a_missing_and_an_unreadable_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        StudyFile.load(tmp_path / "none.yaml")
    with pytest.raises(InputError, match="directory"):
        StudyFile.load(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not UTF-8"):
        StudyFile.load(tmp_path / "binary.yaml")


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused_with_an_input_error(text: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "study.yaml"
        file.write_bytes(text.encode("utf-8", "replace"))
        try:
            StudyFile.load(file)
        except InputError as error:
            assert "\n" not in str(error)
