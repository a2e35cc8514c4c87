"""A log of a run for TensorBoard."""

from __future__ import annotations

import json
from pathlib import Path

from fastcifar.config import TrainConfig
from fastcifar.errors import ConfigError
from fastcifar.runs.results import EpochResult


class TensorBoardLog:
    """Writes a run's settings and results as TensorBoard events. A context manager that closes the event file."""

    def __init__(self, folder: Path, config: TrainConfig) -> None:
        """Start an event file in a folder, which is created if missing. TensorBoard shows it instead of earlier ones.

        Raises:
            ConfigError: TensorBoard is not installed.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ConfigError(
                f"TensorBoard is not installed ({error}); pip install 'fastcifar[tensorboard]', or leave out --log-dir"
            ) from error
        self._writer = SummaryWriter(str(folder), purge_step=0)
        self._writer.add_text("config", f"```json\n{json.dumps(config.to_json(), indent=2)}\n```")

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

    def __enter__(self) -> TensorBoardLog:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()
