"""The version of the models: what an evaluation's result may depend on besides its inputs."""

import hashlib
from functools import lru_cache
from pathlib import Path

#: The release; kept in step with the package's version.
RELEASE = "0.1.0"


@lru_cache(maxsize=1)
def model_version() -> str:
    """The release and a digest of the code and data of `dataflow` and `sim`.

    It stands in every report and in the key of every stored evaluation, so that results of two versions are
    never taken for one another.
    """
    parent = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for folder in ("dataflow", "sim"):
        for file in sorted((parent / folder).rglob("*")):
            if file.is_file() and "__pycache__" not in file.parts:
                digest.update(file.relative_to(parent).as_posix().encode())
                digest.update(file.read_bytes())
    return f"{RELEASE}+{digest.hexdigest()[:10]}"
