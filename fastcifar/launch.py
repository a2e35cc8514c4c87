"""Start the processes of a run on this machine, as torchrun does."""

from __future__ import annotations

import logging
import os
import signal
import sys

from fastcifar.errors import ProcessError
from fastcifar.machine import usable_cores


def launch(processes: int, arguments: list[str]) -> int:
    """Run `fastcifar` with these arguments in several connected processes; return the exit code of the first failure.

    Each writes its own error. If one of them fails, the others are ended.

    Raises:
        ProcessError: one of them was killed, so it could not say anything.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // processes)))
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    for name in logging.root.manager.loggerDict:
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # the processes say what happened
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        run_id="fastcifar",
        max_restarts=0,
        monitor_interval=0.1,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "fastcifar", *arguments)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:
            raise _killed(rank, processes, -failure.exitcode) from error
        return int(failure.exitcode)
    except SignalException as stopped:
        return 128 + stopped.sigval
    return 0


def _killed(rank: int, processes: int, number: int) -> ProcessError:
    """Return the error for a process that a signal has ended."""
    reason = ", perhaps since memory ran out" if number == signal.SIGKILL else ""
    killed = f"process {rank + 1} of {processes} was killed by {signal.Signals(number).name}{reason}"
    error = ProcessError(f"{killed}; resume the run with --resume")
    error.exit_code = 128 + number
    return error
