from __future__ import annotations

import datetime
import socket
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch.distributed as dist

from fastcifar import process_errors
from fastcifar.errors import DataError, ProcessError
from fastcifar.process_errors import explain_lost_process, one_error_per_machine, wait_for_first


@pytest.fixture
def store() -> Any:
    return dist.HashStore()  # type: ignore[attr-defined]


def raised(store: Any, rank: int, error: Exception, machine: str = "a") -> BaseException | None:
    """What a process of a machine raises when `error` is raised in the block."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "gethostname", lambda: machine)
        try:
            with one_error_per_machine(store, rank):
                raise error
        except BaseException as result:
            return result


def lost() -> RuntimeError:
    return RuntimeError("[gloo/transport/tcp/pair.cc:1] Connection closed by peer [127.0.0.1]:1. This is")


@pytest.mark.parametrize(
    "message",
    [
        "[gloo/transport/tcp/pair.cc:545] Read error [127.0.0.1]:55432: Connection reset by peer. This is typically",
        "[gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 20000ms for recv operation to complete",
        "Application timeout caused pair closure",
    ],
)
def test_a_lost_connection_is_one_line(message: str) -> None:
    with pytest.raises(ProcessError, match="lost the connection to another process"), explain_lost_process():
        raise RuntimeError(message)


def test_other_errors_stay() -> None:
    with pytest.raises(RuntimeError, match=r"^shape$"), explain_lost_process():
        raise RuntimeError("shape")


def test_the_error_of_one_process_is_shown_once_per_machine(store: Any) -> None:
    error = DataError("train.beton: damaged")
    assert raised(store, 1, error) is error
    others = [raised(store, rank, lost(), machine) for rank, machine in ((0, "a"), (2, "b"), (3, "b"))]
    assert [type(other) for other in others] == [SystemExit, ProcessError, SystemExit]
    assert str(others[1]) == "process 2, on a, has failed: train.beton: damaged"


def test_an_error_that_all_have_is_shown_once_per_machine(store: Any) -> None:
    results = [raised(store, rank, DataError("wrong"), "a" if rank < 2 else "b") for rank in range(4)]
    assert [type(result) for result in results] == [DataError, SystemExit, DataError, SystemExit]


def test_a_loss_without_a_known_cause_is_shown_once_per_machine(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_errors, "WAIT_FOR_KEY", process_errors.WAIT_FOR_KEY / 100)
    results = [raised(store, rank, lost()) for rank in (0, 1)]
    assert [type(result) for result in results] == [ProcessError, SystemExit]


@pytest.mark.parametrize(("local_rank", "kind"), [("0", ProcessError), ("1", SystemExit)])
def test_a_store_that_cannot_be_reached_does_not_delay_the_error(
    monkeypatch: pytest.MonkeyPatch, local_rank: str, kind: type[BaseException]
) -> None:
    monkeypatch.setenv("LOCAL_RANK", local_rank)
    monkeypatch.setattr(process_errors, "LONGEST_ANSWER", 0.05)

    def wait(*_: object) -> None:
        time.sleep(0.5)
        raise dist.DistNetworkError("unreachable")

    start = time.monotonic()
    assert isinstance(raised(SimpleNamespace(wait=wait), 2, lost()), kind)
    assert time.monotonic() - start < 0.4
    time.sleep(0.6)  # until the thread has ended


def test_a_process_waits_as_long_as_the_store_answers(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_errors, "WAIT_FOR_KEY", datetime.timedelta(seconds=0.02))
    monkeypatch.setattr(process_errors, "LONGEST_SILENCE", 0.1)
    timer = threading.Timer(0.4, store.set, ("key", "done"))
    timer.start()
    assert wait_for_first(store, "key") == b"done"
    timer.join()


def test_a_store_that_becomes_silent_ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_errors, "LONGEST_SILENCE", 0.1)
    silent = threading.Event()
    store = SimpleNamespace(wait=lambda *_: silent.wait(10), get=lambda _: b"late")
    start = time.monotonic()
    with pytest.raises(ProcessError, match="lost the connection to the first process of this run"):
        wait_for_first(store, "key")
    assert time.monotonic() - start < 5
    silent.set()
