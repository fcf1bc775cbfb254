"""The one decorator for compiled kernels.

numba's disk cache notices edits in the file of a kernel but not in the files of the kernels that it
calls, so all kernels share a cache folder that is named by a digest of every module that has one.
"""

import ast
import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])

_PACKAGE_FOLDERS = ("dataflow", "sim", "search")


def _cache_root() -> Path:
    """The folder for compiled code: TILEWRIGHT_CACHE, else the user's cache folder."""
    if stated := os.environ.get("TILEWRIGHT_CACHE"):
        return Path(stated)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tilewright"


def _sources() -> list[Path]:
    """Every module that holds kernels and all that those import, in a checkout or in an installed wheel.

    A kernel has the constants of other modules compiled in, so an edit there must be noticed too.
    """
    parent = Path(__file__).resolve().parents[1]
    texts = {
        (folder, file.stem): file.read_text(encoding="utf-8")
        for folder in _PACKAGE_FOLDERS
        for file in (parent / folder).glob("*.py")
    }
    found = {name for name, text in texts.items() if "tilewright.dataflow.kernel import" in text}
    waiting = list(found)
    while waiting:
        imported = _imports(texts[waiting.pop()]) & texts.keys() - found
        found |= imported
        waiting += imported
    return sorted(parent / folder / f"{module}.py" for folder, module in found)


def _imports(text: str) -> set[tuple[str, str]]:
    """(folder, module) of every import of ours in a module's text, and names that may be modules."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("tilewright."):
            _, folder, *module = node.module.split(".")
            names = module[:1] or [alias.name for alias in node.names]
            found |= {(folder, name) for name in names}
    return found


def _digest() -> str:
    """A digest of the kernels' modules; the cache of another version is left alone."""
    digest = hashlib.sha256()
    for file in _sources():
        digest.update(file.name.encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _cache_folder() -> Path:
    """The folder of these kernels, made; a temporary one where the user's cannot be written."""
    name = f"kernels-{_digest()}"
    for root in (_cache_root(), Path(tempfile.gettempdir()) / f"tilewright-{os.getuid()}"):
        try:
            (root / name).mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError:
            continue
        if os.access(root / name, os.W_OK):
            return root / name
    return Path(tempfile.mkdtemp(prefix="tilewright-"))


#: Where this version keeps what it has compiled, and what else is worth remembering between processes.
CACHE_FOLDER = str(_cache_folder())


def kernel(function: F) -> F:
    """Compile `function` with numba: no Python objects, no fastmath, cached on disk."""
    return _compiled(function, "never")


def inlined_kernel(function: F) -> F:
    """Like `kernel`, but copied into its callers: for short functions of many arrays, which a call would pass on."""
    return _compiled(function, "always")


def _compiled(function: F, inline: Literal["never", "always"]) -> F:
    # numba takes the folder from its configuration when a function is decorated; another user of
    # numba in the same process keeps its own.
    config: Any = numba.config  # its settings are made at run time, unknown to type checkers
    others = config.CACHE_DIR
    config.CACHE_DIR = CACHE_FOLDER
    try:
        return cast(F, numba.njit(cache=True, fastmath=False, error_model="numpy", inline=inline)(function))
    finally:
        config.CACHE_DIR = others
