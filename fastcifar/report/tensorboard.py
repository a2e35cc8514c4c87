"""A run in TensorBoard."""

from __future__ import annotations

import json
from pathlib import Path

from fastcifar.config import TrainConfig
from fastcifar.errors import ConfigError
from fastcifar.runs.results import EpochResult


class TensorBoardLog:
    """Writes a run's settings and its results as events. A context manager, which ends the file."""

    def __init__(self, folder: Path, config: TrainConfig) -> None:
        """Begin a file of events in `folder`, which is made if it is missing; it stands in place of earlier ones there.

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
        """Keep an epoch: its numbers as scalars, its words as text, under the names they have in metrics.jsonl.

        What an epoch does not have, such as the accuracy with test-time augmentation before the last, leaves no point.
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
