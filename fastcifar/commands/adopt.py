"""`fastcifar adopt`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from fastcifar.checks import AT_LEAST_1, check
from fastcifar.errors import ConfigError
from fastcifar.progress import Progress
from fastcifar.report.progress import ProgressDisplay

if TYPE_CHECKING:
    from fastcifar.data.manifest import Manifest


@dataclass(frozen=True, kw_only=True)
class Adopt:
    """Make a manifest for a .beton that FFCV's own writer wrote, so that it can be trained on.

    The file needs one RGB image and one integer per sample, under any names, with uncompressed pixels of one size.
    --rewrite takes JPEG images, several sizes and other fields, too.
    """

    file: Annotated[Path, tyro.conf.Positional]
    """The .beton file, which does not change."""
    class_names: tuple[str, ...] = ()
    """Names of the classes, in the order of their labels; if not given, CIFAR-10's for its images, otherwise digits."""
    name: str | None = None
    """Name of the data set; that of the file if not given."""
    rewrite: Path | None = None
    """Write a copy with uncompressed pixels to this file, such as data/mine/train.beton. An existing file is
    replaced."""
    resize: int | None = None
    """With --rewrite, side in pixels to which the images are resized; if not given, all must have one size."""

    image_field: str | None = None
    """With --rewrite, name of the field of the images, if there are several and none is called image or img."""
    label_field: str | None = None
    """With --rewrite, name of the field of the labels, if there are several integers and none is called label or
    target."""

    def __post_init__(self) -> None:
        check(self, resize=AT_LEAST_1)
        for name in ("resize", "image_field", "label_field"):
            if self.rewrite is None and getattr(self, name) is not None:
                raise ConfigError(f"{name} is {getattr(self, name)}; it needs --rewrite")

    def run(self) -> int:
        """Write the manifest, or the copy with its manifest."""
        from fastcifar.data.adopt import adopt

        if self.rewrite is None:
            path, manifest = self.file, adopt(self.file, class_names=self.class_names, name=self.name)
        else:
            path, manifest = self.rewrite, self._rewrite(self.rewrite)
        print(f"{path}: {manifest.samples:,} images of {manifest.name}, {len(manifest.class_names)} classes")
        if path.name not in ("train.beton", "test.beton"):
            print("To train on it, call the files of a data set train.beton and test.beton, in one folder")
        return 0

    def _rewrite(self, target: Path) -> Manifest:
        from fastcifar.data.adopt import rewrite
        from fastcifar.machine import usable_cores

        with ProgressDisplay() as display:
            display.start("reading the images")
            return rewrite(
                self.file,
                target,
                class_names=self.class_names,
                name=self.name,
                image_field=self.image_field,
                label_field=self.label_field,
                resize=self.resize,
                workers=usable_cores(),
                on_progress=display.show,
                on_written=lambda done: display.show(Progress(task=f"writing {target}", done=done, total=None)),
            )
