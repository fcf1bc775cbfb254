"""The one decorator for compiled kernels.

numba's disk cache notices edits in the file of a kernel but not in the files of the kernels that it
calls, so all kernels share a cache folder that is named by a digest of every module that has one.
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Any])

_PACKAGE_FOLDERS = ("dataflow", "sim", "search")


def _cache_root() -> Path:
    """The folder for compiled code: TILEWRIGHT_CACHE, else the user's cache folder."""
    if stated := os.environ.get("TILEWRIGHT_CACHE"):
        return Path(stated)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tilewright"


def _sources() -> list[Path]:
    """Every module that holds kernels, in a checkout or in an installed wheel."""
    parent = Path(__file__).resolve().parents[1]
    folders = [parent / name for name in _PACKAGE_FOLDERS]
    return sorted(
        file
        for folder in folders
        for file in folder.rglob("*.py")
        if "tilewright.dataflow.kernel import" in file.read_text(encoding="utf-8")
    )


def _digest() -> str:
    """A digest of the kernels' modules; the cache of another version is left alone."""
    digest = hashlib.sha256()
    for file in _sources():
        digest.update(file.name.encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


# numba reads its cache folder from the environment when it is first imported, so this stands
# before that import; a folder that the user has set stays.
os.environ.setdefault("NUMBA_CACHE_DIR", str(_cache_root() / f"kernels-{_digest()}"))

import numba  # noqa: E402


def kernel(function: F) -> F:
    """Compile `function` with numba: no Python objects, no fastmath, cached on disk."""
    return cast(F, numba.njit(cache=True, fastmath=False, error_model="numpy")(function))
