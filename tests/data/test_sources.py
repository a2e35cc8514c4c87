"""Sources of images: every kind is read right, and every bad one is refused with one clear line."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import re
import tarfile
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fastcifar.data.cifar10 import download
from fastcifar.data import official
from fastcifar.data.images import Source
from fastcifar.data.sources import clamp_workers, open_source
from fastcifar.data.synthetic import SHAPES, draw_synthetic
from fastcifar.errors import ConfigError, DataError
from fastcifar.machine import usable_cores

TRAIN_SHA256 = "a0181da372c0d63a5920fdbea2ec3f83ecbc552d378218e1cb473cf634941a3b"
TEST_SHA256 = "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b"
BATCHES = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch")
PER_BATCH = 4


@pytest.fixture(autouse=True)
def _no_named_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FASTCIFAR_DATA", raising=False)


def records() -> np.ndarray:
    """Six batches of binary records, uint8 [6, 4, 3073], with labels of all ten classes."""
    made = np.random.default_rng(0).integers(0, 256, (6, PER_BATCH, 3073), dtype=np.uint8)
    made[..., 0] = np.arange(6 * PER_BATCH).reshape(6, PER_BATCH) % 10
    return made


def as_images(batches: np.ndarray) -> np.ndarray:
    return batches[..., 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def write_python(folder: Path) -> Path:
    """The way the official files are pickled: protocol 2, with keys and names as bytes."""
    folder.mkdir(parents=True)
    for name, batch in zip(BATCHES, records(), strict=True):
        content = {b"data": batch[:, 1:].copy(), b"labels": batch[:, 0].tolist(), b"batch_label": name.encode()}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    meta = {b"label_names": [name.encode() for name in official.CLASSES], b"num_vis": 3072}
    (folder / "batches.meta").write_bytes(pickle.dumps(meta, protocol=2))
    return folder


def write_binary(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name, batch in zip(BATCHES, records(), strict=True):
        (folder / f"{name}.bin").write_bytes(batch.tobytes())
    (folder / "batches.meta.txt").write_text("\n".join(official.CLASSES) + "\n\n")
    return folder


def write_archive(archive: Path, folder: Path) -> str:
    """Pack `folder` as the official archives are; returns the MD5."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, arcname=folder.name)
    return hashlib.md5(archive.read_bytes()).hexdigest()


def write_picture(path: Path, value: int = 0, size: tuple[int, int] = (32, 32), mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value // 2, 255 - value)).convert(mode).save(path)
    return path


def write_image_folder(root: Path) -> Path:
    for value, name in enumerate(("zebra", "ant", "moth")):
        write_picture(root / "train" / name / "b.png", 10 * value)
        write_picture(root / "train" / name / "a.PNG", 10 * value + 1)
        write_picture(root / "test" / name / "c.png", 10 * value + 2)
    (root / "train" / "ant" / "notes.txt").write_text("no picture, and not read")
    (root / "train" / ".hidden").mkdir()
    (root / "train" / "ant" / "._a.png").write_text("what another system leaves beside a picture")
    return root


def refusal(source: str | Path, **options: Any) -> str:
    """The message of the DataError that opening `source` raises; always one line."""
    with pytest.raises(DataError) as caught:
        open_source(source, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def assert_is_made_cifar(opened: Source) -> None:
    assert opened.class_names == official.CLASSES
    for split, batches in ((opened.train, records()[:5]), (opened.test, records()[5:])):
        np.testing.assert_array_equal(split.images, as_images(batches))
        np.testing.assert_array_equal(split.labels, batches[..., 0].ravel())
        assert split.images.dtype == np.uint8
        assert split.labels.dtype == np.int64
        assert split.images.flags.c_contiguous


# Paths


@pytest.mark.parametrize("place", [".", "cifar-10-batches-py"])
def test_the_python_version_is_read_from_its_root_and_from_its_folder(tmp_path: Path, place: str) -> None:
    write_python(tmp_path / "cifar-10-batches-py")
    opened = open_source(tmp_path / place)
    assert_is_made_cifar(opened)
    assert opened.name == "cifar-10-python"


@pytest.mark.parametrize("place", [".", "cifar-10-batches-bin"])
def test_the_binary_version_is_read_from_its_root_and_from_its_folder(tmp_path: Path, place: str) -> None:
    write_binary(tmp_path / "cifar-10-batches-bin")
    opened = open_source(str(tmp_path / place))
    assert_is_made_cifar(opened)
    assert opened.name == "cifar-10-binary"


def test_pickles_of_python_2_are_read_whose_texts_are_bytes_of_any_value(tmp_path: Path) -> None:
    """The official ones are: each text an opcode of Python 2's, which has no encoding."""
    folder = write_python(tmp_path / "py")
    names = [*(name.encode() for name in official.CLASSES[:-1]), "señal".encode()]
    texts = b"".join(b"U" + bytes([len(name)]) + name for name in names)
    (folder / "batches.meta").write_bytes(b"\x80\x02}U\x0blabel_names](" + texts + b"es.")
    assert open_source(folder).class_names == (*official.CLASSES[:-1], "señal")


def test_class_names_that_are_texts_of_python_3_are_taken_as_they_are(tmp_path: Path) -> None:
    folder, names = write_python(tmp_path / "py"), [*official.CLASSES[:-1], "señal"]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))
    assert open_source(folder).class_names == tuple(names)


