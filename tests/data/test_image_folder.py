"""Image folders: they are read in sorted order, and bad ones are refused in one line."""

from __future__ import annotations

import json
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from fastcifar.cli import main
from fastcifar.data.sources import open_source
from fastcifar.progress import Progress
from tests.data.cifar_files import refusal, write_image_folder, write_picture

Capture = pytest.CaptureFixture[str]
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


def test_all_unreadable_pictures_are_counted(tmp_path: Path) -> None:
    folder = write_image_folder(tmp_path) / "train" / "moth"
    files = [folder / f"{number}.png" for number in range(8)]
    for file in files:
        file.write_text("not a picture")
    message = refusal(tmp_path)
    assert message.startswith(f"{files[0]}: is not a picture that can be read (unknown format)")
    assert message.endswith(f"; 7 more cannot be read: {', '.join(map(str, files[1:6]))} and 2 more")


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
    assert refusal(tmp_path).startswith(f"{tmp_path / 'train' / 'bee'}: this class has no pictures")


@pytest.mark.parametrize("make_folder", [True, False])
def test_a_class_without_test_pictures_is_allowed_and_named(tmp_path: Path, make_folder: bool) -> None:
    write_picture(write_image_folder(tmp_path) / "train" / "bee" / "a.png")
    if make_folder:
        (tmp_path / "test" / "bee").mkdir()
    opened = open_source(tmp_path)
    assert opened.class_names == ("ant", "bee", "moth", "zebra")
    assert opened.train.labels.tolist() == [0, 0, 1, 2, 2, 3, 3]
    assert opened.test.labels.tolist() == [0, 2, 3]
    assert "warning: classes without test pictures, whose accuracy is not measured: bee" in opened.notes


def test_a_class_without_training_pictures_is_allowed_and_named(tmp_path: Path) -> None:
    write_picture(write_image_folder(tmp_path) / "test" / "bee" / "a.png")
    opened = open_source(tmp_path)
    assert opened.train.labels.tolist() == [0, 0, 2, 2, 3, 3]
    assert opened.test.labels.tolist() == [0, 1, 2, 3]
    assert "warning: classes without training pictures, which the network cannot learn: bee" in opened.notes


def test_a_note_shows_only_a_few_of_many_names(tmp_path: Path) -> None:
    write_image_folder(tmp_path)
    for number in range(8):
        write_picture(tmp_path / "train" / f"bee{number}" / "a.png")
    (note,) = (note for note in open_source(tmp_path).notes if "test pictures" in note)
    assert note.endswith("bee0, bee1, bee2, bee3, bee4 and 3 more")


def test_an_empty_test_set_is_refused(tmp_path: Path) -> None:
    for file in (write_image_folder(tmp_path) / "test").glob("*/*"):
        file.unlink()
    assert refusal(tmp_path).startswith(f"{tmp_path / 'test'}: no class has pictures")


