"""Work that replaces files: after any fault in it, the old or the new files must be there, whole."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

from fastcifar import get_recipe
from fastcifar.data.manifest import open_beton
from fastcifar.data.synthetic import SHAPES, draw_synthetic
from fastcifar.data.writer import write_beton
from fastcifar.errors import CheckpointError, FastCifarError
from fastcifar.runs.checkpoint import checkpoint_path, newest_checkpoint, read_checkpoint
from fastcifar.runs.read import read_config, read_metrics
from fastcifar.training.loop import fit_epochs
from fastcifar.training.resume import restore
from fastcifar.training.state import create_state
from tests.helpers import write_pair


class Replacement(ABC):
    """Work that replaces files in a folder."""

    name: str

    @abstractmethod
    def prepare(self, folder: Path) -> None:
        """Write the old files."""

    @abstractmethod
    def replace(self, folder: Path) -> None:
        """Replace them with the new files."""

    @abstractmethod
    def find(self, folder: Path) -> str:
        """Return "old" or "new" for the files that are there, or a description of their damage."""


class WriteBeton(Replacement):
    """`write_beton` of 80 images over a .beton of 60 images."""

    name = "write-beton"

    def prepare(self, folder: Path) -> None:
        write_pair(folder, train=60, test=10)

    def replace(self, folder: Path) -> None:
        images, labels = draw_synthetic(train=80, test=10, seed=1)[0]
        write_beton(folder / "train.beton", images, labels, class_names=tuple(SHAPES), name="synthetic")

    def find(self, folder: Path) -> str:
        try:
            _, manifest = open_beton(folder / "train.beton")
        except FastCifarError as error:
            return f"refused: {error}"
        return {60: "old", 80: "new"}[manifest.samples]


class ResumedEpoch(Replacement):
    """The second epoch of a training that is resumed after its first."""

    name = "train"

    def prepare(self, folder: Path) -> None:
        write_pair(folder, train=60, test=10)
        self._train(folder, stop_after=1)

    def replace(self, folder: Path) -> None:
        self._train(folder, stop_after=2)

    def _train(self, folder: Path, stop_after: int) -> None:
        run = folder / "run"
        config = get_recipe(
            "dilated-cnn", data_dir=folder, run_dir=run, batch_size=20, epochs=2, device="cpu", workers=1
        )  # fmt: skip
        with create_state(config) as state:
            if checkpoint_path(run, "last").exists():
                restore(run, state)
            for result in fit_epochs(state):
                if result.epoch == stop_after:
                    return

    def find(self, folder: Path) -> str:
        run = folder / "run"
        read_config(run)
        try:
            for checkpoint in ("last", "best"):
                read_checkpoint(checkpoint_path(run, checkpoint))
            _, values, _ = newest_checkpoint(run)
        except CheckpointError as error:
            return f"refused: {error}"
        kept = values["progress"]["epochs_done"]
        if (reported := len(read_metrics(run))) > kept:
            return f"{reported} epochs were reported, {kept} are kept"
        return {1: "old", 2: "new"}[kept]
