"""Errors of processes that train one run together: the cause is shown once per machine, and nothing else."""

from __future__ import annotations

import datetime
import os
import re
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import torch.distributed as dist

from fastcifar.errors import FastCifarError, ProcessError, StoppedError

Answer = TypeVar("Answer")

LOST = re.compile("gloo|connection|pair closure|timed? ?out", re.IGNORECASE)
"""What the errors of Gloo have in common, which are plain RuntimeErrors."""
CAUSE = "fastcifar/cause"
"""The key of the first error, in the store of the processes."""
WAIT_FOR_KEY = datetime.timedelta(seconds=1)
LONGEST_ANSWER = 3.0
"""Seconds after which a store counts as lost, whose machine may be unreachable."""
LONGEST_SILENCE = 60.0
"""The same while its machine prepares data, and may be slow to answer."""


@contextmanager
def explain_lost_process() -> Iterator[None]:
    """Turn the errors of a connection that is lost into one line.

    Raises:
        ProcessError: another process has ended, or cannot be reached.
    """
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if not isinstance(error, dist.DistError) and not LOST.search(text):
            raise
        raise ProcessError(
            "lost the connection to another process of this run: it has failed, or its machine cannot be reached; "
            f"resume the run with --resume ({first_sentence(text)})"
        ) from error


def first_sentence(text: str) -> str:
    """Return the first sentence of an error of torch, without the place in torch's sources."""
    return re.sub(r"^\[[^]]*:\d+\] ", "", text.splitlines()[0]).split(". ")[0]


@contextmanager
def one_error_per_machine(store: Any, rank: int) -> Iterator[None]:
    """Raise an error of the block in one process of each machine; the others that have it, or lose others by it, exit.

    Raises:
        ProcessError: another process has failed, with the error that it raised.
    """
    try:
        with explain_lost_process():
            yield
    except StoppedError:
        raise
    except ProcessError as error:
        answer = _ask(lambda: _find_cause(store), LONGEST_ANSWER)
        cause, was_shown = answer or (None, os.environ.get("LOCAL_RANK") != "0")
        if was_shown:
            sys.exit(error.exit_code)
        if cause is None:
            raise
        raise ProcessError(cause) from error
    except Exception as error:
        message = str(error) if isinstance(error, FastCifarError) else f"{type(error).__name__}: {error}"
        if _ask(lambda: _tell(store, rank, message), LONGEST_ANSWER):
            sys.exit(error.exit_code if isinstance(error, FastCifarError) else 1)
        raise


def _tell(store: Any, rank: int, message: str) -> bool:
    """Tell the other processes why this one ends; return whether another one of this machine has shown the message."""
    was_shown = _is_shown(store, message)
    store.compare_set(CAUSE, "", f"process {rank + 1}, on {socket.gethostname()}, has failed: {message}")
    return was_shown


def _find_cause(store: Any) -> tuple[str | None, bool]:
    """Return why another process has ended, if it has told, and whether another one of this machine has shown it."""
    cause = _get_soon(store, CAUSE).decode()
    if not cause:
        return None, _is_shown(store, "lost")
    return cause, _is_shown(store, cause.partition(": ")[2])


def _is_shown(store: Any, message: str) -> bool:
    """Return whether another process of this machine has shown a message; if not, this process will."""
    machine = f"{socket.gethostname()}/{os.environ.get('GROUP_RANK', '')}"  # containers may have equal names
    return bool(store.add(f"fastcifar/shown/{machine}/{message}", 1) > 1)


def wait_for_first(store: Any, key: str) -> bytes:
    """Wait, without a limit, until the first process sets a key in the store; return its value.

    A single wait would not notice that the machine of the store has gone, if that closes no connection.

    Raises:
        ProcessError: the store cannot be reached.
    """
    while (value := _ask(lambda: _get_soon(store, key), LONGEST_SILENCE)) == b"":
        pass
    if value is None:
        raise ProcessError(
            "lost the connection to the first process of this run, for which the others wait: it has failed, or its "
            "machine cannot be reached; start the run again, or resume it with --resume"
        )
    return value


def _get_soon(store: Any, key: str) -> bytes:
    """Return the value of a key, b"" if it is not set within a second."""
    try:
        store.wait([key], WAIT_FOR_KEY)
    except dist.DistStoreError:
        return b""
    return bytes(store.get(key))


def _ask(question: Callable[[], Answer], seconds: float) -> Answer | None:
    """Return the store's answer; None if it gives none soon, for its process or machine may be lost."""
    answers: list[Answer] = []

    def ask() -> None:
        with suppress(dist.DistError):
            answers.append(question())

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    for _ in range(20):  # in parts, since the time in which this process is suspended counts for one of them only
        thread.join(seconds / 20)
    return answers[0] if answers else None
