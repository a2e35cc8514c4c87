"""Train one configuration from many seeds in one process: opened, compiled and captured once."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from fastcifar.config import TrainConfig
from fastcifar.runs.checkpoint import has_checkpoint
from fastcifar.runs.results import EpochResult
from fastcifar.training.loop import CheckpointPolicy, OnStep, run_epochs
from fastcifar.training.out_of_memory import explain_out_of_memory
from fastcifar.training.reset import reset
from fastcifar.training.resume import restore
from fastcifar.training.signals import GracefulStop
from fastcifar.training.state import TrainState, create_state
from fastcifar.training.warmup import WarmUp, warm_up


class SeedTrainer:
    """Trains a configuration from one seed after the other. A context manager that closes the data.

    Each run has the results of a separate run from its seed. Only the first one compiles, and with `keep_data` only the
    first one reads the images that are cached on the device; times of later runs leave both out. `checkpoints` tells
    after which epochs a run folder gets a checkpoint.
    """

    def __init__(self, config: TrainConfig, *, checkpoints: CheckpointPolicy = "none", keep_data: bool = True) -> None:
        self.config, self._checkpoints, self._keep_data = config, checkpoints, keep_data
        self._state: TrainState | None = None
        self._warmed_up: WarmUp | None = None

    def prepare(self, seed: int, run_dir: Path | None = None) -> TrainState:
        """Return the state of the run from a seed, for `fit_epochs`; it is valid until the next call.

        If the folder has a checkpoint of that run, the run goes on from there.

        Raises:
            FastCifarError: bad input, as one of its subclasses.
        """
        config = self.config.replace(seed=seed, run_dir=run_dir)
        if self._state is None:
            self._state = create_state(config)
        elif not self._reset(self._state, config):
            self.close()
            self._state = create_state(config)
        if run_dir is not None and has_checkpoint(run_dir):
            self._warmed_up = None  # its graphs would change the optimizer's tensors from before
            restore(run_dir, self._state)
        return self._state

    def fit_epochs(self, *, on_step: OnStep | None = None, stop: GracefulStop | None = None) -> Iterator[EpochResult]:
        """Train the run that was prepared, as `fastcifar.fit_epochs` does."""
        assert self._state is not None, "call `prepare` first"
        if self._warmed_up is None:
            with explain_out_of_memory(self._state):
                warmed_up = self._warmed_up = warm_up(self._state)
        else:
            warmed_up = dataclasses.replace(self._warmed_up, seconds=0.0)
        yield from run_epochs(
            self._state, on_step=on_step, stop=stop, warmed_up=warmed_up, checkpoints=self._checkpoints
        )

    def _reset(self, state: TrainState, config: TrainConfig) -> bool:
        """Reset the state; return whether its buffers and graphs fit, since the split of a seed may have more steps."""
        steps = len(state.train_loader)
        reset(state, config, keep_data=self._keep_data)
        return len(state.train_loader) == steps

    def close(self) -> None:
        """End the loaders' threads, and free memory."""
        if self._state is not None:
            self._state.close()
        self._state = self._warmed_up = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
