"""A log of a run for TensorBoard."""

from __future__ import annotations

import hashlib
import itertools
import os
from pathlib import Path

from fastcifar.config import TrainConfig
from fastcifar.files import dump_json
from fastcifar.report.run_log import Outcome
from fastcifar.runs.results import EpochResult


class TensorBoardLog:
    """Writes a run's settings and results as TensorBoard events."""

    def __init__(self, log_dir: Path, config: TrainConfig) -> None:
        """Start an event file in the run's own folder in `log_dir`, which has the name of the run folder.

        If the run has an event file there, because it is resumed, TensorBoard shows the new one instead.

        Raises:
            ImportError: TensorBoard is not installed.
        """
        from torch.utils.tensorboard import SummaryWriter

        assert config.run_dir is not None
        run_dir = config.run_dir.resolve()
        suffix = f".{hashlib.sha256(os.fsencode(run_dir)).hexdigest()[:8]}"
        folder = _own_folder(log_dir, run_dir.name, suffix)
        self._writer = SummaryWriter(str(folder), purge_step=0, filename_suffix=suffix)
        self._writer.add_text("config", f"```json\n{dump_json(config.to_json(), indent=2)}\n```")

    def epoch(self, result: EpochResult) -> None:
        """Log an epoch's numbers as scalars and its strings as text, with the names that they have in metrics.jsonl.

        Missing values, such as the accuracy with test-time augmentation before the last epoch, are left out.
        """
        for name, value in result.to_json().items():
            if isinstance(value, str):
                self._writer.add_text(name, value, result.epoch)
            elif value is not None:
                self._writer.add_scalar(name, value, result.epoch)
        self._writer.flush()

    def close(self, outcome: Outcome) -> None:
        """Close the event file; TensorBoard has no place for the outcome."""
        self._writer.close()


def _own_folder(log_dir: Path, name: str, suffix: str) -> Path:
    """Return the folder of a run, whose files end in `suffix`: NAME, or NAME-2, … if another run has that one."""
    folders = (log_dir / (name if number == 1 else f"{name}-{number}") for number in itertools.count(1))
    return next(folder for folder in folders if not folder.exists() or any(folder.glob(f"*{suffix}")))
