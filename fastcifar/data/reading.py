"""What the readers of all source formats share: their options, the default class names, and a test split."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fastcifar.checks import AT_LEAST_1, NOT_NEGATIVE, check
from fastcifar.data.cifar10 import CLASSES
from fastcifar.data.images import ImageSet, Source
from fastcifar.data.manifest import CIFAR10_CONTENT, dataset_sha256
from fastcifar.data.official import LabelKind
from fastcifar.data.split import stratified_split
from fastcifar.errors import ConfigError, DataError
from fastcifar.progress import OnProgress

DEFAULT_TEST_FRACTION = 0.2


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How a source is read."""

    resize: int | None = None
    """Pixels per side that pictures are resized to; if None, all must have one size."""
    workers: int = 1
    """Threads or processes that decode pictures."""
    labels: LabelKind = "fine"
    """Which of CIFAR-100's labels to read."""
    test_fraction: float | None = None
    """Fraction of each class to hold out as the test split of a source that has none; a fifth if None."""
    seed: int = 0
    """Seed of that choice."""
    on_progress: OnProgress | None = None

    def __post_init__(self) -> None:
        above_0_below_1 = (lambda value: 0 < value < 1, "above 0 and below 1")
        check(self, resize=AT_LEAST_1, workers=AT_LEAST_1, test_fraction=above_0_below_1, seed=NOT_NEGATIVE)

    def make_source(self, train: ImageSet, test: ImageSet | None, *, class_names: tuple[str, ...], name: str) -> Source:
        """Return a source. Where it has no test split, a part of each class of the training images becomes one.

        Raises:
            ConfigError: `test_fraction` is given for a source that has a test split, or leaves a split empty.
            DataError: the images of the two splits have different sizes.
        """
        if test is not None:
            sizes = [f"{split.images.shape[1]} × {split.images.shape[2]}" for split in (train, test)]
            if sizes[0] != sizes[1]:
                raise DataError(f"{name}: the training images are {sizes[0]} pixels, the test images {sizes[1]}")
            if self.test_fraction is not None:
                raise ConfigError(
                    f"test_fraction is {self.test_fraction}; leave it out, since this source ({name}) has a test split"
                )
            return Source(train=train, test=test, class_names=class_names, name=name)
        fraction = self.test_fraction or DEFAULT_TEST_FRACTION
        kept, tested = stratified_split(train.labels, fraction, self.seed)
        note = (
            f"{name} has no test split with labels: {len(tested):,} of its {len(train.labels):,} images "
            f"({100 * fraction:g} % of each class, seed {self.seed}) become test.beton; choose with --test-fraction"
        )
        train, test = (ImageSet(train.images[part], train.labels[part]) for part in (kept, tested))
        return Source(train=train, test=test, class_names=class_names, name=name, notes=(note,))


def default_class_names(train: ImageSet, classes: int) -> tuple[str, ...]:
    """Return the names of classes in a source that does not name them: CIFAR-10's for its images, otherwise digits."""
    if classes == len(CLASSES) and dataset_sha256(*train) in CIFAR10_CONTENT.values():
        return CLASSES
    return tuple(map(str, range(classes)))


def count_classes(*splits: ImageSet | None) -> int:
    """Return the number of classes of a source that does not name them: its largest label plus 1."""
    return 1 + max(int(np.max(split.labels)) for split in splits if split is not None)
