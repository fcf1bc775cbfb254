"""Text files of users: read with a limit, written whole or not at all."""

import os
import tempfile
from pathlib import Path

from tilewright.dataflow.errors import InputError


def read_text(file: Path, max_bytes: int) -> str:
    """The text of a regular file. Raises InputError if it is missing, no regular file, too large or not UTF-8."""
    try:
        if not file.is_file():
            file.stat()  # what is missing has its own message
            raise InputError(f"{file}: is a directory" if file.is_dir() else f"{file}: is no regular file")
        with file.open("rb") as handle:
            content = handle.read(max_bytes + 1)
        if len(content) > max_bytes:
            raise InputError(f"{file}: larger than {max_bytes} bytes, which no such file is")
        return content.decode("utf-8")
    except OSError as error:
        raise InputError(f"{file}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not UTF-8 text at byte {error.start}") from None


def write_whole(file: Path, text: str) -> None:
    """Write `text` so that `file` is there whole or as it was before; a link is followed.

    Raises InputError if it cannot be written (disk full, read-only folder) or is a device or a pipe.
    """
    target = Path(os.path.realpath(file))
    if target.exists() and not target.is_file():
        raise InputError(f"{file}: is no regular file, so it is not replaced")
    draft = None
    try:
        handle, draft = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name[:64]}.")
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(draft, 0o666 & ~_umask())
        os.replace(draft, target)
    except OSError as error:
        raise InputError(f"{file}: cannot be written: {error.strerror}") from None
    finally:
        if draft is not None:
            Path(draft).unlink(missing_ok=True)


def _umask() -> int:
    """The process's umask, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
