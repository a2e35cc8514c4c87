"""New processes that may crash, hang or be killed, without harm to the process that starts them.

They come from a fork server, a process in which everything is imported and nothing was used yet. So they start within a
fraction of a second, and do not inherit the state of thread pools that a fork would break.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.context import ForkContext, ForkServerContext
from pathlib import Path
from typing import Any

TIMEOUT_SECONDS = 120
"""A process that takes longer counts as hanging."""

FORK_SERVER = multiprocessing.get_context("forkserver")
FORK_SERVER.set_forkserver_preload(
    [
        "fastcifar.cli",
        "fastcifar.data.cifar10",
        "fastcifar.training.resume",
        "hypothesis",
        "tests.helpers",
        "torch._dynamo",  # torch's optimizers import it
        "tyro",
    ]
)

Work = Callable[..., object]


def exit_code(work: Work, *arguments: Any, context: ForkContext | ForkServerContext = FORK_SERVER) -> int | None:
    """Return the exit code of a new process that does `work`, negative for a signal; None if it hangs.

    A process that hangs is killed. `context` may fork a process that has used no threads.
    """
    process = context.Process(target=work, args=arguments)
    process.start()
    process.join(TIMEOUT_SECONDS)
    if process.is_alive():
        process.kill()
        process.join()
        return None
    return process.exitcode


def measure(work: Work, *arguments: Any, has_begun: Callable[[], bool]) -> float:
    """Return the seconds that `work` takes in a new process, from the moment when `has_begun` is true to its end."""
    process = _start(work, arguments, has_begun)
    start = time.perf_counter()
    process.join()
    return time.perf_counter() - start


def kill_after(seconds: float, work: Work, *arguments: Any, has_begun: Callable[[], bool]) -> None:
    """Do `work` in a new process, and kill it some seconds after the moment when `has_begun` is true."""
    process = _start(work, arguments, has_begun)
    process.join(seconds)
    process.kill()
    process.join()


def temporary_files(folder: Path) -> list[Path]:
    """Return the temporary files that a process left in a folder or below it."""
    return [path for path in folder.rglob("*") if path.suffix in (".tmp", ".next")]


def _start(
    work: Work, arguments: tuple[Any, ...], has_begun: Callable[[], bool]
) -> multiprocessing.context.ForkServerProcess:
    process = FORK_SERVER.Process(target=work, args=arguments)
    process.start()
    while process.is_alive() and not has_begun():
        time.sleep(0.001)
    return process
