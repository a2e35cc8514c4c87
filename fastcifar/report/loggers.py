"""Logs of a run in other programs: TensorBoard, MLflow, Weights & Biases, all behind one small interface."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fastcifar.config import TrainConfig
from fastcifar.errors import FastCifarWarning, StoppedError
from fastcifar.extras import needs_extra
from fastcifar.report.run_log import Outcome, RunLog
from fastcifar.runs.results import EpochResult
from fastcifar.settings import LogName


class RunLogs:
    """Several logs, by name, as one. A log that fails is left out from then on, with a warning; the run goes on."""

    def __init__(self, logs: dict[str, RunLog]) -> None:
        self._logs = dict(logs)

    def epoch(self, result: EpochResult) -> None:
        """Write the result of an epoch to all logs."""
        self._each(lambda log: log.epoch(result))

    def close(self, outcome: Outcome) -> None:
        """End all logs."""
        self._each(lambda log: log.close(outcome))
        self._logs.clear()

    def _each(self, act: Callable[[RunLog], None]) -> None:
        for name, log in list(self._logs.items()):
            try:
                act(log)
            except Exception as error:  # whatever a server, a disk or a package of another project raises
                del self._logs[name]
                reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
                text = f"{name}: writing its log failed ({reason}); the run goes on without it"
                warnings.warn(text, FastCifarWarning, stacklevel=4)


@contextmanager
def open_logs(names: Iterable[LogName], log_dir: Path, config: TrainConfig) -> Iterator[RunLogs]:
    """Open logs of a run during the block, and close them with the outcome of the block.

    Args:
        names: the programs, each once.
        log_dir: folder for the files of all of them.
        config: the run's configuration, with its run folder.

    Raises:
        ConfigError: a package is not installed.
    """
    logs = RunLogs({name: _open(name, log_dir, config) for name in dict.fromkeys(names)})
    try:
        yield logs
    except (StoppedError, KeyboardInterrupt):
        logs.close("stopped")
        raise
    except BaseException:
        logs.close("failed")
        raise
    logs.close("finished")


def _open(name: LogName, log_dir: Path, config: TrainConfig) -> RunLog:
    with needs_extra(name, f"--log {name}"):
        if name == "tensorboard":
            from fastcifar.report.tensorboard import TensorBoardLog

            return TensorBoardLog(log_dir, config)
        if name == "mlflow":
            from fastcifar.report.mlflow import MLflowLog

            return MLflowLog(log_dir, config)
        from fastcifar.report.wandb import WandbLog

        return WandbLog(log_dir, config)
