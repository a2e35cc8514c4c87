"""Image folders: they are read in sorted order, and bad ones are refused in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fastcifar.data.sources import open_source
from tests.data.cifar_files import refusal, write_image_folder, write_picture

pytestmark = pytest.mark.usefixtures("no_source_variable")


@pytest.mark.parametrize("workers", [None, 1, 999])
def test_an_image_folder_is_read_in_sorted_order_with_any_number_of_workers(
    tmp_path: Path, workers: int | None
) -> None:
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


def test_pictures_of_two_sizes_are_refused_and_the_error_says_what_to_do(tmp_path: Path) -> None:
    first = write_image_folder(tmp_path) / "train" / "ant" / "a.PNG"
    other = write_picture(tmp_path / "test" / "moth" / "d.png", size=(40, 30))
    message = refusal(tmp_path)
    assert f"{first} is 32x32 pixels, {other} is 40x30" in message
    assert "--resize 32" in message


def test_pictures_of_two_sizes_can_be_resized(tmp_path: Path) -> None:
    write_picture(write_image_folder(tmp_path) / "train" / "moth" / "d.jpeg", size=(40, 30))
    opened = open_source(tmp_path, resize=16)
    assert opened.train.images.shape == (7, 16, 16, 3)
    assert opened.train.images[0, 8, 8].tolist() == [11, 5, 244]


def test_a_file_that_is_not_a_picture_is_named(tmp_path: Path) -> None:
    file = write_image_folder(tmp_path) / "train" / "ant" / "c.png"
    file.write_text("not a picture")
    assert refusal(tmp_path).startswith(f"{file}: is not a picture that can be read (unknown format)")


def test_a_truncated_picture_is_named(tmp_path: Path) -> None:
    file = write_image_folder(tmp_path) / "train" / "ant" / "b.png"
    file.write_bytes(file.read_bytes()[:60])
    message = refusal(tmp_path)
    assert message.startswith(f"{file}: is not a picture that can be read")
    assert "unknown format" not in message, "the file is a PNG, and the reason is another"


def test_a_class_without_pictures_is_named(tmp_path: Path) -> None:
    write_image_folder(tmp_path)
    (tmp_path / "train" / "bee").mkdir()
    (tmp_path / "test" / "bee").mkdir()
    assert refusal(tmp_path).startswith(f"{tmp_path / 'train' / 'bee'}: this class has no .png, .jpg or .jpeg file")


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
