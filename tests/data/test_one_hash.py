"""The real CIFAR-10 gives the same images and labels from every form in which people have it."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastcifar.data import cifar10
from fastcifar.data.images import ImageSet, Source
from fastcifar.data.manifest import CIFAR10_CONTENT, dataset_sha256
from fastcifar.data.sources import open_source
from tests.data.cifar_files import write_npz


@pytest.fixture(scope="module")
def original() -> Source:
    """CIFAR-10 from FASTCIFAR_DATA."""
    if not (named := os.environ.get("FASTCIFAR_DATA")):
        pytest.skip("FASTCIFAR_DATA is not set")
    return open_source(named)


def _few(source: Source) -> list[tuple[str, ImageSet]]:
    """The first 2,000 images of each split, for forms with a file per image."""
    return [(name, ImageSet(split.images[:2000], split.labels[:2000])) for name, split in _splits(source)]


def _splits(source: Source) -> list[tuple[str, ImageSet]]:
    return [("train", source.train), ("test", source.test)]


def _png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="PNG", compress_level=1)
    return file.getvalue()


def _write_binary(root: Path, source: Source) -> None:
    (root / "cifar-10-batches-bin").mkdir()
    (root / "cifar-10-batches-bin" / "batches.meta.txt").write_text("\n".join(cifar10.CLASSES))
    batches = [f"data_batch_{number}.bin" for number in range(1, 6)]
    for names, split in ((batches, source.train), (["test_batch.bin"], source.test)):
        planes = split.images.transpose(0, 3, 1, 2).reshape(len(split.images), -1)
        records = np.column_stack([split.labels.astype(np.uint8), planes])
        for name, part in zip(names, np.array_split(records, len(names)), strict=True):
            (root / "cifar-10-batches-bin" / name).write_bytes(part.tobytes())


def _write_nested(root: Path, source: Source) -> None:
    _write_binary(root, source)
    folder = root / "cifar" / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    (root / "cifar-10-batches-bin").rename(folder / "cifar-10-batches-bin")


def _write_keras(root: Path, source: Source) -> None:
    train, test = source.train, source.test
    labels = {"y_train": train.labels[:, None], "y_test": test.labels[:, None]}
    write_npz(root / "datasets" / "cifar10.npz", x_train=train.images, x_test=test.images, **labels)


def _write_parquet(root: Path, source: Source) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    for name, split in _splits(source):
        rows = [{"bytes": _png(image), "path": None} for image in split.images]
        parquet.write_table(
            pyarrow.table({"img": rows, "label": split.labels}), root / f"{name}-00000-of-00001.parquet"
        )


def _write_table(root: Path, source: Source) -> None:
    rows = ["path,label,split"]
    for name, split in _few(source):
        (root / name).mkdir()
        for index, (image, label) in enumerate(zip(*split, strict=True)):
            (root / name / f"{index}.png").write_bytes(_png(image))
            rows.append(f"{name}/{index}.png,{cifar10.CLASSES[label]},{name}")
    (root / "labels.csv").write_text("\n".join(rows))


def _write_image_folder(root: Path, source: Source) -> None:
    for name, split in _few(source):
        for class_name in cifar10.CLASSES:
            (root / name / class_name).mkdir(parents=True)
        for index, (image, label) in enumerate(zip(*split, strict=True)):
            (root / name / cifar10.CLASSES[label] / f"{index:05}.png").write_bytes(_png(image))


def _write_kaggle(root: Path, source: Source) -> None:
    (root / "train").mkdir()
    rows = ["id,label"]
    for number, (image, label) in enumerate(zip(*dict(_few(source))["train"], strict=True), start=1):
        (root / "train" / f"{number}.png").write_bytes(_png(image))
        rows.append(f"{number},{cifar10.CLASSES[label]}")
    (root / "trainLabels.csv").write_text("\n".join(rows))


@pytest.mark.cifar
@pytest.mark.slow
@pytest.mark.parametrize("write", [_write_binary, _write_nested, _write_keras, _write_parquet])
def test_forms_that_keep_the_official_order_give_the_official_content(
    tmp_path: Path, original: Source, write: Callable[[Path, Source], None]
) -> None:
    assert dataset_sha256(*original.train) == CIFAR10_CONTENT["train"]
    write(tmp_path, original)
    opened = open_source(tmp_path)
    assert opened.name != original.name
    assert opened.class_names == cifar10.CLASSES
    for name, split in _splits(opened):
        assert dataset_sha256(*split) == CIFAR10_CONTENT[name], name
    shutil.rmtree(tmp_path)


@pytest.mark.cifar
@pytest.mark.slow
@pytest.mark.parametrize("write", [_write_table, _write_image_folder, _write_kaggle])
def test_forms_of_another_order_or_split_hold_the_same_samples(
    tmp_path: Path, original: Source, write: Callable[[Path, Source], None]
) -> None:
    """An image folder is sorted by class; Kaggle's form has only the training images, and a part becomes the test."""
    write(tmp_path, original)
    opened = open_source(tmp_path)
    train, test = (split for _, split in _few(original))
    assert set(opened.class_names) == set(original.class_names)
    if write is _write_kaggle:
        assert _sorted_sha256(opened.train, opened.test) == _sorted_sha256(train)
    else:
        assert _sorted_sha256(opened.train) == _sorted_sha256(train)
        assert _sorted_sha256(opened.test) == _sorted_sha256(test)
    if write is _write_table:  # keeps the order of its rows
        assert dataset_sha256(*opened.train) == dataset_sha256(*train)
    shutil.rmtree(tmp_path)


def _sorted_sha256(*splits: ImageSet) -> str:
    """Return the SHA-256 of the images with their labels in sorted order."""
    samples = [image.tobytes() + bytes([label]) for split in splits for image, label in zip(*split, strict=True)]
    return hashlib.sha256(b"".join(sorted(samples))).hexdigest()
