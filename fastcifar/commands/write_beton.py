"""`fastcifar write-beton`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from fastcifar.data.images import ImageSet


@dataclass(frozen=True, kw_only=True)
class WriteBeton:
    """Turn a set of images into train.beton and test.beton, with a manifest beside each."""

    source: str = "auto"
    """A torchvision root, a folder of CIFAR-10's python or binary version, its archive, an image folder
    (train/<class>/*.png, test/<class>/*.png), 'download', or 'synthetic' for made-up shapes. 'auto' takes the folder
    named by FASTCIFAR_DATA, else a copy fetched before, else the download."""
    out: Path = Path("data/betons")
    """Folder to write to."""
    resize: int | None = None
    """Resize an image folder's pictures to this many pixels a side; without it, two sizes are an error."""
    workers: int | None = None
    """Threads that decode an image folder's pictures; never more than the cores."""
    cache: Path = Path("data/cifar10")
    """Where the download is kept."""
    seed: int = 0
    """Of the synthetic pictures."""

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
        manifest = write_beton(
            path,
            images.images,
            images.labels,
            class_names=class_names,
            name=name,
            progress=lambda done: bar.update(task, completed=done),
        )
    print(f"{path}: {manifest.samples:,} images of {manifest.name}, {manifest.file_size / 1e6:.1f} MB", flush=True)
