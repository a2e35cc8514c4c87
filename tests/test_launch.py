from __future__ import annotations

from typing import Any

import pytest
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher import api

from fastcifar.cli import main


def fail_with(monkeypatch: pytest.MonkeyPatch, exit_code: int) -> None:
    """Let the second process that is started end with an exit code, negative for a signal."""

    def run(*_: object) -> Any:
        failure = ProcessFailure(local_rank=1, pid=1, exitcode=exit_code, error_file="")
        raise ChildFailedError("fastcifar", {1: failure})

    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(api, "elastic_launch", lambda *_: run)


def test_a_killed_process_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    fail_with(monkeypatch, -9)
    assert main(["train", "--nproc", "2"]) == 137
    error = capsys.readouterr().err
    assert error.startswith("fastcifar: process 2 of 2 was killed by SIGKILL, perhaps since memory ran out; resume")


def test_a_process_that_failed_has_said_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_with(monkeypatch, 2)
    assert main(["train", "--nproc", "2"]) == 2
    assert capsys.readouterr().err == ""
