"""Decoding many pictures in several processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from fastcifar.data import picture_processes
from fastcifar.data.picture_arrays import stack_pictures
from fastcifar.data.picture_processes import CHUNK, count_processes
from fastcifar.errors import DataError
from fastcifar.progress import Progress
from tests.data.cifar_files import as_png, write_picture


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path | BytesIO]:
    """Pictures of two processes: files, and one in memory as in parquet files, each with its own red."""
    monkeypatch.setattr(picture_processes, "MIN_PER_PROCESS", CHUNK // 2)
    made: list[Path | BytesIO] = [write_picture(tmp_path / f"{red:03d}.png", red, (4, 4)) for red in range(CHUNK + 9)]
    picture = BytesIO(as_png(np.full((4, 4, 3), 77, np.uint8)))
    picture.name = "row 5"
    return [*made, picture]


def test_processes_give_the_pixels_and_the_progress_of_one_thread(files: list[Path | BytesIO]) -> None:
    shown: list[Progress] = []
    images = stack_pictures(files, None, 2, shown.append)
    assert images[:, 0, 0, 0].tolist() == [*range(CHUNK + 9), 77]
    assert np.array_equal(images, stack_pictures(files, None, 1, None))
    assert [(one.done, one.total) for one in shown] == [(CHUNK, len(files)), (len(files), len(files))]
    assert not multiprocessing.active_children()


def test_a_damaged_picture_is_named_as_by_one_thread(files: list[Path | BytesIO]) -> None:
    assert isinstance(files[3], Path)
    files[3].write_bytes(b"\x89PNG")
    files[-1] = BytesIO(b"nothing")
    files[-1].name = "row 5"
    messages = []
    for workers in (2, 1):
        with pytest.raises(DataError) as caught:
            stack_pictures(files, None, workers, None)
        messages.append(str(caught.value))
    assert "003.png: is not a picture that can be read" in messages[0]
    assert "1 more cannot be read: row 5" in messages[0]
    assert messages[0] == messages[1]


def test_pictures_of_two_sizes_end_the_processes(files: list[Path | BytesIO], tmp_path: Path) -> None:
    files[9] = write_picture(tmp_path / "large.png", 0, (6, 5))
    with pytest.raises(DataError, match=r"000.png is 4x4 pixels, .*large.png is 6x5; use --resize 32"):
        stack_pictures(files, None, 2, None)
    assert not multiprocessing.active_children()


def test_a_killed_process_is_one_clear_error(files: list[Path | BytesIO], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "waits.png")
    files[1] = tmp_path / "waits.png"

    def kill() -> None:
        with (tmp_path / "waits.png").open("wb"):  # waits for the process that reads it
            for child in multiprocessing.active_children():
                child.kill()

    killer = Thread(target=kill)
    killer.start()
    with pytest.raises(DataError, match=r"a process that decodes pictures ended unexpectedly.*fewer --workers"):
        stack_pictures(files, None, 2, None)
    killer.join()
    assert not multiprocessing.active_children()


def test_few_pictures_one_worker_and_open_files_stay_in_this_process(tmp_path: Path) -> None:
    many = [tmp_path / "a.png"] * 6_000
    assert count_processes(many, 8) == 2
    assert count_processes(many, 1) == 1
    assert count_processes(many[:4_999], 8) < 2
    with write_picture(tmp_path / "a.png").open("rb") as file:
        assert count_processes([*many, file], 8) == 0


def test_a_process_that_may_start_no_others_decodes_in_threads(
    files: list[Path | BytesIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert count_processes(files, 2) == 2
    monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)  # type: ignore[attr-defined]
    assert count_processes(files, 2) == 0
    assert len(stack_pictures(files, None, 2, None)) == len(files)


def test_the_processes_import_neither_torch_nor_ffcv() -> None:
    code = (
        "import sys, fastcifar.data.picture_processes, fastcifar.cli\n"
        "assert not {'torch', 'ffcv', 'numba'} & set(sys.modules), 'slow to import'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_ctrl_c_and_sigkill_end_the_processes(tmp_path: Path) -> None:
    """They also end if the process that started them is killed, and has no time to end them."""
    os.mkfifo(tmp_path / "waits.png")
    script = tmp_path / "script.py"
    script.write_text(
        "import signal, sys; from pathlib import Path\n"
        "from fastcifar.data.picture_processes import decode_in_processes\n"
        "if __name__ == '__main__':\n"
        "    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it\n"
        "    files = [Path(sys.argv[1])] * 200\n"
        "    try: list(decode_in_processes(files, None, 2))\n"
        "    except KeyboardInterrupt: sys.exit(3)\n"
    )
    for number, code in ((signal.SIGINT, 3), (signal.SIGKILL, -9)):
        command = [sys.executable, script, tmp_path / "waits.png"]
        with subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE) as process:
            _wait_until(lambda pid=process.pid: len(_children(pid)) == 3)  # with multiprocessing's resource tracker
            _wait_until(lambda pid=process.pid: not _ignores_interrupts(pid))  # as while it starts them
            time.sleep(0.5)  # they decode
            children = _children(process.pid)
            process.send_signal(number)
            assert process.wait(10) == code
            _wait_until(lambda children=children: not any(map(_is_running, children)))
            assert process.stderr is not None
            assert b"Traceback" not in process.stderr.read()


@pytest.mark.parametrize("from_file", [True, False])
def test_a_script_without_main_guard_decodes_once(files: list[Path | BytesIO], tmp_path: Path, from_file: bool) -> None:
    """Its processes do not run the script again, which may come from a file or from standard input."""
    code = (
        "import sys; from pathlib import Path; from fastcifar.data.picture_processes import decode_in_processes\n"
        "parts = list(decode_in_processes([Path(name) for name in sys.argv[1:]], None, 2))\n"
        "print(sum(map(len, parts)), sys.modules['__main__'].parts is parts)\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    command = [sys.executable, script if from_file else "-", *files[:-1]]
    done = subprocess.run(command, check=False, input=code, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == (f"{len(files) - 1} True\n", "")


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _ignores_interrupts(pid: int) -> bool:
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return bool(int(status["SigIgn"], 16) & 1 << (signal.SIGINT - 1))


def _is_running(pid: int) -> bool:
    """A process that has ended may stay as a zombie until init takes note."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _wait_until(done: Callable[[], bool]) -> None:
    for _ in range(1000):
        if done():
            return
        time.sleep(0.01)
    raise AssertionError("it took more than 10 seconds")
