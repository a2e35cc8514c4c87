"""`fastcifar write-beton`."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fastcifar.errors import ConfigError
from fastcifar.files import lock_folder
from fastcifar.progress import OnProgress, Progress
from fastcifar.report.progress import ProgressDisplay
from fastcifar.settings import DataSettings

if TYPE_CHECKING:
    from fastcifar.data.images import Source
    from fastcifar.data.variation import Variation


@dataclass(frozen=True, kw_only=True)
class WriteBeton:
    """Convert a data set to train.beton and test.beton, each with a manifest.

    Pictures of any format that Pillow reads become RGB with 8 bits per channel. Transparent pixels become white, 16
    bits are scaled to 8, and pictures are rotated as their EXIF data says.
    """

    source: str = "auto"
    """Data source: the path of a data set or of a folder that contains one at any depth, 'torchvision:NAME' for a data
    set of torchvision such as torchvision:SVHN, 'download', or 'synthetic' for drawn shapes. 'auto' uses the path in
    the environment variable FASTCIFAR_DATA, or else an earlier download, or else downloads CIFAR-10."""
    source_format: str | None = None
    """Format of the source, if a folder has several data sets: cifar10, cifar100, parquet (Hugging Face), kaggle, npz
    (NumPy arrays), image-folder (train/<class>/, test/<class>/) or beton (train.beton, test.beton)."""
    out: Path = DataSettings.data_dir
    """Folder to write to."""
    resize: int | None = None
    """Side in pixels to which pictures are resized; if not given, all must have one size."""
    labels: Literal["fine", "coarse"] = "fine"
    """Labels of CIFAR-100: its 100 fine or its 20 coarse classes."""
    test_fraction: float | None = None
    """Fraction of each class to hold out for test.beton, for a source without a test split; 0.2 if not given."""
    workers: int | None = None
    """Threads or processes that decode pictures; at most one per core."""
    cache: Path = Path("data/cifar10")
    """Folder for the download. If it is not given, data sets of torchvision are in the folder FASTCIFAR_DATA, or else
    in data/torchvision."""
    seed: int = 0
    """Seed of the synthetic images, and of the choice of the test images, the subset and the wrong labels."""
    classes: tuple[str, ...] = ()
    """Classes to keep in both files, by name and in their new order, with commas or spaces between them."""
    subset: float | None = None
    """Training images to keep, the same part of each class: a fraction below 1, or a number. The test set stays
    whole."""
    label_noise: float | Path | None = None
    """Wrong training labels to put in: the fraction of labels that become another class, all others with the same
    probability; or a file (.csv, .json) with a confusion matrix, a row of probabilities per class."""

    def run(self) -> int:
        """Write both files; if another process writes to the folder, after that."""
        with only_writer(self.out):
            self.write()
        return 0

    def write(self) -> None:
        """Write both files, and show the progress."""
        from fastcifar.data.vary import vary
        from fastcifar.data.writer import write_pair

        variation = self._variation()
        with ProgressDisplay() as display:
            display.start("reading the images")
            source = vary(self._open(display.show), variation)
            for note in source.notes:
                print(note, file=sys.stderr)
            total = len(source.train.images) + len(source.test.images)

            def show(done: int) -> None:
                display.show(Progress(task=f"writing {self.out}", done=done, total=total))

            manifests = write_pair(self.out, source, show)
        for split, manifest in zip(("train", "test"), manifests, strict=True):
            size = f"{manifest.file_size / 1e6:.1f} MB"
            print(f"{self.out / split}.beton: {manifest.samples:,} images of {manifest.name}, {size}", flush=True)

    def _variation(self) -> Variation:
        """Return what is to be changed, before anything is read."""
        from fastcifar.data.variation import Variation
        from fastcifar.data.vary import read_confusion

        noise = self.label_noise
        return Variation(
            classes=self.classes,
            subset=self.subset,
            label_noise=None if isinstance(noise, Path) else noise,
            confusion=read_confusion(noise) if isinstance(noise, Path) else None,
            seed=self.seed,
        )

    def _open(self, on_progress: OnProgress) -> Source:
        """Read the source."""
        from fastcifar.data.sources import open_source

        source = open_source(
            self.source,
            source_format=self.source_format,
            cache=self.cache,
            resize=self.resize,
            labels=self.labels,
            test_fraction=self.test_fraction,
            workers=self.workers,
            seed=self.seed,
            on_progress=on_progress,
        )
        if source.origin and _is_pair_in(self.out, Path(source.origin.path)):
            raise ConfigError(f"out is {self.out}, which has the .beton files to read: choose another folder")
        return source


def _is_pair_in(out: Path, origin: Path) -> bool:
    """Tell whether a data set was read from the .beton files that would be replaced."""
    return (origin / "train.beton").exists() and out.exists() and out.samefile(origin)


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Keep other commands from writing a data set to a folder during the block; wait for one that does.

    Folders that were created for the lock are removed again if the block leaves them empty.
    """
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    waiting = f"{folder}: waiting for another process that writes to this folder"
    display = ExitStack()

    def show_wait() -> None:
        print(waiting, file=sys.stderr, flush=True)
        display.enter_context(ProgressDisplay()).start(waiting)

    try:
        with display, lock_folder(folder, on_wait=show_wait, name=".write-beton.lock"):
            display.close()
            yield
    finally:
        with contextlib.suppress(OSError):  # not empty
            for path in created:
                path.rmdir()
