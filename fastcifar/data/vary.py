"""Change a data set in memory: keep some classes, keep a subset, put wrong labels in."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from fastcifar.data.images import ImageSet, Labels, Source
from fastcifar.data.split import stratified_subset
from fastcifar.data.variation import Variation
from fastcifar.errors import ConfigError, DataError, closest

VARIANT = "-variant"
"""The end of the name of a data set that was changed."""


def vary(source: Source, variation: Variation) -> Source:
    """Return a changed data set: first the classes are chosen, then the subset, then the labels are changed.

    The result depends on the content of the source and on the variation alone. `true_labels` are the labels before any
    noise, so that they stay the same if noise is added twice. The labels of the test set are not changed.

    Raises:
        ConfigError: there is no such class, the subset is larger than the training set, or the confusion matrix has
            another number of classes.
    """
    if variation.is_empty:
        return source
    samples = (len(source.train.labels), len(source.test.labels))
    recorded = dataclasses.replace(variation, source_samples=samples)
    if variation.classes:
        names = _split_names(variation.classes, source.class_names)
        source, recorded = _keep_classes(source, names), dataclasses.replace(recorded, classes=names)
    if variation.subset is not None:
        source = _keep_subset(source, stratified_subset(source.train.labels, variation.subset, variation.seed))
    if variation.has_noise:
        true = source.train.labels if source.true_labels is None else source.true_labels
        noisy = _add_noise(source.train.labels, len(source.class_names), variation)
        recorded = dataclasses.replace(recorded, changed_labels=int((noisy != source.train.labels).sum()))
        source = dataclasses.replace(source, train=ImageSet(source.train.images, noisy), true_labels=true)
    name = source.name if source.name.endswith(VARIANT) else source.name + VARIANT
    return dataclasses.replace(source, name=name, variations=(*source.variations, recorded))


def read_confusion(path: Path) -> tuple[tuple[float, ...], ...]:
    """Read a confusion matrix: a CSV file of numbers, or a JSON file with a list of rows.

    Row i has the probabilities of the new labels of images with label i; each row sums to 1.

    Raises:
        DataError: the file cannot be read, or is not such a matrix.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        is_json = path.suffix.lower() == ".json"
        rows: Any = msgspec.json.decode(text) if is_json else [row for row in csv.reader(text.splitlines()) if row]
        matrix = np.array(rows, dtype=np.float64)
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as a confusion matrix ({error}); give rows of numbers") from error
    if matrix.ndim != 2 or len(matrix) < 2 or matrix.shape[0] != matrix.shape[1]:
        raise DataError(f"{path}: a confusion matrix has one row and one column per class, not {list(matrix.shape)}")
    sums = matrix.sum(axis=1)
    wrong = ~((matrix >= 0).all(axis=1) & (np.abs(sums - 1) < 1e-4))  # also true for NaN
    if wrong.any():
        row = int(wrong.argmax())
        raise DataError(f"{path}: each row must have probabilities that sum to 1; row {row + 1} sums to {sums[row]:g}")
    return tuple(map(tuple, (matrix / sums[:, None]).tolist()))


def _split_names(given: tuple[str, ...], known: tuple[str, ...]) -> tuple[str, ...]:
    """Return names that were given one by one, or several in one text with commas between them."""
    parts = [part for text in given for part in ([text] if text in known else text.split(","))]
    return tuple(part.strip() for part in parts)


def _keep_classes(source: Source, names: tuple[str, ...]) -> Source:
    known = source.class_names
    if unknown := next((name for name in names if name not in known), None):
        raise ConfigError(f"classes has {unknown!r}; {source.name} has no such class: {_suggest(unknown, known)}")
    if len(names) < 2 or len(set(names)) < len(names):
        raise ConfigError(f"classes is {', '.join(names)}; it must be at least two different classes")
    if source.true_labels is not None:
        raise ConfigError("classes cannot be chosen from labels with noise: choose them before, or together with it")
    renumbered = np.full(len(known), -1, dtype=np.int64)
    renumbered[[known.index(name) for name in names]] = np.arange(len(names))
    train, test = (_select_labels(split, renumbered) for split in (source.train, source.test))
    for split, kept in (("training", train), ("test", test)):
        if not len(kept.labels):
            raise ConfigError(f"classes is {', '.join(names)}; {source.name} has no {split} image of these classes")
    return dataclasses.replace(source, train=train, test=test, class_names=names)


def _suggest(name: str, known: tuple[str, ...]) -> str:
    near = closest(name, known)
    return f"did you mean {near}?" if near else f"choose from {', '.join(known[:20])}"


def _select_labels(split: ImageSet, renumbered: npt.NDArray[np.int64]) -> ImageSet:
    labels = renumbered[split.labels]
    return ImageSet(split.images[labels >= 0], labels[labels >= 0])


def _keep_subset(source: Source, kept: npt.NDArray[np.int64]) -> Source:
    true = None if source.true_labels is None else source.true_labels[kept]
    train = ImageSet(source.train.images[kept], source.train.labels[kept])
    return dataclasses.replace(source, train=train, true_labels=true)


def _add_noise(labels: Labels, classes: int, variation: Variation) -> Labels:
    """Return changed labels, int64 [N]."""
    generator = np.random.default_rng(np.random.SeedSequence(entropy=variation.seed, spawn_key=(0x5EED, 3)))
    if variation.confusion is not None:
        return _add_confusion(labels, classes, np.array(variation.confusion), generator)
    assert variation.label_noise is not None
    chosen = generator.permutation(len(labels))[: round(variation.label_noise * len(labels))]
    noisy = labels.copy()
    noisy[chosen] = (labels[chosen] + generator.integers(1, classes, len(chosen))) % classes
    return noisy


def _add_confusion(
    labels: Labels, classes: int, matrix: npt.NDArray[np.float64], generator: np.random.Generator
) -> Labels:
    """Draw each label from the row of the old one."""
    if len(matrix) != classes:
        raise ConfigError(f"label_noise is a matrix of {len(matrix)} classes; the data set has {classes}")
    limits = matrix.cumsum(axis=1)[:, :-1]  # without the last one, which rounding may leave below 1
    drawn = generator.random(len(labels))
    noisy: Labels = (drawn[:, None] >= limits[labels]).sum(axis=1)
    return noisy