def test_the_versions_are_read_from_folders_of_any_name(tmp_path: Path) -> None:
    assert_is_made_cifar(open_source(write_python(tmp_path / "one")))
    assert_is_made_cifar(open_source(write_binary(tmp_path / "two")))


def test_the_binary_version_without_its_names_has_the_standard_ten(tmp_path: Path) -> None:
    (write_binary(tmp_path / "bin") / "batches.meta.txt").unlink()
    assert_is_made_cifar(open_source(tmp_path / "bin"))


def test_the_binary_version_has_the_names_that_lie_beside_it(tmp_path: Path) -> None:
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
def test_an_archive_is_read_itself_and_from_its_root_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Any, folder: str, archive: str
) -> None:
    md5 = write_archive(tmp_path / "root" / archive, write(tmp_path / folder))
    monkeypatch.setitem(official.MD5, archive, md5)
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    assert_is_made_cifar(open_source(tmp_path / "root" / archive))
    assert_is_made_cifar(open_source(tmp_path / "root"))
    assert list((tmp_path / "scratch").iterdir()) == []
    assert [path.name for path in (tmp_path / "root").iterdir()] == [archive]


def test_an_archive_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "cifar-10-python.tar.gz"
    archive.write_bytes(b"\x1f\x8b cut off")
    message = refusal(archive)
    assert "c58f30108f718f92721af3b95e74349a" in message
    assert "fetch it again" in message
    assert str(archive) in refusal(tmp_path)


def test_a_path_that_does_not_exist_is_named_with_what_is_accepted(tmp_path: Path) -> None:
    message = refusal(tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in message
    for accepted in ("auto", "download", "synthetic", "cifar-10-batches-py", "cifar-10-batches-bin", "train/<class>"):
        assert accepted in message


def test_a_folder_without_classes_is_refused(tmp_path: Path) -> None:
    assert "a folder without classes" in refusal(tmp_path)


# Damage


@pytest.mark.parametrize("name", [*BATCHES, "batches.meta"])
def test_a_missing_file_of_the_python_version_is_named(tmp_path: Path, name: str) -> None:
    (write_python(tmp_path / "py") / name).unlink()
    assert refusal(tmp_path / "py").startswith(f"{tmp_path / 'py' / name}: there is no such file")


def test_an_empty_folder_of_the_python_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    assert "batches.meta: there is no such file" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["data_batch_3", "test_batch", "batches.meta"])
def test_a_truncated_pickle_is_named(tmp_path: Path, name: str) -> None:
    file = write_python(tmp_path / "py") / name
    file.write_bytes(file.read_bytes()[:-20])
    assert refusal(tmp_path / "py").startswith(f"{file}: not a whole official pickle")


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("false",)


