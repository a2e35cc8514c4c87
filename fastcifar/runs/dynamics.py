"""The records of `--dynamics` in a run folder: one Parquet file per epoch, with a row per training image."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fastcifar.errors import CheckpointError
from fastcifar.extras import needs_extra
from fastcifar.files import atomic_write

FOLDER = "dynamics"
EPOCH_FILE = re.compile(r"epoch-(\d{4,})\.parquet")

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class EpochSamples:
    """What the forward pass of training gave for each image that an epoch visited, in the order of their positions.

    The values belong to the augmented image and the weights of the step in which the image was trained on.
    """

    index: Ints
    """int64 [N]: position in train.beton, increasing."""
    label: Ints
    """int64 [N]: the label in the file."""
    predicted: Ints
    """int64 [N]: the class with the largest logit."""
    loss: Floats
    """float32 [N]: cross-entropy in nats without label smoothing; exp(-loss) is the probability of the label."""
    margin: Floats
    """float32 [N]: the logit of the label minus the largest other logit."""

    @property
    def correct(self) -> npt.NDArray[np.bool_]:
        """Whether the predicted class is the label, bool [N]."""
        correct: npt.NDArray[np.bool_] = self.predicted == self.label
        return correct


def require_pyarrow(purpose: str) -> tuple[Any, Any]:
    """Import pyarrow, and return it and its module `parquet`.

    Raises:
        ConfigError: it is not installed.
    """
    with needs_extra("parquet", purpose):
        import pyarrow
        from pyarrow import parquet
    return pyarrow, parquet


def epoch_path(run: Path, epoch: int) -> Path:
    """Return the path of the records of an epoch, counted from 1."""
    return run / FOLDER / f"epoch-{epoch:04}.parquet"


def write_epoch(run: Path, epoch: int, samples: EpochSamples) -> None:
    """Write the records of an epoch, counted from 1, completely or not at all.

    The columns are epoch, index, label, predicted, correct, loss and margin.
    """
    pyarrow, parquet = require_pyarrow("dynamics")
    columns = {
        "epoch": np.full(len(samples.index), epoch, dtype=np.int32),
        "index": samples.index,
        "label": samples.label.astype(np.int32),
        "predicted": samples.predicted.astype(np.int32),
        "correct": samples.correct,
        "loss": samples.loss,
        "margin": samples.margin,
    }
    path = epoch_path(run, epoch)
    path.parent.mkdir(exist_ok=True)
    with atomic_write(path, only_writer=True) as temporary:
        parquet.write_table(pyarrow.table(columns), temporary, use_dictionary=["epoch", "label", "predicted"])


def remove_epochs_after(run: Path, epoch: int) -> None:
    """Remove the records of later epochs, which a run that resumes after `epoch` will train again."""
    for number, path in _list_files(run).items():
        if number > epoch:
            path.unlink()


def read_epochs(run: Path) -> Iterator[EpochSamples]:
    """Read the records of a run, one epoch at a time.

    Raises:
        CheckpointError: the folder has none, the file of an epoch is missing, or one is damaged.
        ConfigError: pyarrow is not installed.
    """
    files = _list_files(run)
    if not files:
        raise CheckpointError(
            f"{run}: has no records of its training images ({FOLDER}/epoch-0001.parquet, …); train with --dynamics"
        )
    for epoch in range(1, max(files) + 1):
        if epoch not in files:
            raise CheckpointError(f"{epoch_path(run, epoch)}: is missing, though later epochs are there")
        yield _read_epoch(files[epoch])


def _list_files(run: Path) -> dict[int, Path]:
    """Return the paths of a run's records by epoch."""
    files = {}
    for path in (run / FOLDER).glob("epoch-*.parquet"):
        if match := EPOCH_FILE.fullmatch(path.name):
            files[int(match[1])] = path
    return files


def _read_epoch(path: Path) -> EpochSamples:
    _, parquet = require_pyarrow(str(path))
    try:
        table = parquet.read_table(path, partitioning=None)
        values = {name: table[name].to_numpy() for name in ("index", "label", "predicted", "loss", "margin")}
    except Exception as error:  # a damaged file can raise nearly anything
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path}: cannot be read as the records of an epoch ({reason})") from error
    integers = {name: values.pop(name).astype(np.int64) for name in ("index", "label", "predicted")}
    return EpochSamples(**integers, **values)
