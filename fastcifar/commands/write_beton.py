"""`fastcifar write-beton`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

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

        source = open_source(self.source, cache=self.cache, resize=self.resize, workers=self.workers, seed=self.seed)
        for split, images in (("train", source.train), ("test", source.test)):
            _write_split(self.out / f"{split}.beton", images, source.class_names, source.name)
        return 0


def _write_split(path: Path, images: ImageSet, class_names: tuple[str, ...], name: str) -> None:
    from rich.progress import Progress

    from fastcifar.data.writer import write_beton

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"{path}", total=len(images.images))

        def show(done: int) -> None:
            bar.update(task, completed=done)

        manifest = write_beton(path, images.images, images.labels, class_names=class_names, name=name, progress=show)
    print(f"{path}: {manifest.samples:,} images of {manifest.name}, {manifest.file_size / 1e6:.1f} MB", flush=True)
