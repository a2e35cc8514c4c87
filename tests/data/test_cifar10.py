"""CIFAR-10's published files and their download: both versions are read, and bad files are refused in one line."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastcifar.data import cifar10
from fastcifar.data.official import MD5
from fastcifar.data.sources import open_source
from tests.data.cifar_files import (
    BATCHES,
    assert_equals_records,
    refusal,
    write_archive,
    write_binary,
    write_python,
)

pytestmark = pytest.mark.usefixtures("no_source_variable")

TRAIN_SHA256 = "a0181da372c0d63a5920fdbea2ec3f83ecbc552d378218e1cb473cf634941a3b"
TEST_SHA256 = "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b"
NAMED = os.environ.get("FASTCIFAR_DATA")


@pytest.mark.parametrize("place", [".", "cifar-10-batches-py"])
def test_the_python_version_is_read_from_its_root_and_from_its_folder(tmp_path: Path, place: str) -> None:
    write_python(tmp_path / "cifar-10-batches-py")
    opened = open_source(tmp_path / place)
    assert_equals_records(opened)
    assert opened.name == "cifar-10-python"


@pytest.mark.parametrize("place", [".", "cifar-10-batches-bin"])
def test_the_binary_version_is_read_from_its_root_and_from_its_folder(tmp_path: Path, place: str) -> None:
    write_binary(tmp_path / "cifar-10-batches-bin")
    opened = open_source(str(tmp_path / place))
    assert_equals_records(opened)
    assert opened.name == "cifar-10-binary"


def test_pickles_of_python_2_with_non_ascii_text_are_read(tmp_path: Path) -> None:
    """The official files have such text, as an opcode of Python 2 that has no encoding."""
    folder = write_python(tmp_path / "py")
    names = [*(name.encode() for name in cifar10.CLASSES[:-1]), "señal".encode()]
    texts = b"".join(b"U" + bytes([len(name)]) + name for name in names)
    (folder / "batches.meta").write_bytes(b"\x80\x02}U\x0blabel_names](" + texts + b"es.")
    assert open_source(folder).class_names == (*cifar10.CLASSES[:-1], "señal")


def test_class_names_pickled_by_python_3_are_read(tmp_path: Path) -> None:
    folder, names = write_python(tmp_path / "py"), [*cifar10.CLASSES[:-1], "señal"]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))
    assert open_source(folder).class_names == tuple(names)


def test_both_versions_are_read_from_folders_of_any_name(tmp_path: Path) -> None:
    assert_equals_records(open_source(write_python(tmp_path / "one")))
    assert_equals_records(open_source(write_binary(tmp_path / "two")))


def test_the_binary_version_without_class_names_has_the_standard_ten(tmp_path: Path) -> None:
    (write_binary(tmp_path / "bin") / "batches.meta.txt").unlink()
    assert_equals_records(open_source(tmp_path / "bin"))


def test_the_binary_version_has_the_class_names_of_its_folder(tmp_path: Path) -> None:
    names = "abcdefghij"
    (write_binary(tmp_path / "bin") / "batches.meta.txt").write_text("\n".join(names) + "\n\n")
    assert open_source(tmp_path / "bin").class_names == tuple(names)


@pytest.mark.parametrize(
    ("write", "folder", "archive"),
    [
        (write_python, "cifar-10-batches-py", "cifar-10-python.tar.gz"),
        (write_binary, "cifar-10-batches-bin", "cifar-10-binary.tar.gz"),
    ],
)
def test_an_archive_is_read_by_its_path_or_its_folder_and_leaves_no_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Any, folder: str, archive: str
) -> None:
    md5 = write_archive(tmp_path / "root" / archive, write(tmp_path / folder))
    monkeypatch.setitem(MD5, archive, md5)
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    assert_equals_records(open_source(tmp_path / "root" / archive))
    assert_equals_records(open_source(tmp_path / "root"))
    assert list((tmp_path / "scratch").iterdir()) == []
    assert [path.name for path in (tmp_path / "root").iterdir()] == [archive]


def test_a_truncated_archive_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "cifar-10-python.tar.gz"
    archive.write_bytes(b"\x1f\x8b cut off")
    message = refusal(archive)
    assert "c58f30108f718f92721af3b95e74349a" in message
    assert "download it again" in message
    assert str(archive) in refusal(tmp_path)


@pytest.mark.parametrize("name", [*BATCHES, "batches.meta"])
def test_a_missing_file_of_the_python_version_is_named(tmp_path: Path, name: str) -> None:
    (write_python(tmp_path / "py") / name).unlink()
    assert refusal(tmp_path / "py") == (
        f"{tmp_path / 'py'}: is CIFAR-10's python version without {name}; unpack the official archive again"
    )


def test_an_empty_folder_of_the_python_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    assert "is CIFAR-10's python version without data_batch_1, data_batch_2, " in refusal(tmp_path)


@pytest.mark.parametrize("name", ["data_batch_3", "test_batch", "batches.meta"])
def test_a_truncated_pickle_is_named(tmp_path: Path, name: str) -> None:
    file = write_python(tmp_path / "py") / name
    file.write_bytes(file.read_bytes()[:-20])
    assert refusal(tmp_path / "py").startswith(f"{file}: it is not a complete official pickle")


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("false",)


def test_a_pickle_that_calls_other_code_is_refused_and_not_run(tmp_path: Path) -> None:
    file = write_python(tmp_path / "py") / "data_batch_2"
    file.write_bytes(pickle.dumps({b"data": Harmful()}, protocol=2))
    message = refusal(tmp_path / "py")
    assert str(file) in message
    assert "system, which the official files do not" in message


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ([1, 2], "holds a list"),
        ({}, "'data' or 'labels' are missing"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [[1], [1, 2]]}, "ragged"),
        ({"data": np.zeros((2, 3072), np.float32), "labels": [1, 2]}, "float32"),
        ({"data": np.zeros((2, 3071), np.uint8), "labels": [1, 2]}, r"\[2, 3071\]"),
        ({"data": np.zeros((0, 3072), np.uint8), "labels": []}, r"\[0, 3072\]"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [1]}, "not 2 whole numbers"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [1, 10]}, "from 0 to 9"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [1, -1]}, "from 0 to 9"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [1, 0.5]}, "from 0 to 9"),
    ],
)
def test_a_pickle_with_other_content_is_refused(tmp_path: Path, content: object, complaint: str) -> None:
    file = write_python(tmp_path / "py") / "test_batch"
    file.write_bytes(pickle.dumps(content, protocol=4))
    message = refusal(tmp_path / "py")
    assert message.startswith(str(file))
    assert re.search(complaint, message)


def test_class_names_that_are_missing_are_refused(tmp_path: Path) -> None:
    file = write_python(tmp_path / "py") / "batches.meta"
    file.write_bytes(pickle.dumps({b"num_vis": 3072}, protocol=2))
    assert refusal(tmp_path / "py").startswith(f"{file}: it has no list of class names")


def test_a_missing_file_of_the_binary_version_is_named(tmp_path: Path) -> None:
    (write_binary(tmp_path / "bin") / "data_batch_4.bin").unlink()
    assert "is CIFAR-10's binary version without data_batch_4.bin; unpack" in refusal(tmp_path / "bin")


@pytest.mark.parametrize("size", [0, 1, 3072, 3074])
def test_records_of_a_wrong_size_are_refused(tmp_path: Path, size: int) -> None:
    (write_binary(tmp_path / "bin") / "test_batch.bin").write_bytes(bytes(size))
    assert f"test_batch.bin: its size, {size} bytes, is not a multiple of a record's 3073" in refusal(tmp_path / "bin")


def test_an_empty_folder_of_the_binary_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-bin").mkdir()
    assert "is CIFAR-10's binary version without data_batch_1.bin, " in refusal(tmp_path)


def test_a_record_with_a_bad_label_is_refused(tmp_path: Path) -> None:
    (write_binary(tmp_path / "bin") / "test_batch.bin").write_bytes(bytes([10]) + bytes(3072))
    assert "test_batch.bin: it has the label 10; there are 10 classes" in refusal(tmp_path / "bin")


def test_a_file_that_is_a_folder_is_refused(tmp_path: Path) -> None:
    file = write_python(tmp_path / "py") / "data_batch_1"
    file.unlink()
    file.mkdir()
    assert f"{file}: cannot be read (Is a directory)" in refusal(tmp_path / "py")


@pytest.mark.cifar
@pytest.mark.skipif(not NAMED, reason="FASTCIFAR_DATA is not set")
def test_the_real_data_is_the_published_data() -> None:
    opened = open_source(NAMED or "")
    assert opened.class_names == cifar10.CLASSES
    assert opened.train.labels[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]
    assert opened.test.labels[:10].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]
    for split, each, sha256 in ((opened.train, 5_000, TRAIN_SHA256), (opened.test, 1_000, TEST_SHA256)):
        assert np.bincount(split.labels).tolist() == [each] * 10
        planes = split.images.transpose(0, 3, 1, 2).reshape(-1, 3072)
        rebuilt = io.BytesIO(np.column_stack([split.labels.astype(np.uint8), planes]).tobytes())
        assert hashlib.file_digest(rebuilt, "sha256").hexdigest() == sha256