def test_a_pickle_that_names_anything_but_arrays_is_not_run(tmp_path: Path) -> None:
    file = write_python(tmp_path / "py") / "data_batch_2"
    file.write_bytes(pickle.dumps({b"data": Harmful()}, protocol=2))
    message = refusal(tmp_path / "py")
    assert str(file) in message
    assert "system, which no official file does" in message


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ([1, 2], "holds a list"),
        ({}, "no 'data' and 'labels'"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [[1], [1, 2]]}, "ragged"),
        ({"data": np.zeros((2, 3072), np.float32), "labels": [1, 2]}, "float32"),
        ({"data": np.zeros((2, 3071), np.uint8), "labels": [1, 2]}, r"\[2, 3071\]"),
        ({"data": np.zeros((0, 3072), np.uint8), "labels": []}, r"\[0, 3072\]"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [1]}, "each of 2 images"),
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
    assert "data_batch_4.bin: there is no such file" in refusal(tmp_path / "bin")


@pytest.mark.parametrize("size", [0, 1, 3072, 3074])
def test_records_of_a_wrong_size_are_refused(tmp_path: Path, size: int) -> None:
    (write_binary(tmp_path / "bin") / "test_batch.bin").write_bytes(bytes(size))
    assert f"test_batch.bin: its {size} bytes are not whole records of 3073" in refusal(tmp_path / "bin")


def test_an_empty_folder_of_the_binary_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-bin").mkdir()
    assert "data_batch_1.bin: there is no such file" in refusal(tmp_path)


def test_a_record_with_a_bad_label_is_refused(tmp_path: Path) -> None:
    (write_binary(tmp_path / "bin") / "test_batch.bin").write_bytes(bytes([10]) + bytes(3072))
    assert "test_batch.bin: it has the label 10; there are 10 classes" in refusal(tmp_path / "bin")


def test_a_file_that_is_a_folder_is_refused(tmp_path: Path) -> None:
    file = write_python(tmp_path / "py") / "data_batch_1"
    file.unlink()
    file.mkdir()
    assert f"{file}: cannot be read" in refusal(tmp_path / "py")


# Image folders


@pytest.mark.parametrize("workers", [None, 1, 999])
def test_an_image_folder_is_read_in_sorted_order_whatever_the_workers(tmp_path: Path, workers: int | None) -> None:
    opened = open_source(write_image_folder(tmp_path), workers=workers)
    assert opened.name == "image-folder"
    assert opened.class_names == ("ant", "moth", "zebra")
    assert opened.train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert opened.test.labels.tolist() == [0, 1, 2]
    assert opened.train.images[:, 0, 0, 0].tolist() == [11, 10, 21, 20, 1, 0]
    assert opened.test.images[:, 5, 5].tolist() == [[12, 6, 243], [22, 11, 233], [2, 1, 253]]
    assert opened.train.images.shape == (6, 32, 32, 3)
    assert opened.train.images.dtype == np.uint8
    assert opened.train.images.flags.c_contiguous
    assert opened.test.labels.dtype == np.int64


