"""The wheel holds every module and data file that the checkout has."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("dataflow", "workloads", "sim", "search", "hls_templates", "reports")


def _tracked(folder: str) -> list[str]:
    found = subprocess.run(["git", "ls-files", folder], cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in found.stdout.splitlines() if (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from the tracked files alone, as from a clean clone."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("needs a git checkout, to know which files are tracked")
    pytest.importorskip("setuptools", reason="needs setuptools to build a wheel")
    source = tmp_path_factory.mktemp("clone")
    for name in _tracked("."):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run([*command, "--wheel-dir", str(out), str(source)], check=True, capture_output=True)
    return next(out.glob("tilewright-*.whl"))


def test_the_wheel_holds_every_tracked_file_of_the_packages(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {name for name in _tracked("tilewright") if not name.endswith(".gitignore")}
    expected |= {f"tilewright/{name}" for part in PARTS for name in _tracked(part)}
    assert expected
    assert not expected - names


def test_the_wheel_installs_elsewhere_and_answers(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    # The checkout's own editable install must not answer in the wheel's place.
    program = (
        "import sys; sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in repr(f).lower()];"
        f"sys.path.insert(0, {str(site)!r});"
        "import tilewright, tilewright.cli; assert tilewright.__file__.startswith(sys.path[0]);"
        "tilewright.cli.main(['list', 'models'])"
    )
    answer = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert "gpt2-medium" in answer.stdout
