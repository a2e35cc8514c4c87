from __future__ import annotations

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fastcifar.commands.shared import ensure_betons, output_folder
from fastcifar.commands.write_beton import WriteBeton
from fastcifar.data import sources
from fastcifar.data.pair import read_pair

START_TOGETHER = """
import sys, time
from pathlib import Path
from fastcifar.commands.shared import output_folder
print(flush=True)
sys.stdin.readline()
with output_folder(None, "era") as folder:
    (folder / "metrics.jsonl").touch()
"""


def test_ten_runs_that_start_at_once_get_a_folder_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time, "strftime", lambda _: "20260102-030405")
    together = threading.Barrier(10)

    def start() -> Path:
        together.wait()
        with output_folder(None, "era") as folder:
            (folder / "metrics.jsonl").touch()
            return folder

    with ThreadPoolExecutor(10) as pool:
        folders = [pool.submit(start) for _ in range(10)]
    numbers = ["", *(f"-{number}" for number in range(2, 11))]
    expected = {Path(f"runs/20260102-030405-era{number}") for number in numbers}
    assert {folder.result() for folder in folders} == expected
    assert all((folder / "metrics.jsonl").exists() for folder in expected)


def test_processes_that_start_at_once_get_a_folder_each(tmp_path: Path) -> None:
    command = [sys.executable, "-c", START_TOGETHER]
    processes = [
        subprocess.Popen(command, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdout
        process.stdout.readline()
    for process in processes:
        process.communicate("\n", timeout=60)
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len(list(tmp_path.glob("runs/*/metrics.jsonl"))) == 3


def test_a_new_folder_that_stays_empty_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with output_folder(None, "era") as folder:
        assert folder.is_dir()
    assert not folder.exists()


def test_a_given_folder_is_neither_created_nor_removed(tmp_path: Path) -> None:
    with output_folder(tmp_path / "run", "era") as folder:
        assert folder == tmp_path / "run"
    assert not folder.exists()
    with output_folder(tmp_path, "era"):
        pass
    assert tmp_path.exists()


def test_a_second_writer_of_the_betons_waits_and_uses_those_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    draws, waiting = [], threading.Event()
    draw = sources.draw_synthetic

    def draw_when_another_waits(**options: int) -> object:
        draws.append(options)
        assert waiting.wait(30)
        return draw(train=100, test=50)

    monkeypatch.setattr(sources, "draw_synthetic", draw_when_another_waits)
    monkeypatch.setattr("builtins.print", lambda *text, **_: waiting.set() if "waiting for" in str(text) else None)
    folder = tmp_path / "data" / "betons"
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(ensure_betons, folder, "synthetic") for _ in range(2)]:
            done.result()
    assert len(draws) == 1
    assert read_pair(folder)[0].samples == 100
    assert sorted(path.name for path in folder.iterdir()) == [
        "test.beton", "test.beton.json", "train.beton", "train.beton.json",
    ]  # fmt: skip


def test_a_source_that_cannot_be_read_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="nowhere"):
        WriteBeton(source=str(tmp_path / "nowhere"), out=tmp_path / "data" / "betons").run()
    assert list(tmp_path.iterdir()) == []
