"""Files are written whole or not at all, and read with a limit."""

import os
import stat
from pathlib import Path

import pytest

from tilewright.dataflow.errors import InputError
from tilewright.dataflow.textfile import read_text, write_whole


def test_a_link_is_followed_and_the_umask_kept(tmp_path: Path) -> None:
    target, link = tmp_path / "target.json", tmp_path / "link.json"
    target.write_text("old", encoding="utf-8")
    link.symlink_to(target)
    old_mask = os.umask(0o027)
    try:
        write_whole(link, "new")
    finally:
        os.umask(old_mask)
    assert link.is_symlink()
    assert target.read_text(encoding="utf-8") == "new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.json", "target.json"]


def test_a_pipe_or_a_folder_is_never_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "."):
        with pytest.raises(InputError, match="no regular file"):
            write_whole(tmp_path / name, "text")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written: No such file"):
        write_whole(tmp_path / "none" / "file", "text")


def test_only_small_regular_text_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(b"x" * 11)
    (tmp_path / "binary").write_bytes(b"\xff")
    for name, words in (("pipe", "no regular file"), ("large", "larger than 10"), ("binary", "UTF-8"),
                        ("none", "No such file"), (".", "is a directory")):  # fmt: skip
        with pytest.raises(InputError, match=words):
            read_text(tmp_path / name, 10)
    (tmp_path / "fits").write_text("x" * 10, encoding="utf-8")
    assert read_text(tmp_path / "fits", 10) == "x" * 10
