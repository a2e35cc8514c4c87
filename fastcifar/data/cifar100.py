"""The published forms of CIFAR-100: python version, binary version."""

from __future__ import annotations

from pathlib import Path

from fastcifar.data.images import Source
from fastcifar.data.official import LabelKind, Version, join_batches, read_batch, read_lines, read_names, read_records

SPLITS = ("train", "test")
LABEL_KINDS = ("coarse", "fine")
"""The order of the two labels in a binary record."""


def _read_python(folder: Path, labels: LabelKind) -> Source:
    names = read_names(folder / "meta", f"{labels}_label_names")
    train, test = (join_batches([read_batch(folder / split, len(names), f"{labels}_labels")]) for split in SPLITS)
    return Source(train=train, test=test, class_names=names, name="cifar-100-python")


def _read_binary(folder: Path, labels: LabelKind) -> Source:
    names = read_lines(folder / f"{labels}_label_names.txt")
    position = LABEL_KINDS.index(labels)
    train, test = (
        join_batches([read_records(folder / f"{split}.bin", len(names), len(LABEL_KINDS), position)])
        for split in SPLITS
    )
    return Source(train=train, test=test, class_names=names, name="cifar-100-binary")


PYTHON = Version(
    title="CIFAR-100's python version",
    folder="cifar-100-python",
    archive="cifar-100-python.tar.gz",
    files=(*SPLITS, "meta"),
    read=_read_python,
)
BINARY = Version(
    title="CIFAR-100's binary version",
    folder="cifar-100-binary",
    archive="cifar-100-binary.tar.gz",
    files=(*(f"{split}.bin" for split in SPLITS), *(f"{kind}_label_names.txt" for kind in LABEL_KINDS)),
    read=_read_binary,
)
