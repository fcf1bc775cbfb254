"""Compiled kernels are cached in a folder of their own, wherever the user keeps other caches."""

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
from tilewright.sim.trips import floor_sum
import tilewright.search.pareto
import numpy, tilewright.sim.arrays
from tilewright.dataflow.kernel import kernel, CACHE_FOLDER
import numba
print(CACHE_FOLDER)
print(numba.config.CACHE_DIR)
"""


def _folders(**environment: str) -> list[str]:
    answer = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return answer.stdout.splitlines()


def test_the_cache_folder_is_named_by_a_digest_and_numbas_own_is_left_alone(tmp_path: Path) -> None:
    ours, numbas = _folders(TILEWRIGHT_CACHE=str(tmp_path / "a"), NUMBA_CACHE_DIR=str(tmp_path / "b"))
    assert Path(ours).parent == tmp_path / "a"
    assert Path(ours).name.startswith("kernels-")
    assert numbas == str(tmp_path / "b")


def test_a_cache_that_cannot_be_written_is_replaced_by_a_temporary_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    ours, _ = _folders(TILEWRIGHT_CACHE=str(tmp_path / "file" / "cache"), TMPDIR=str(tmp_path))
    assert Path(ours).is_relative_to(tmp_path)
    assert os.access(ours, os.W_OK)


def test_the_digest_covers_what_kernels_import() -> None:
    program = "from tilewright.dataflow.kernel import _sources; print(*(f.stem for f in _sources()))"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    # engine_image and dram_state hold constants of kernels, and no kernel themselves.
    assert {"engine_kernel", "engine_image", "dram_state", "mapper_kernel"} <= set(answer.stdout.split())
