"""The recorder of `--dynamics`: keeps what each step computed for its images on the device until the epoch's end."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fastcifar.data.loader import BetonLoader
from fastcifar.runs.dynamics import EpochSamples, require_pyarrow

METRICS = 3
"""Rows of `fastcifar.inference.model.sample_metrics`."""


class SampleRecorder:
    """Keeps loss, margin and predicted class of the images of an epoch's steps. Does nothing unless `enabled`.

    `write` and `keep` copy tensors on the device; only `read` and `state_dict` wait for it.

    Raises:
        ConfigError: it is enabled, and pyarrow, which writes the records, is not installed.
    """

    def __init__(self, loader: BetonLoader, *, enabled: bool) -> None:
        if enabled:
            require_pyarrow("dynamics")  # before the training starts
        self.enabled, self._processes = enabled, loader.processes
        steps, batch_size = (len(loader), loader.batch_size) if enabled else (0, 0)
        self._batch = torch.zeros(METRICS, batch_size, device=loader.device)
        self._epoch = torch.zeros(steps, METRICS, batch_size, device=loader.device)
        self._steps_kept = 0

    def write(self, samples: Tensor | None) -> None:
        """Store the sample metrics of one step, float32 [3, B], where the next step's replace them.

        The tensor is always the same one, as a step that is replayed as a CUDA graph needs it. Of several processes,
        each gives its share and stores the whole batch.
        """
        if samples is not None:
            samples = self._processes.gather(samples.T).T
            self._batch[:, : samples.shape[1]].copy_(samples)

    def keep(self, step: int) -> None:
        """Keep the metrics that were written last, as those of this step of the epoch, counted from 0."""
        if self.enabled:
            self._epoch[step].copy_(self._batch)
            self._steps_kept = step + 1

    def read(self, loader: BetonLoader, epoch_index: int) -> EpochSamples:
        """Return the metrics that were kept in an epoch, counted from 0, in which `loader` gave the images.

        An image that a sampler drew several times has those of its last visit.
        """
        loss, margin, predicted = self._epoch[: self._steps_kept].cpu().transpose(0, 1).flatten(1).numpy()
        visited = loader.order(epoch_index)[: len(loss)].astype(np.int64)
        index, from_the_end = np.unique(visited[::-1], return_index=True)
        last = len(visited) - 1 - from_the_end
        by_position = np.argsort(loader.indices, kind="stable")
        label = loader.labels[by_position[np.searchsorted(loader.indices, index, sorter=by_position)]]
        return EpochSamples(
            index=index, label=label, predicted=predicted[last].astype(np.int64), loss=loss[last], margin=margin[last]
        )

    def state_dict(self, steps: int) -> dict[str, Tensor]:
        """Return the metrics of the first steps of the epoch, for a checkpoint within it."""
        return {"samples": self._epoch[:steps].cpu()} if self.enabled else {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore the metrics that `state_dict` returned."""
        for samples in state.values():
            self._epoch[: len(samples)].copy_(samples)
            self._steps_kept = len(samples)
