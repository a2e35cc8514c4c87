"""A log of a run for Weights & Biases: files that `wandb sync` uploads, or directly with WANDB_MODE=online."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any

from fastcifar.config import TrainConfig
from fastcifar.report.run_log import Outcome
from fastcifar.runs.log_position import LogPosition, read_position, write_position
from fastcifar.runs.results import EpochResult


class WandbLog:
    """Writes a run's settings as its config, and the results of each epoch with the epoch as their step.

    The run begins with the first epoch. Its project is the one that WANDB_PROJECT names, or "fastcifar".
    """

    def __init__(self, log_dir: Path, config: TrainConfig) -> None:
        """Write into `log_dir`/wandb, where each run has a folder of its own.

        Raises:
            ImportError: wandb is not installed.
        """
        import wandb

        assert config.run_dir is not None
        self._wandb, self._log_dir = wandb, log_dir
        self._config, self._run_dir = config, config.run_dir
        self._position: LogPosition | None = None
        self._run: Any = None

    def epoch(self, result: EpochResult) -> None:
        """Write the values of an epoch that is not there yet."""
        position = self._position or self._start()
        if result.epoch > position.epoch:
            values = {name: value for name, value in result.to_json().items() if value is not None}
            self._run.log(values, step=result.epoch)
            position = LogPosition(id=position.id, epoch=result.epoch)
            write_position(self._run_dir, "wandb", position)
        self._position = position

    def close(self, outcome: Outcome) -> None:
        """Finish the run; one that was stopped or failed is shown as crashed."""
        if self._run is not None:
            self._run.finish(exit_code=0 if outcome == "finished" else 1)

    def _start(self) -> LogPosition:
        """Continue the run of this run folder, or create one."""
        position = read_position(self._run_dir, "wandb") or LogPosition(id=secrets.token_hex(4))
        self._log_dir.mkdir(parents=True, exist_ok=True)
        self._run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", "fastcifar"),
            name=self._run_dir.resolve().name,
            id=position.id,
            resume="allow",
            mode=os.environ.get("WANDB_MODE", "offline"),
            dir=self._log_dir,
            config=self._config.to_json(),
            settings=self._wandb.Settings(silent=True, console="off"),
        )
        return position
