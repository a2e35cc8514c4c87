"""`fastcifar write-beton`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastcifar.progress import Progress
from fastcifar.report.progress import ProgressDisplay
from fastcifar.settings import DataSettings

if TYPE_CHECKING:
    from fastcifar.data.images import ImageSet


@dataclass(frozen=True, kw_only=True)
class WriteBeton:
    """Convert a data set to train.beton and test.beton, each with a manifest."""

    source: str = "auto"
    """Data source: a torchvision root, a folder with CIFAR-10's python or binary version, its archive, an image folder
    (train/<class>/*.png, test/<class>/*.png), 'download', or 'synthetic' for drawn shapes. 'auto' uses the folder in
    the environment variable FASTCIFAR_DATA, or else an earlier download, or else downloads CIFAR-10."""
    out: Path = DataSettings.data_dir
    """Folder to write to."""
    resize: int | None = None
    """Side in pixels to which the images of an image folder are resized; if not given, all must have one size."""
    workers: int | None = None
    """Threads that decode the images of an image folder; at most one per core."""
    cache: Path = Path("data/cifar10")
    """Folder for the download."""
    seed: int = 0
    """Seed of the synthetic images."""

    def run(self) -> int:
        """Write both files."""
        from fastcifar.data.sources import open_source

        options: dict[str, Any] = {"cache": self.cache, "resize": self.resize, "workers": self.workers, "seed": self.seed}
        with ProgressDisplay() as display:
            display.start("reading the images")
            source = open_source(self.source, on_progress=display.show, **options)
            for split, images in (("train", source.train), ("test", source.test)):
                _write_split(self.out / f"{split}.beton", images, source.class_names, source.name, display)
        return 0


def _write_split(
    path: Path, images: ImageSet, class_names: tuple[str, ...], name: str, display: ProgressDisplay
) -> None:
    from fastcifar.data.writer import write_beton

    def show(done: int) -> None:
        display.show(Progress(task=f"writing {path}", done=done, total=len(images.images)))

    manifest = write_beton(path, images.images, images.labels, class_names=class_names, name=name, progress=show)
    print(f"{path}: {manifest.samples:,} images of {manifest.name}, {manifest.file_size / 1e6:.1f} MB", flush=True)