def test_two_classes_are_enough(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            write_picture(tmp_path / split / name / "a.png")
    assert open_source(tmp_path).class_names == ("cat", "dog")


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK"])
def test_pictures_of_any_mode_become_rgb(tmp_path: Path, mode: str) -> None:
    name = "d.jpg" if mode == "CMYK" else "d.png"
    write_picture(write_image_folder(tmp_path) / "test" / "ant" / name, mode=mode)
    assert open_source(tmp_path).test.images.shape == (4, 32, 32, 3)


def test_pictures_of_two_sizes_are_refused_with_both_names_and_the_way_out(tmp_path: Path) -> None:
    first = write_image_folder(tmp_path) / "train" / "ant" / "a.PNG"
    other = write_picture(tmp_path / "test" / "moth" / "d.png", size=(40, 30))
    message = refusal(tmp_path)
    assert f"{first} is 32x32 pixels, {other} is 40x30" in message
    assert "--resize 32" in message


def test_pictures_of_two_sizes_are_resized_by_choice(tmp_path: Path) -> None:
    write_picture(write_image_folder(tmp_path) / "train" / "moth" / "d.jpeg", size=(40, 30))
    opened = open_source(tmp_path, resize=16)
    assert opened.train.images.shape == (7, 16, 16, 3)
    assert opened.train.images[0, 8, 8].tolist() == [11, 5, 244]


def test_a_file_that_is_no_picture_is_named(tmp_path: Path) -> None:
    file = write_image_folder(tmp_path) / "train" / "ant" / "c.png"
    file.write_text("no picture")
    assert refusal(tmp_path).startswith(f"{file}: no picture that can be read (of no known format)")


def test_a_picture_that_is_cut_off_is_named(tmp_path: Path) -> None:
    file = write_image_folder(tmp_path) / "train" / "ant" / "b.png"
    file.write_bytes(file.read_bytes()[:60])
    message = refusal(tmp_path)
    assert message.startswith(f"{file}: no picture that can be read")
    assert "of no known format" not in message, "it is a PNG, and something else is wrong"


def test_a_class_without_pictures_is_named(tmp_path: Path) -> None:
    write_image_folder(tmp_path)
    (tmp_path / "train" / "bee").mkdir()
    (tmp_path / "test" / "bee").mkdir()
    assert refusal(tmp_path).startswith(f"{tmp_path / 'train' / 'bee'}: a class without")


def test_classes_that_differ_between_the_splits_are_named(tmp_path: Path) -> None:
    write_picture(write_image_folder(tmp_path) / "test" / "bee" / "a.png")
    assert "different classes (bee)" in refusal(tmp_path)


@pytest.mark.parametrize("classes", [0, 1])
def test_fewer_than_two_classes_are_refused(tmp_path: Path, classes: int) -> None:
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        for number in range(classes):
            write_picture(tmp_path / split / str(number) / "a.png")
    assert f"it has {classes} class folders" in refusal(tmp_path)


@pytest.mark.parametrize("missing", ["train", "test"])
def test_an_image_folder_with_one_split_is_refused(tmp_path: Path, missing: str) -> None:
    (write_image_folder(tmp_path) / missing).rename(tmp_path / "other")
    assert f"{tmp_path / missing}: there is no such folder" in refusal(tmp_path)


def test_resize_is_refused_where_it_cannot_be_done(tmp_path: Path) -> None:
    write_binary(tmp_path / "bin")
    assert_is_made_cifar(open_source(tmp_path / "bin", resize=32))
    with pytest.raises(ConfigError, match=r"resize is 16; only an image folder is resized"):
        open_source(tmp_path / "bin", resize=16)
    with pytest.raises(ConfigError, match="resize is 0"):
        open_source(tmp_path, resize=0)


def test_workers_are_clamped_to_the_usable_cores() -> None:
    assert usable_cores() == len(os.sched_getaffinity(0))
    assert clamp_workers(None) == usable_cores()
    assert clamp_workers(10_000) == usable_cores()
    assert clamp_workers(1) == 1
    with pytest.raises(ConfigError, match="workers is 0"):
        clamp_workers(0)


# Made-up images


def test_synthetic_images_are_ten_even_classes_in_shuffled_order() -> None:
    opened = open_source("synthetic")
    assert opened.name == "synthetic"
    assert opened.class_names == tuple(SHAPES)
    assert opened.train.images.shape == (10_000, 32, 32, 3)
    assert opened.test.images.shape == (2_000, 32, 32, 3)
    assert np.bincount(opened.train.labels).tolist() == [1_000] * 10
    assert np.bincount(opened.test.labels).tolist() == [200] * 10
    assert (np.diff(opened.train.labels) < 0).any()
    np.testing.assert_array_equal(open_source("synthetic").train.images[:100], opened.train.images[:100])
    assert (open_source("synthetic", seed=1).train.images[:100] != opened.train.images[:100]).any()
    assert opened.train.images.dtype == np.uint8
    assert opened.train.images.flags.c_contiguous


def test_synthetic_images_repeat_with_the_seed_and_differ_without_it() -> None:
    (images, labels), (test_images, _) = draw_synthetic(train=50, test=50, seed=3)
    (again, labels_again), (test_again, _) = draw_synthetic(train=50, test=50, seed=3)
    (other, _), _ = draw_synthetic(train=50, test=50, seed=4)
    np.testing.assert_array_equal(images, again)
    np.testing.assert_array_equal(labels, labels_again)
    np.testing.assert_array_equal(test_images, test_again)
    assert (images != other).any()
    assert (images != test_images).any()


def test_the_synthetic_splits_are_independent_of_each_others_size() -> None:
    (train, _), (test, _) = draw_synthetic(train=30, test=20)
    (same_train, _), (longer, _) = draw_synthetic(train=30, test=40)
    (_, _), (same_test, _) = draw_synthetic(train=10, test=20)
    np.testing.assert_array_equal(train, same_train)
    np.testing.assert_array_equal(test, same_test)
    assert len(longer) == 40


def test_synthetic_images_are_not_for_a_linear_classifier() -> None:
    (images, labels), (test_images, test_labels) = draw_synthetic(train=2_000, test=500)
    pixels, test_pixels = (split[:, ::2, ::2].reshape(len(split), -1) / 255 - 0.5 for split in (images, test_images))
    gram = pixels.T @ pixels + 100 * np.eye(pixels.shape[1])
    weights = np.linalg.solve(gram, pixels.T @ np.eye(10)[labels])
    assert ((test_pixels @ weights).argmax(axis=1) == test_labels).mean() < 0.4


# The download, from this machine


class Server(ThreadingHTTPServer):
    """Serves one body at any path."""

    body = b""
    with_ranges = True
    breaks_after: int | None = None
    """Bytes of an answer after which the connection ends."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.ranges: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/cifar-10-python.tar.gz"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.ranges.append(wanted)
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.server.with_ranges else 0
        if start and start >= len(self.server.body):
            self.send_error(416)
            return
        rest = self.server.body[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        self.wfile.write(rest[: self.server.breaks_after])

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as running:
        thread = Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


BODY = np.random.default_rng(1).bytes(300_000)
BODY_MD5 = hashlib.md5(BODY).hexdigest()


def test_a_broken_download_goes_on_where_it_stopped(tmp_path: Path, server: Server) -> None:
    archive, part = tmp_path / "a.tar.gz", tmp_path / "a.tar.gz.part"
    server.body, server.breaks_after = BODY, 100_000
    with pytest.raises(OSError, match="ended 200000 bytes early"):
        download.fetch(server.url, archive, BODY_MD5)
    assert part.stat().st_size == 100_000
    assert not archive.exists()
    server.breaks_after = None
    download.fetch(server.url, archive, BODY_MD5)
    assert archive.read_bytes() == BODY
    assert not part.exists()
    assert server.ranges == [None, "bytes=100000-"]


def test_an_archive_that_another_program_left_cut_off_is_gone_on_with(tmp_path: Path, server: Server) -> None:
    server.body = BODY
    (tmp_path / "a.tar.gz").write_bytes(BODY[:1234])
    download.fetch(server.url, tmp_path / "a.tar.gz", BODY_MD5)
    assert (tmp_path / "a.tar.gz").read_bytes() == BODY
    assert server.ranges == ["bytes=1234-"]


def test_a_download_starts_anew_from_a_server_without_ranges(tmp_path: Path, server: Server) -> None:
    server.body, server.with_ranges = BODY, False
    (tmp_path / "a.tar.gz.part").write_bytes(BODY[:1234])
    download.fetch(server.url, tmp_path / "a.tar.gz", BODY_MD5)
    assert (tmp_path / "a.tar.gz").read_bytes() == BODY
    assert server.ranges == ["bytes=1234-"]


def test_a_server_that_falls_silent_is_not_waited_for_without_end(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "SOCKET_TIMEOUT", 0.2)
    monkeypatch.setattr(Handler, "do_GET", lambda self: time.sleep(2))
    with pytest.raises(TimeoutError):
        download.fetch(server.url, tmp_path / "a.tar.gz", BODY_MD5)


@pytest.mark.parametrize("left", [b"something else", bytes(len(BODY)), bytes(len(BODY) + 1)])
def test_a_download_starts_anew_when_what_was_left_is_something_else(
    tmp_path: Path, server: Server, left: bytes
) -> None:
    server.body = BODY
    (tmp_path / "a.tar.gz.part").write_bytes(left)
    download.fetch(server.url, tmp_path / "a.tar.gz", BODY_MD5)
    assert (tmp_path / "a.tar.gz").read_bytes() == BODY
    assert server.ranges == [f"bytes={len(left)}-", None]


def test_a_whole_part_only_waits_for_its_name(tmp_path: Path, server: Server) -> None:
    server.body = BODY
    (tmp_path / "a.tar.gz.part").write_bytes(BODY)
    download.fetch(server.url, tmp_path / "a.tar.gz", BODY_MD5)
    assert (tmp_path / "a.tar.gz").read_bytes() == BODY


def test_a_download_with_a_wrong_checksum_is_refused_and_leaves_nothing(tmp_path: Path, server: Server) -> None:
    server.body = BODY
    with pytest.raises(OSError, match=f"MD5 {BODY_MD5}, not {'0' * 32}"):
        download.fetch(server.url, tmp_path / "a.tar.gz", "0" * 32)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def published(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A server of a small archive, which torchvision takes for the official one."""
    from torchvision.datasets import CIFAR10

    folder = write_python(tmp_path / "published" / "cifar-10-batches-py")
    md5 = write_archive(tmp_path / "published" / "a.tar.gz", folder)
    server.body = (tmp_path / "published" / "a.tar.gz").read_bytes()
    sums = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    monkeypatch.setattr(CIFAR10, "url", server.url)
    monkeypatch.setattr(CIFAR10, "tgz_md5", md5)
    monkeypatch.setattr(CIFAR10, "train_list", [[name, sums[name]] for name in BATCHES[:5]])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    # torchvision reads its keys as str, which the official Python 2 pickles give it
    monkeypatch.setattr(CIFAR10, "__init__", _download_only)
    monkeypatch.setitem(official.MD5, "cifar-10-python.tar.gz", md5)
    return server


def _download_only(self: Any, root: Path, download: bool) -> None:
    assert download
    self.root = root
    self.download()
    assert self._check_integrity()


def test_the_download_is_checked_unpacked_read_and_kept(
    tmp_path: Path, published: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "deep" / "cache"
    for _ in range(2):
        assert_is_made_cifar(open_source("download", cache=cache))
    assert published.ranges == [None]
    assert capsys.readouterr().out == ""


def test_an_unpacking_that_broke_off_is_mended_without_the_network(tmp_path: Path, published: Server) -> None:
    cache = tmp_path / "cache"
    open_source("download", cache=cache)
    (cache / "cifar-10-batches-py" / "data_batch_2").write_bytes(b"")
    (cache / "cifar-10-batches-py" / "data_batch_5").unlink()
    assert_is_made_cifar(open_source("auto", cache=cache))
    assert len(published.ranges) == 1


def test_batches_are_fetched_again_only_if_they_are_not_whole(tmp_path: Path, published: Server) -> None:
    cache = tmp_path / "cache"
    open_source("download", cache=cache)
    (cache / "cifar-10-python.tar.gz").unlink()
    assert_is_made_cifar(open_source("download", cache=cache))
    assert len(published.ranges) == 1
    batch = cache / "cifar-10-batches-py" / "data_batch_3"
    batch.write_bytes(batch.read_bytes()[:-1] + b"x")
    (cache / "cifar-10-python.tar.gz.part").write_bytes(published.body[:100])
    assert_is_made_cifar(open_source("download", cache=cache))
    assert published.ranges == [None, "bytes=100-"]


def test_without_a_network_the_error_says_how_to_supply_a_copy(tmp_path: Path, published: Server) -> None:
    published.body, published.breaks_after = published.body, 10
    message = refusal("download", cache=tmp_path / "cache")
    for part in ("bytes early", str(tmp_path / "cache"), "cifar-10-python.tar.gz", "FASTCIFAR_DATA", "synthetic"):
        assert part in message


def test_a_server_that_is_not_there_is_a_data_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR10

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(CIFAR10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    assert "cannot be fetched from http://127.0.0.1:9/" in refusal("download", cache=tmp_path)


def test_a_cache_that_cannot_be_made_is_a_data_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot be fetched" in refusal("download", cache=tmp_path / "file" / "cache")


# auto


def test_auto_takes_what_the_environment_names_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_python(tmp_path / "cache" / "cifar-10-batches-py")
    monkeypatch.setenv("FASTCIFAR_DATA", str(write_image_folder(tmp_path / "named")))
    assert open_source("auto", cache=tmp_path / "cache").name == "image-folder"


def test_auto_resizes_an_image_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_image_folder(tmp_path / "named")
    assert open_source("auto", cache=folder, resize=8).train.images.shape == (6, 8, 8, 3)
    monkeypatch.setenv("FASTCIFAR_DATA", str(folder))
    assert open_source("auto", cache=tmp_path / "cache", resize=8).train.images.shape == (6, 8, 8, 3)


def test_auto_does_not_pass_over_a_bad_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_python(tmp_path / "cache" / "cifar-10-batches-py")
    monkeypatch.setenv("FASTCIFAR_DATA", str(tmp_path / "nowhere"))
    message = refusal("auto", cache=tmp_path / "cache")
    assert "FASTCIFAR_DATA" in message
    assert str(tmp_path / "nowhere") in message


def test_auto_takes_the_cache_second_and_fetches_nothing(tmp_path: Path, published: Server) -> None:
    write_binary(tmp_path / "cache" / "cifar-10-batches-bin")
    assert open_source(cache=tmp_path / "cache").name == "cifar-10-binary"
    assert published.ranges == []


def test_auto_takes_an_archive_put_in_the_cache(tmp_path: Path, published: Server) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "cifar-10-python.tar.gz").write_bytes(published.body)
    assert_is_made_cifar(open_source(cache=tmp_path / "cache"))
    assert published.ranges == []


def test_auto_downloads_last(tmp_path: Path, published: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTCIFAR_DATA", "")
    assert_is_made_cifar(open_source(cache=tmp_path / "cache"))
    assert published.ranges == [None]


# The real data

NAMED = os.environ.get("FASTCIFAR_DATA")


@pytest.mark.cifar
@pytest.mark.skipif(not NAMED, reason="FASTCIFAR_DATA is not set")
def test_the_real_data_is_the_published_one() -> None:
    opened = open_source(NAMED or "")
    assert opened.class_names == official.CLASSES
    assert opened.train.labels[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]
    assert opened.test.labels[:10].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]
    for split, each, sha256 in ((opened.train, 5_000, TRAIN_SHA256), (opened.test, 1_000, TEST_SHA256)):
        assert np.bincount(split.labels).tolist() == [each] * 10
        planes = split.images.transpose(0, 3, 1, 2).reshape(-1, 3072)
        rebuilt = io.BytesIO(np.column_stack([split.labels.astype(np.uint8), planes]).tobytes())
        assert hashlib.file_digest(rebuilt, "sha256").hexdigest() == sha256
