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
WAIT_FOR_CAUSE = datetime.timedelta(seconds=1)
LONGEST_ANSWER = 3.0
"""Seconds after which a store counts as lost, whose machine may be unreachable."""


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
        answer = _ask(lambda: _find_cause(store))
        cause, was_shown = answer or (None, os.environ.get("LOCAL_RANK") != "0")
        if was_shown:
            sys.exit(error.exit_code)
        if cause is None:
            raise
        raise ProcessError(cause) from error
    except Exception as error:
        message = str(error) if isinstance(error, FastCifarError) else f"{type(error).__name__}: {error}"
        if _ask(lambda: _tell(store, rank, message)):
            sys.exit(error.exit_code if isinstance(error, FastCifarError) else 1)
        raise


def _tell(store: Any, rank: int, message: str) -> bool:
    """Tell the other processes why this one ends; return whether another one of this machine has shown the message."""
    was_shown = _is_shown(store, message)
    store.compare_set(CAUSE, "", f"process {rank + 1}, on {socket.gethostname()}, has failed: {message}")
    return was_shown


def _find_cause(store: Any) -> tuple[str | None, bool]:
    """Return why another process has ended, if it has told, and whether another one of this machine has shown it."""
    try:
        store.wait([CAUSE], WAIT_FOR_CAUSE)
    except dist.DistStoreError:
        return None, _is_shown(store, "lost")
    cause = store.get(CAUSE).decode()
    return cause, _is_shown(store, cause.partition(": ")[2])


def _is_shown(store: Any, message: str) -> bool:
    """Return whether another process of this machine has shown a message; if not, this process will."""
    machine = f"{socket.gethostname()}/{os.environ.get('GROUP_RANK', '')}"  # containers may have equal names
    return bool(store.add(f"fastcifar/shown/{machine}/{message}", 1) > 1)


def _ask(question: Callable[[], Answer]) -> Answer | None:
    """Return the store's answer; None if it gives none soon, for its process or machine may be lost."""
    answers: list[Answer] = []

    def ask() -> None:
        with suppress(dist.DistError):
            answers.append(question())

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(LONGEST_ANSWER)
    return answers[0] if answers else None
