"""train.beton and test.beton belong together: both are replaced or none, and files of different data are refused."""

from __future__ import annotations

import dataclasses
import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastcifar import TrainConfig, fit_epochs
from fastcifar.data.images import ImageSet, Origin, Source
from fastcifar.data.manifest import open_beton
from fastcifar.data.pair import read_pair
from fastcifar.data.writer import write_beton, write_pair
from fastcifar.errors import DataError


def _images(count: int, size: int = 8, value: int = 0) -> ImageSet:
    images = np.full((count, size, size, 3), value, dtype=np.uint8)
    return ImageSet(images, np.arange(count, dtype=np.int64) % 2)


def _source(value: int, *names: str) -> Source:
    return Source(train=_images(6, value=value), test=_images(4, value=value), class_names=names, name="made")


@pytest.mark.parametrize(
    ("size", "names", "message"),
    [
        (8, ("cat", "dog", "emu"), r"they have 2 and 3 classes \(only test has emu\)"),
        (8, ("cat", "emu"), r"they have 2 and 2 classes \(only train has dog; only test has emu\)"),
        (8, ("dog", "cat"), r"they have the same classes in another order \(cat, dog; dog, cat\)"),
        (16, ("cat", "dog"), "their images are 8 × 8 and 16 × 16 pixels"),
    ],
)
def test_files_that_do_not_belong_together_are_refused_before_the_training(
    tmp_path: Path, config: TrainConfig, size: int, names: tuple[str, ...], message: str
) -> None:
    for split, image_size, class_names in (("train", 8, ("cat", "dog")), ("test", size, names)):
        write_beton(tmp_path / f"{split}.beton", *_images(40, image_size), class_names=class_names, name="made")
    with pytest.raises(DataError, match=rf"train\.beton and .*test\.beton do not belong together: {message}"):
        next(fit_epochs(config.replace(data_dir=tmp_path)))


def test_a_pair_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    write_pair(tmp_path, _source(1, "cat", "dog"))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    counts: list[int] = []

    def full(done: int) -> None:
        counts.append(done)
        if done > 6:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match="No space left"):
        write_pair(tmp_path, _source(2, "cat", "dog"), full)
    assert counts == [6, 10], "both files are counted"
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    read_pair(tmp_path)


def test_a_pair_of_the_same_source_stays_if_it_is_whole(tmp_path: Path) -> None:
    def inodes() -> list[int]:
        return [(tmp_path / f"{split}.beton").stat().st_ino for split in ("train", "test")]

    written = write_pair(tmp_path, _source(1, "cat", "dog"))
    before = inodes()
    assert write_pair(tmp_path, _source(1, "cat", "dog")) == written
    assert inodes() == before
    for change in ({"class_names": ("cat", "emu")}, {"origin": Origin(path="/elsewhere", fingerprint="1")}):
        write_pair(tmp_path, dataclasses.replace(_source(1, "cat", "dog"), **change))
        assert not set(inodes()) & set(before)
        before = inodes()
    (tmp_path / "test.beton").write_bytes(b"damaged")
    write_pair(
        tmp_path, dataclasses.replace(_source(1, "cat", "dog"), origin=Origin(path="/elsewhere", fingerprint="1"))
    )
    read_pair(tmp_path)
    open_beton(tmp_path / "test.beton")


@pytest.mark.parametrize("renames", range(7))
def test_a_writer_that_is_stopped_leaves_no_mixed_pair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    """Its six renames: of two new manifests beside the old ones, of two .betons, of the manifests to their places."""
    write_pair(tmp_path, _source(1, "cat", "dog"))
    rename, done = os.replace, []

    def stopped(source: Any, target: Any) -> None:
        if len(done) == renames:
            raise OSError(errno.EIO, "gone", str(target))
        done.append(target)
        rename(source, target)

    monkeypatch.setattr(os, "replace", stopped)
    if renames < 6:
        with pytest.raises(OSError, match="gone"):
            write_pair(tmp_path, _source(2, "cat", "dog"))
    else:
        write_pair(tmp_path, _source(2, "cat", "dog"))
    monkeypatch.undo()
    values = {int(open_beton(tmp_path / f"{split}.beton")[0].images([0])[0, 0, 0, 0]) for split in ("train", "test")}
    if renames == 3:
        with pytest.raises(DataError, match="a writer was stopped between them"):
            read_pair(tmp_path)
    else:
        read_pair(tmp_path)
        assert values == ({1} if renames < 3 else {2})
    write_pair(tmp_path, _source(3, "cat", "dog"))
    read_pair(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "test.beton", "test.beton.json", "train.beton", "train.beton.json",
    ]  # fmt: skip


def test_one_file_of_a_pair_may_be_replaced_by_other_images_of_the_same_classes(tmp_path: Path) -> None:
    write_pair(tmp_path, _source(1, "cat", "dog"))
    write_beton(tmp_path / "train.beton", *_images(8, value=9), class_names=("cat", "dog"), name="mine")
    assert [manifest.samples for manifest in read_pair(tmp_path)] == [8, 4]
