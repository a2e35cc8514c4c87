from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NoReturn

import pytest

from fastcifar.errors import DataError, FastCifarWarning
from fastcifar.files import (
    ABANDONED_SECONDS,
    atomic_write,
    describe_os_error,
    link_or_copy,
    lock_folder,
    write_json,
)


def test_the_new_content_appears_at_the_end_of_the_block(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with atomic_write(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def _write(path: Path, *, only_writer: bool = False) -> None:
    with atomic_write(path, only_writer=only_writer) as temporary:
        temporary.write_text("new")


def _kill_a_writer(path: Path) -> Path:
    """Kill a process while it writes `path`, and return the temporary file that it leaves."""
    code = "import os, sys; from pathlib import Path; from fastcifar.files import atomic_write\n"
    code += "with atomic_write(Path(sys.argv[1])) as file: file.write_text('half'); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    (left,) = path.parent.glob(".*.tmp")
    return left


def test_a_temporary_file_of_a_killed_process_is_removed_a_day_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, now = tmp_path / "file", time.time()
    left = _kill_a_writer(path)
    other = tmp_path / f".other{left.name.removeprefix('.file')}"
    other.write_text("half")
    _write(path)
    assert sorted(tmp_path.iterdir()) == sorted([path, left, other]), "its process could be alive in another container"
    monkeypatch.setattr(time, "time", lambda: now + ABANDONED_SECONDS - 60)
    _write(path)
    assert left.exists()
    monkeypatch.setattr(time, "time", lambda: now + ABANDONED_SECONDS + 60)
    _write(path)
    assert sorted(tmp_path.iterdir()) == sorted([path, other])


def test_a_new_hard_link_to_an_old_file_is_not_an_abandoned_temporary_file(tmp_path: Path) -> None:
    path, old = tmp_path / "file", tmp_path / "old"
    old.write_text("old")
    os.utime(old, (0, 0))
    with atomic_write(path) as temporary:
        os.link(old, temporary)
        _write(path)
        assert temporary.exists()


def test_the_only_writer_removes_temporary_files_of_a_killed_process_at_once(tmp_path: Path) -> None:
    path = tmp_path / "file"
    _kill_a_writer(path)
    _write(path, only_writer=True)
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_of_a_file_do_not_disturb_each_other(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with atomic_write(path) as first, atomic_write(path) as second:
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first", "its block ends last"
    assert list(tmp_path.iterdir()) == [path]


def test_one_process_at_a_time_can_lock_a_folder(tmp_path: Path) -> None:
    held = DataError("in use")
    with lock_folder(tmp_path, held), pytest.raises(DataError, match="in use"), lock_folder(tmp_path, held):
        pass
    holder = (
        "import os; from pathlib import Path; from fastcifar.files import lock_folder\n"
        f"with lock_folder(Path({str(tmp_path)!r}), OSError()): os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", holder], check=False)
    with lock_folder(tmp_path, held):
        pass


def test_a_block_that_fails_leaves_the_old_content(tmp_path: Path) -> None:
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


def _failing(number: int) -> NoReturn:
    raise OSError(number, os.strerror(number))


@pytest.mark.parametrize("name", ["ENOSYS", "EPERM", "EOPNOTSUPP", "ENOTSUP", "EXDEV", "EMLINK", "EINVAL", "EACCES"])
def test_a_file_is_copied_where_the_file_system_has_no_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    source, path = tmp_path / "source", tmp_path / "path"
    source.write_text("content")
    monkeypatch.setattr(os, "link", lambda *_: _failing(getattr(errno, name)))
    link_or_copy(source, path)
    assert path.read_text() == "content"
    with pytest.raises(FileNotFoundError):
        link_or_copy(tmp_path / "none", path)


@pytest.mark.parametrize("name", ["EINVAL", "ENOTSUP", "EOPNOTSUPP", "ENOSYS", "EBADF", "EACCES", "EPERM"])
def test_a_folder_that_cannot_be_flushed_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    fsync = os.fsync

    def fail_on_folders(file: int) -> None:
        if stat.S_ISDIR(os.fstat(file).st_mode):
            _failing(getattr(errno, name))
        fsync(file)

    monkeypatch.setattr(os, "fsync", fail_on_folders)
    _write(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "new"


def test_a_disk_that_fails_while_a_file_is_flushed_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", lambda _: _failing(errno.EIO))
    with pytest.raises(OSError, match="Input/output error"):
        _write(path)
    assert path.read_text() == "old"


@pytest.mark.parametrize("name", ["ENOTSUP", "EOPNOTSUPP", "ENOLCK", "ENOSYS", "EINVAL"])
def test_a_folder_without_locks_gives_a_warning_and_the_block_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda *_: _failing(getattr(errno, name)))
    with pytest.warns(FastCifarWarning, match=f"{tmp_path}: its file system has no locks"):  # noqa: SIM117
        with lock_folder(tmp_path, DataError("in use")) as locked:
            assert not locked
    assert list(tmp_path.iterdir()) == []


def test_another_error_of_a_lock_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda *_: _failing(errno.EIO))
    with pytest.raises(OSError, match="Input/output error"), lock_folder(tmp_path, DataError("in use")):
        pass


def test_one_thread_after_the_other_gets_a_lock_that_they_wait_for(tmp_path: Path) -> None:
    inside, most, waits = [0], [0], []

    def work() -> None:
        with lock_folder(tmp_path, on_wait=lambda: waits.append(1)):
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            time.sleep(0.005)
            inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (inside, most) == ([0], [1])
    assert waits
    assert list(tmp_path.iterdir()) == []


def test_on_a_read_only_file_system_the_error_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, *_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(Path, "write_text", fail)
    monkeypatch.setattr(Path, "unlink", fail)
    with pytest.raises(OSError, match="Read-only file system") as caught:
        write_json(tmp_path / "new.json", {})
    assert caught.value.filename == str(tmp_path / "new.json")


def test_a_path_of_the_wrong_kind_is_named_with_what_is_needed(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for make, expected in {
        (tmp_path / "file").mkdir: f"{tmp_path}/file: is a file, and a folder is needed; choose another name",
        (tmp_path / "file" / "x" / "y").mkdir: f"{tmp_path}/file: is a file, and a folder is needed",
        (tmp_path / "folder").read_text: f"{tmp_path}/folder: is a folder, and a file is needed",
        (tmp_path / "no" / "x").read_text: f"{tmp_path}/no/x: there is no folder {tmp_path}/no; make it first",
        (tmp_path / "x").read_text: f"{tmp_path}/x: No such file or directory",
    }.items():
        with pytest.raises(OSError, match=tmp_path.name) as caught:
            make()
        assert describe_os_error(caught.value).startswith(expected)
    assert describe_os_error(OSError(errno.EIO, "broken")) == "a file: broken"
