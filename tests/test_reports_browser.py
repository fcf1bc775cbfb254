"""The page in a real browser: its script draws the points and fills the tables."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.study_example import example_fronts
from tilewright.reports.page import study_page


def test_a_browser_draws_every_design_and_every_row_of_the_fronts(tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("chromium absent: the page's script is not run")
    fronts = example_fronts()
    page = tmp_path / "page.html"
    page.write_text(study_page("demo", fronts, [], {}, []), encoding="utf-8")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
               "--disable-background-networking", "--disable-component-update", "--disable-sync",
               f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1200,1600",
               "--virtual-time-budget=3000", "--dump-dom", page.as_uri()]  # fmt: skip
    answer = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert answer.returncode == 0, answer.stderr[-500:]
    assert len(re.findall("<circle ", answer.stdout)) == len(fronts.rows)
    n_rows = sum(len(front.rows) for front in fronts.fronts)
    assert len(re.findall(r'<tr data-key="|<tr class="knee" data-key="', answer.stdout)) == n_rows