def test_names_in_nfc_and_nfd_are_one_class(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    assert composed != decomposed
    write_image_folder(tmp_path)
    write_picture(tmp_path / "train" / decomposed / "a.png", 1)
    write_picture(tmp_path / "train" / composed / "b.png", 2)
    write_picture(tmp_path / "test" / composed / "c.png", 3)
    opened = open_source(tmp_path)
    assert opened.class_names == ("ant", composed, "moth", "zebra")
    assert opened.train.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert opened.train.images[2:4, 0, 0, 0].tolist() == [1, 2]
    assert opened.test.labels.tolist() == [0, 1, 2, 3]
    assert not any("warning" in note for note in opened.notes)


def test_a_class_folder_whose_name_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    write_picture(write_image_folder(tmp_path) / "train" / "caf\udce9" / "a.png")
    assert refusal(tmp_path) == f"{tmp_path}/train/caf\\xe9: the name of this folder is not UTF-8; rename it"


def test_every_kind_of_picture_is_read_and_other_files_are_counted(tmp_path: Path) -> None:
    folder = write_image_folder(tmp_path) / "train" / "ant"
    names = ["c.webp", "d.bmp", "e.tif", "f.jfif", "g.gif", "h.JPE", "i.tga", "batch2/j.png"]
    for number, name in enumerate(names):
        write_picture(folder / name, 50 + number)
    for name in ("k.heic", "l.xyz", "m.XYZ", "README", "table.h5"):
        (folder / name).write_text("not a picture")
    (tmp_path / "test" / "labels.csv").touch()
    opened = open_source(tmp_path)
    assert opened.train.labels.tolist() == [0] * 10 + [1, 1, 2, 2]
    assert opened.notes == ("7 files passed over: .csv, .h5, .heic, .txt, .xyz, without suffix",)


SYSTEM_FOLDERS = (
    ".ipynb_checkpoints", "__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found", ".git"
)  # fmt: skip


def test_hidden_files_and_those_of_systems_never_count(tmp_path: Path) -> None:
    expected = open_source(write_image_folder(tmp_path))
    for name in SYSTEM_FOLDERS:
        for place in ("train", "test", "train/ant", "train/ant/nested"):
            write_picture(tmp_path / place / name / "a.png", 99)
    for name in ("Thumbs.db", ".DS_Store", "desktop.ini", "Desktop.ini", "ehthumbs.db"):
        for place in ("train", "train/moth", "test/zebra"):
            (tmp_path / place / name).touch()
    opened = open_source(tmp_path)
    assert opened.class_names == expected.class_names
    assert opened.notes == expected.notes == ("1 file passed over: .txt",)
    np.testing.assert_array_equal(opened.train.images, expected.train.images)
    np.testing.assert_array_equal(opened.test.images, expected.test.images)


def test_reading_reports_its_progress(tmp_path: Path) -> None:
    write_image_folder(tmp_path)
    for number in range(140):
        write_picture(tmp_path / "train" / "ant" / f"{number}.png", size=(4, 4))
    reports: list[Progress] = []
    open_source(tmp_path, resize=4, on_progress=reports.append)
    assert [(report.done, report.total) for report in reports if "pictures" in report.task] == [(128, 149), (149, 149)]


def test_pictures_too_large_for_a_beton_are_refused_before_the_others_are_read(tmp_path: Path) -> None:
    write_picture(write_image_folder(tmp_path) / "train" / "ant" / "a.PNG", size=(2000, 1500))
    assert "2000x1500 pixels are too many for a .beton; use --resize 32" in refusal(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_passed_over_and_a_broken_link_is_named(tmp_path: Path) -> None:
    folder = write_image_folder(tmp_path) / "train" / "ant"
    os.mkfifo(folder / "pipe.png")
    assert open_source(tmp_path).notes == ("2 files passed over: .png, .txt",)
    (folder / "link.png").symlink_to(tmp_path / "missing.png")
    assert refusal(tmp_path).startswith(f"{folder / 'link.png'}: is not a picture that can be read")


def test_the_train_command_trains_on_classes_that_one_split_has(tmp_path: Path, capsys: Capture) -> None:
    write_image_folder(tmp_path / "pics")
    write_picture(tmp_path / "pics" / "train" / "bee" / "a.png")
    write_picture(tmp_path / "pics" / "test" / "wasp" / "a.png")
    run = tmp_path / "run"
    arguments = ["train", "--source", tmp_path / "pics", "--data-dir", tmp_path / "betons", "--run-dir", run]
    options = ["--model", "dilated_cnn", "--batch-size", "4", "--epochs", "1", "--device", "cpu", "--no-report"]
    assert main([*map(str, arguments), *options]) == 0
    written = capsys.readouterr()
    assert "classes without test pictures, whose accuracy is not measured: bee" in written.err
    assert "classes without training pictures, which the network cannot learn: wasp" in written.err
    assert main(["evaluate", str(run), "--device", "cpu", "--json"]) == 0
    accuracies = json.loads(capsys.readouterr().out)["class_accuracy"]
    assert list(accuracies) == ["ant", "bee", "moth", "wasp", "zebra"]
    assert accuracies["bee"] is None
    assert accuracies["wasp"] == 0


@pytest.mark.parametrize("classes", [0, 1])
def test_fewer_than_two_classes_are_refused(tmp_path: Path, classes: int) -> None:
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        for number in range(classes):
            write_picture(tmp_path / split / str(number) / "a.png")
    assert f"it has {classes} class folders" in refusal(tmp_path)


def test_an_image_folder_without_training_pictures_is_refused(tmp_path: Path) -> None:
    (write_image_folder(tmp_path) / "train").rename(tmp_path / "other")
    assert f"{tmp_path / 'train'}: there is no such folder" in refusal(tmp_path)


def test_a_part_of_each_class_is_held_out_where_there_are_no_test_pictures(tmp_path: Path) -> None:
    (write_image_folder(tmp_path) / "test").rename(tmp_path / "other")
    for number in range(8):
        write_picture(tmp_path / "train" / "moth" / f"{number}.png")
    opened = open_source(tmp_path, test_fraction=0.3)
    assert np.bincount(opened.test.labels).tolist() == [1, 3, 1]
    assert np.bincount(opened.train.labels).tolist() == [1, 7, 1]
    assert any("image-folder has no test split with labels: 5 of its 14 images" in note for note in opened.notes)


@pytest.mark.parametrize(
    ("train", "test"),
    [("Train", "Test"), ("training", "testing"), ("train", "val"), ("train", "valid"), ("TRAIN", "Validation")],
)
def test_the_folders_of_the_splits_may_have_other_usual_names(tmp_path: Path, train: str, test: str) -> None:
    expected = open_source(write_image_folder(tmp_path / "usual"))
    write_image_folder(tmp_path / "other")
    for name, other in (("train", train), ("test", test)):
        (tmp_path / "other" / name).rename(tmp_path / "other" / other)
    opened = open_source(tmp_path / "other")
    assert opened.class_names == expected.class_names
    for (images, labels), (expected_images, expected_labels) in (
        (opened.train, expected.train),
        (opened.test, expected.test),
    ):
        np.testing.assert_array_equal(images, expected_images)
        np.testing.assert_array_equal(labels, expected_labels)


def test_the_folder_test_comes_before_validation_pictures_which_are_named(tmp_path: Path) -> None:
    expected = open_source(write_image_folder(tmp_path))
    write_picture(tmp_path / "val" / "ant" / "a.png", 99)
    opened = open_source(tmp_path)
    assert len(opened.test.images) == len(expected.test.images)
    assert opened.notes == (*expected.notes, f"{tmp_path / 'val'}: passed over, since test is the test set")


def test_class_folders_alone_are_divided_into_two_splits(tmp_path: Path) -> None:
    for name in ("cat", "dog", ".ipynb_checkpoints"):
        for number in range(10):
            write_picture(tmp_path / name / f"{number}.png", number)
    (tmp_path / "README.txt").touch()
    opened = open_source(tmp_path, test_fraction=0.3)
    assert opened.class_names == ("cat", "dog")
    assert np.bincount(opened.train.labels).tolist() == [7, 7]
    assert np.bincount(opened.test.labels).tolist() == [3, 3]
    assert opened.notes[0] == "1 file passed over: .txt"
    (tmp_path / "emu").mkdir()
    assert f"{tmp_path / 'emu'}: this class has no pictures; add some or remove the folder" in refusal(tmp_path)


def test_one_folder_of_pictures_is_not_taken_for_classes(tmp_path: Path) -> None:
    write_picture(tmp_path / "pictures" / "a.png", 1)
    (tmp_path / "notes").mkdir()
    assert "there is no data set in this folder or the 2 folders in it" in refusal(tmp_path)
