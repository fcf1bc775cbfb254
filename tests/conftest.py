"""Fixtures shared by all tests."""

from pathlib import Path

import pytest
from hypothesis import settings

# Kernels compile at their first call, which is no reason to call a test slow; the seed is fixed so
# that a failure in one place is a failure in all.
settings.register_profile("tilewright", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("tilewright")

ROOT = Path(__file__).resolve().parents[1]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite the golden files")


@pytest.fixture(scope="session")
def reference_folder() -> Path:
    """The reference data beside the checkout; tests that need it are skipped without it."""
    folder = ROOT.parent / "shared" / "reference"
    if not folder.is_dir():
        pytest.skip("the reference data folder is not beside the checkout")
    return folder
