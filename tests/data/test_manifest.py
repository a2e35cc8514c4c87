"""Manifests: they describe their .beton, have checked types, and are compared with the file."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from fastcifar.data.beton_format import read_index
from fastcifar.data.manifest import CIFAR10_CONTENT, dataset_sha256, manifest_path, open_beton, read_manifest
from fastcifar.errors import DataError
from tests.data.conftest import NAMES


def test_the_manifest_describes_the_file(file: Path, pictures: np.ndarray) -> None:
    manifest = read_manifest(file)
    assert manifest.samples == 64
    assert manifest.image_shape == (32, 32, 3)
    assert manifest.class_names == NAMES
    assert manifest.name == "noise"
    assert manifest.file_size == file.stat().st_size
    assert manifest.content_sha256 == dataset_sha256(pictures, np.arange(64, dtype=np.int64) % 2)
    pixels = pictures.reshape(-1, 3) / 255
    assert manifest.mean == pytest.approx(pixels.mean(axis=0), abs=1e-12)
    assert manifest.std == pytest.approx(pixels.std(axis=0), abs=1e-12)


def test_only_the_hash_detects_a_changed_pixel(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[int(read_index(file).offsets[5])] ^= 1
    file.write_bytes(data)
    with pytest.raises(DataError, match="file_sha256"):
        open_beton(file)
    open_beton(file, verify=False)


@pytest.mark.parametrize(("field", "value"), [("samples", 65), ("image_shape", [32, 31, 3]), ("file_size", 1)])
def test_a_manifest_that_disagrees_is_refused(file: Path, field: str, value: object) -> None:
    values = json.loads(manifest_path(file).read_text())
    manifest_path(file).write_text(json.dumps({**values, field: value}))
    with pytest.raises(DataError, match=field):
        open_beton(file, verify=False)


def test_labels_outside_the_classes_are_refused(file: Path) -> None:
    values = json.loads(manifest_path(file).read_text())
    manifest_path(file).write_text(json.dumps({**values, "class_names": ["one"]}))
    with pytest.raises(DataError, match="labels outside its 1 classes"):
        open_beton(file)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"samples": 1}', "nonsense", "null", '{"name": ' + "[" * 9999])
def test_a_file_that_is_not_a_manifest_is_refused(file: Path, text: str) -> None:
    manifest_path(file).write_text(text)
    with pytest.raises(DataError, match="cannot be read as a manifest"):
        read_manifest(file)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("mean", [None, None, None], r"Expected `float`, got `null` - at `\$\.mean\[0\]`"),
        ("std", "wide", r"Expected `array`, got `str` - at `\$\.std`"),
        ("mean", [0.5, 0.5], r"Expected `array` of length 3, got 2 - at `\$\.mean`"),
        ("class_names", 5, r"Expected `array`, got `int` - at `\$\.class_names`"),
        ("class_names", ["left", 2], r"Expected `str`, got `int` - at `\$\.class_names\[1\]`"),
        ("samples", "64", r"Expected `int`, got `str` - at `\$\.samples`"),
        ("samples", 64.5, r"Expected `int`, got `float` - at `\$\.samples`"),
        ("file_sha256", None, r"Expected `str`, got `null` - at `\$\.file_sha256`"),
        ("format_version", "1", r"Expected `int`, got `str` - at `\$\.format_version`"),
        ("colour", "red", "unknown key colour"),
    ],
)
def test_a_wrong_type_or_an_unknown_key_in_a_manifest_is_named(
    file: Path, key: str, value: object, message: str
) -> None:
    values = json.loads(manifest_path(file).read_text())
    manifest_path(file).write_text(json.dumps({**values, key: value}))
    with pytest.raises(DataError, match=rf"train\.beton\.json: cannot be read as a manifest \({message}\); run"):
        open_beton(file)


@pytest.mark.parametrize("key", ["format_version", "name", "mean", "content_sha256", "file_size"])
def test_a_missing_key_of_a_manifest_is_named(file: Path, key: str) -> None:
    values = json.loads(manifest_path(file).read_text())
    del values[key]
    manifest_path(file).write_text(json.dumps(values))
    with pytest.raises(DataError, match=rf"train\.beton\.json: .*missing required field `{key}`"):
        read_manifest(file)


def test_the_keys_of_a_manifest_are_those_of_version_3(file: Path) -> None:
    values = json.loads(manifest_path(file).read_text())
    assert list(values) == [
        "format_version", "name", "samples", "image_shape", "class_names", "mean", "std", "content_sha256",
        "file_sha256", "file_size", "source", "source_fingerprint", "other_split_sha256",
        "variations", "packed_true_labels",
    ]  # fmt: skip
    assert values["format_version"] == 3


def test_a_manifest_of_version_1_is_read(file: Path) -> None:
    values = json.loads(manifest_path(file).read_text())
    for key in ("source", "source_fingerprint", "other_split_sha256"):
        del values[key]
    manifest_path(file).write_text(json.dumps({**values, "format_version": 1}))
    manifest = open_beton(file)[1]
    assert (manifest.format_version, manifest.samples, manifest.source) == (1, 64, None)


def test_a_manifest_of_another_version_is_refused(file: Path) -> None:
    manifest = dataclasses.asdict(read_manifest(file))
    manifest_path(file).write_text(json.dumps({**manifest, "format_version": 99}))
    with pytest.raises(DataError, match="its format version is 99, and this fastcifar reads 1 to 3"):
        read_manifest(file)


def test_a_missing_file_or_manifest_is_named(file: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.beton: there is no such file; `fastcifar write-beton` creates it"):
        open_beton(tmp_path / "none.beton")
    manifest_path(file).unlink()
    with pytest.raises(
        DataError, match=r"train\.beton: has no manifest, train\.beton\.json; .*`fastcifar adopt .*train"
    ):
        open_beton(file)
    for folder in (Path("/"), Path()):
        with pytest.raises(DataError, match=r"is a folder; name a \.beton in it"):
            open_beton(folder)


def test_the_hash_depends_on_the_values_and_not_on_their_order_in_memory(
    pictures: np.ndarray, labels: np.ndarray
) -> None:
    expected = hashlib.sha256(pictures.tobytes() + labels.astype("<i8").tobytes()).hexdigest()
    assert dataset_sha256(pictures, labels) == expected
    assert dataset_sha256(np.asfortranarray(pictures), labels.astype(np.int32)) == expected  # type: ignore[arg-type]


@pytest.mark.cifar
def test_cifar10_is_recognised_by_its_content_and_has_the_known_statistics(cifar_betons: Path) -> None:
    train, test = (read_manifest(cifar_betons / f"{split}.beton") for split in ("train", "test"))
    assert (train.name, test.name) == ("cifar10", "cifar10")
    assert train.content_sha256 == CIFAR10_CONTENT["train"]
    assert test.content_sha256 == CIFAR10_CONTENT["test"]
    assert train.mean == pytest.approx((0.49139968, 0.48215841, 0.44653091), abs=5e-9)
    assert train.std == pytest.approx((0.24703223, 0.24348513, 0.26158784), abs=5e-9)
