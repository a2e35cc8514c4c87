"""A variation of a data set: some of its classes, a subset of its training images, wrong labels put in on purpose."""

from __future__ import annotations

from dataclasses import dataclass

from fastcifar.checks import ABOVE_0_TO_1, NOT_NEGATIVE, SUBSET, check


@dataclass(frozen=True, kw_only=True)
class Variation:
    """What was changed, in this order: classes, then the subset, then the labels. Only classes concern the test set."""

    classes: tuple[str, ...] = ()
    """The classes that were kept, in their new order; all if empty."""
    subset: float | None = None
    """Training images that were kept: a fraction, or a number from 1 on."""
    label_noise: float | None = None
    """Fraction of the training labels that were replaced by another class."""
    confusion: tuple[tuple[float, ...], ...] | None = None
    """[K, K], row by row: the probability of each new label, given the old one."""
    seed: int = 0
    """Seed of both random choices."""
    changed_labels: int = 0
    """Number of training labels that were changed."""
    source_samples: tuple[int, ...] = ()
    """Training and test images before the change."""

    def __post_init__(self) -> None:
        check(self, subset=SUBSET, label_noise=ABOVE_0_TO_1, seed=NOT_NEGATIVE)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is changed."""
        return not (self.classes or self.subset or self.has_noise)

    @property
    def has_noise(self) -> bool:
        """Whether labels are changed."""
        return self.label_noise is not None or self.confusion is not None

    def describe(self) -> str:
        """Return the changes in words, such as "subset 0.1, seed 0"."""
        parts = [f"{len(self.classes)} classes"] if self.classes else []
        parts += [describe_subset(self.subset)] if self.subset is not None else []
        parts += [f"label noise {self.label_noise:g}"] if self.label_noise is not None else []
        parts += [f"{self.changed_labels:,} labels changed by a confusion matrix"] if self.confusion is not None else []
        return ", ".join([*parts, f"seed {self.seed}"] if self.subset or self.has_noise else parts)


def describe_subset(size: float) -> str:
    """Return a subset's size in words: "subset 0.1" or "subset of 5,000 images"."""
    return f"subset {size:g}" if size < 1 else f"subset of {int(size):,} images"
