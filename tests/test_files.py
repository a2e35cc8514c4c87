from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fastcifar.files import FolderLock, atomic_write


def test_the_new_content_appears_when_the_block_is_done(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with atomic_write(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    path, gone = tmp_path / "file", subprocess.Popen(["true"])
    gone.wait()
    abandoned, another = tmp_path / f".file.{gone.pid}.tmp", tmp_path / f".file.{os.getppid()}.tmp"
    for left in (abandoned, another):
        left.write_text("half")
    with atomic_write(path) as temporary:
        temporary.write_text("new")
    assert sorted(tmp_path.iterdir()) == sorted([path, another]), "of a process that lives it is not ours to remove"


def test_a_folder_is_one_holders_at_a_time(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    with pytest.raises(BlockingIOError):
        FolderLock(tmp_path)
    lock.release()
    FolderLock(tmp_path).release()
    holder = f"from pathlib import Path; from fastcifar.files import FolderLock; FolderLock(Path({str(tmp_path)!r})); "
    subprocess.run([sys.executable, "-c", holder + "import os; os.kill(os.getpid(), 9)"], check=False)
    FolderLock(tmp_path).release()


def test_a_block_that_fails_leaves_the_old_content_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def interrupted() -> None:
        with atomic_write(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
