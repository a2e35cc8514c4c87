"""Errors of processes that train one run together: the cause is shown once per machine, and nothing else."""

from __future__ import annotations

import datetime
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import torch.distributed as dist

from fastcifar.errors import FastCifarError, ProcessError, StoppedError

Answer = TypeVar("Answer")

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
        if not isinstance(error, dist.DistError) and not any(word in text.lower() for word in ("gloo", "connection")):
            raise
        raise ProcessError(
            "lost the connection to another process of this run: it has failed, or its machine cannot be reached; "
            f"resume the run with --resume ({text.splitlines()[0].split('. ')[0]})"
        ) from error


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
        cause = _ask(lambda: _read_cause(store))
        if _was_shown(store, cause.partition(": ")[2] if cause else "lost"):
            sys.exit(error.exit_code)
        if cause is None:
            raise
        raise ProcessError(cause) from error
    except Exception as error:
        message = str(error) if isinstance(error, FastCifarError) else f"{type(error).__name__}: {error}"
        was_shown = _was_shown(store, message)
        cause = f"process {rank + 1}, on {socket.gethostname()}, has failed: {message}"
        _ask(lambda: store.compare_set(CAUSE, "", cause))
        if was_shown:
            sys.exit(error.exit_code if isinstance(error, FastCifarError) else 1)
        raise


def _read_cause(store: Any) -> str:
    store.wait([CAUSE], WAIT_FOR_CAUSE)
    return str(store.get(CAUSE).decode())


def _was_shown(store: Any, message: str) -> bool:
    """Return whether another process of this machine has shown a message; if not, this process will."""
    machine = f"{socket.gethostname()}/{os.environ.get('GROUP_RANK', '')}"  # containers may have equal names
    return (_ask(lambda: store.add(f"fastcifar/shown/{machine}/{message}", 1)) or 1) > 1


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
