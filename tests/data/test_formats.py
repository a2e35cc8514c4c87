"""The formats of data sets: each is found at any depth and read; what is incomplete or ambiguous is named."""

from __future__ import annotations

import inspect
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastcifar.commands.write_beton import WriteBeton
from fastcifar.data import cifar10, formats
from fastcifar.data.formats import FORMATS, find_data_set
from fastcifar.data.images import Source
from fastcifar.data.manifest import CIFAR10_CONTENT, dataset_sha256
from fastcifar.data.official import MD5
from fastcifar.data.pair import read_pair
from fastcifar.data.sources import open_source
from fastcifar.data.writer import write_pair
from fastcifar.errors import ConfigError
from tests.data.cifar_files import (
    BATCHES,
    as_images,
    assert_equals_records,
    records,
    refusal,
    write_archive,
    write_binary,
    write_cifar100_binary,
    write_cifar100_python,
    write_image_folder,
    write_kaggle,
    write_npz,
    write_parquet,
    write_picture,
    write_python,
)

pytestmark = pytest.mark.usefixtures("no_source_variable")


def _labels(split: Any) -> list[int]:
    return [int(label) for label in split.labels]


@pytest.mark.parametrize(
    "place",
    [
        "cifar-10-batches-py/cifar-10-batches-py",
        "x/cifar-10-python/cifar-10-batches-py",
        "datasets/cifar-10-batches-py-target/cifar-10-batches-py",
        "a/b/c/d/cifar-10-batches-bin",
    ],
)
def test_cifar10_is_found_at_any_depth(tmp_path: Path, place: str) -> None:
    (tmp_path / "zeros" / "train").parent.mkdir()
    (tmp_path / ".hidden").mkdir()
    (write_binary if place.endswith("bin") else write_python)(tmp_path / place)
    opened = open_source(tmp_path)
    assert_equals_records(opened)
    assert opened.origin is not None
    assert opened.origin.path == str(tmp_path / place)


def test_the_search_has_limits_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_python(tmp_path / "1" / "2" / "3" / "4" / "5" / "6" / "cifar-10-batches-py")
    assert "there is no data set in this folder or the 5 folders in it" in refusal(tmp_path)
    monkeypatch.setattr(formats, "MAX_FOLDERS", 3)
    assert "the 2 folders in it; only the nearest 3 were searched" in refusal(tmp_path)


@pytest.mark.parametrize("archive", ["cifar-10-batches-py.tar.gz", "cifar-10-batches-py-target_archive", "my.tgz"])
def test_an_archive_is_recognised_by_its_content_under_other_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, archive: str
) -> None:
    """The first two are those of Keras's cache."""
    md5 = write_archive(tmp_path / "datasets" / archive, write_python(tmp_path / "cifar-10-batches-py"))
    monkeypatch.setitem(MD5, "cifar-10-python.tar.gz", md5)
    assert_equals_records(open_source(tmp_path / "datasets" / archive))
    if archive != "my.tgz":
        assert_equals_records(open_source(tmp_path / "datasets"))


@pytest.mark.parametrize("write", [write_cifar100_python, write_cifar100_binary])
def test_cifar100_is_read_with_fine_or_coarse_labels(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    write(tmp_path / "data" / "cifar-100")
    fine, coarse = open_source(tmp_path), open_source(tmp_path, labels="coarse")
    for opened, factor, classes in ((fine, 10, 100), (coarse, 1, 20)):
        assert np.array_equal(opened.train.images, as_images(records()[:5]))
        assert _labels(opened.train) == [factor * label for label in records()[:5, :, 0].ravel().tolist()]
        assert _labels(opened.test) == [factor * label for label in records()[5:, :, 0].ravel().tolist()]
        assert len(opened.class_names) == classes
    assert (fine.class_names[10], coarse.class_names[1]) == ("fine10", "coarse1")


def test_coarse_labels_of_another_data_set_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="only CIFAR-100 has coarse labels: leave it out for cifar-10-python"):
        open_source(write_python(tmp_path / "py"), labels="coarse")


@pytest.fixture
def official(monkeypatch: pytest.MonkeyPatch) -> None:
    """The images of `records` count as those of CIFAR-10."""
    made = records()[:5].reshape(-1, 3073)
    content = dataset_sha256(np.ascontiguousarray(as_images(made)), made[:, 0].astype(np.int64))
    monkeypatch.setitem(CIFAR10_CONTENT, "train", content)


@pytest.mark.usefixtures("official")
@pytest.mark.parametrize("names", [None, list(cifar10.CLASSES)])
@pytest.mark.parametrize("columns", [("img", "label"), ("image", "fine_label")])
def test_parquet_files_give_the_same_images_as_the_official_ones(
    tmp_path: Path, names: list[str] | None, columns: tuple[str, str]
) -> None:
    pytest.importorskip("pyarrow")
    write_parquet(tmp_path / "plain_text", image=columns[0], label=columns[1], names=names)
    assert_equals_records(open_source(tmp_path))


def test_parquet_files_have_the_class_names_of_their_metadata_or_digits(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    names = [f"digit {number}" for number in range(10)]
    assert open_source(write_parquet(tmp_path / "a", names=names)).class_names == tuple(names)
    assert open_source(write_parquet(tmp_path / "b")).class_names == tuple("0123456789")
    assert open_source(write_parquet(tmp_path / "c", label="coarse_label"), labels="coarse").name == "parquet"


def test_parquet_files_with_something_missing_are_refused(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    folder = write_parquet(tmp_path / "a", shards=3)
    (folder / "train-00001-of-00003.parquet").unlink()
    assert "is a data set of Hugging Face without train-00001-of-00003.parquet" in refusal(folder)
    (folder / "train-00002-of-00003.parquet").unlink()
    assert "without train-00001-of-00003.parquet" in refusal(folder)
    (folder / "train-00000-of-00003.parquet").rename(folder / "train.parquet")
    assert "has no column coarse_label; its columns are img, label" in refusal(folder, labels="coarse")
    (folder / "train.parquet").write_bytes(b"PAR1 cut off")
    assert "train.parquet: cannot be read as a parquet file" in refusal(folder)
    for column, values, message in (
        ("img", [{"path": "a.png"}], "has rows without the bytes of a picture"),
        ("img", [{"bytes": b"GIF89a"}], r"train.parquet, row 0: is not a picture that can be read"),
        ("label", [None], "labels must be 1 whole numbers"),
        ("text", ["cat"], "has no column image or img; its columns are text, label"),
    ):
        picture = {"bytes": (write_picture(tmp_path / "a.png")).read_bytes()}
        rows = {"label": [0], **({} if column == "text" else {"img": [picture]}), column: values}
        table = pyarrow.table(dict(sorted(rows.items(), key=lambda row: row[0] == "label")))
        pyarrow.parquet.write_table(table, folder / "train.parquet")
        assert message in refusal(folder)


def test_without_pyarrow_a_parquet_file_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyarrow")
    write_parquet(tmp_path)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    assert "pip install 'fastcifar[parquet]'" in refusal(tmp_path)


def _assert_held_out(opened: Source, train: int, test: int) -> None:
    """Check that the training images of `records` were divided, and that a note says so."""
    assert (len(opened.train.images), len(opened.test.images)) == (train, test)
    both = np.concatenate([opened.train.images, opened.test.images])
    expected = as_images(records()[:5])
    assert sorted(image.tobytes() for image in both) == sorted(image.tobytes() for image in expected)
    (note,) = opened.notes
    assert f"{test} of its {train + test} images" in note


def test_kaggles_pictures_are_read_and_divided_into_two_splits(tmp_path: Path) -> None:
    write_kaggle(tmp_path / "kaggle")
    opened = open_source(tmp_path, test_fraction=0.5)
    assert opened.class_names == cifar10.CLASSES
    _assert_held_out(opened, 10, 10)
    assert sorted(_labels(opened.test)) == sorted(_labels(opened.train)) == [*range(10)], "stratified"
    again = open_source(tmp_path, test_fraction=0.5)
    assert np.array_equal(opened.test.images, again.test.images)
    other = open_source(tmp_path, test_fraction=0.5, seed=1)
    assert not np.array_equal(opened.test.images, other.test.images)
    by_label = {image.tobytes(): label for image, label in zip(*opened.train, strict=True)}
    for image, label in zip(as_images(records()[:5]), records()[:5, :, 0].ravel(), strict=True):
        assert by_label.get(image.tobytes(), label) == label


def test_kaggles_folder_with_something_missing_is_refused(tmp_path: Path) -> None:
    folder = write_kaggle(tmp_path)
    (folder / "train").rename(folder / "moved")
    assert "is Kaggle's CIFAR-10 without the folder train; unpack train.7z" in refusal(folder)
    (folder / "train").mkdir()
    (folder / "moved").rename(folder / "train" / "train")
    assert open_source(folder).name == "kaggle", "unpacked into a folder of the same name"
    (folder / "train" / "train" / "7.png").unlink()
    assert "has no 7.png, which trainLabels.csv names (1 of 20 pictures are missing)" in refusal(folder)
    for text in (
        "a,b\n1,cat\n",
        "id,label\n1\n",
        "id,label\n",
        "id,label\n1,cat\n1,dog\n",
        "id,label\n../1,cat\n2,a\n",
    ):
        (folder / "trainLabels.csv").write_text(text)
        assert "trainLabels.csv: " in refusal(folder)


@pytest.mark.usefixtures("official")
def test_a_npz_file_gives_the_same_images_as_the_official_files(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "datasets" / "cifar.npz")
    assert_equals_records(open_source(path))
    assert_equals_records(open_source(tmp_path))


@pytest.mark.parametrize("shape", [(40, 8, 9), (40, 8, 9, 1), (40, 1, 8, 9), (40, 3, 8, 9), (40, 8, 9, 3)])
def test_a_npz_file_may_have_grey_images_channels_first_and_no_test_split(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    images = np.random.default_rng(0).integers(0, 256, shape)
    labels = np.arange(40, dtype=np.float32) % 2
    opened = open_source(write_npz(tmp_path / "a.npz", train_images=images, train_labels=labels), test_fraction=0.25)
    assert (len(opened.train.images), opened.test.images.shape) == (30, (10, 8, 9, 3))
    assert opened.class_names == ("0", "1")
    channels = images.transpose(0, 2, 3, 1) if shape[1] in (1, 3) else images.reshape(40, 8, 9, -1)
    expected = {image.tobytes() for image in np.broadcast_to(channels, (40, 8, 9, 3)).astype(np.uint8)}
    assert {image.tobytes() for image in opened.train.images} <= expected
    assert "10 of its 40 images (25 % of each class, seed 0) become test.beton" in opened.notes[0]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": np.zeros(3)}, "has no x_train and y_train (it has a)"),
        ({"x_train": np.zeros((2, 4, 4), np.uint8)}, "has no y_train"),
        ({"x_train": np.zeros((2, 4), np.uint8), "y_train": np.zeros(2)}, "x_train must be [N, H, W]"),
        ({"x_train": np.zeros((2, 4, 4, 4), np.uint8), "y_train": np.zeros(2)}, "not [2, 4, 4, 4]"),
        ({"x_train": np.zeros((2, 4, 4), np.float32), "y_train": np.zeros(2)}, "x_train must be uint8"),
        ({"x_train": np.zeros((2, 4, 4), np.uint8), "y_train": np.array([0.5, 1])}, "y_train must be 2 whole numbers"),
        ({"x_train": np.zeros((2, 4, 4), np.uint8), "y_train": np.eye(2)}, "y_train must be 2 whole numbers"),
        ({"x_train": np.zeros((2, 4, 4), np.uint8), "y_train": np.array(["a", "b"])}, "y_train must be 2 whole"),
        (
            {
                "x_train": np.zeros((2, 4, 4), np.uint8),
                "y_train": np.zeros(2),
                "x_test": np.zeros((2, 5, 4), np.uint8),
                "y_test": np.zeros(2),
            },
            "the training images are 4 × 4 pixels, the test images 5 × 4",
        ),
        ({"x_train": np.array([{}], dtype=object), "y_train": np.zeros(1)}, "cannot be read as a .npz file"),
    ],
)
def test_a_npz_file_of_another_form_is_refused(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    assert message in refusal(write_npz(tmp_path / "a.npz", **arrays))


def test_a_damaged_npz_file_is_refused(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "a.npz")
    for content in (b"", b"PK\x03\x04 cut off", path.read_bytes()[:-100], path.read_bytes()[:5000]):
        path.write_bytes(content)
        assert "a.npz: cannot be read as a .npz file" in refusal(path)


def test_several_data_sets_at_one_depth_are_ambiguous(tmp_path: Path) -> None:
    write_python(tmp_path / "cifar-10-batches-py")
    write_cifar100_python(tmp_path / "cifar-100-python")
    write_npz(tmp_path / "mnist" / "a.npz")
    write_npz(tmp_path / "mnist" / "b.npz")
    message = refusal(tmp_path)
    for text in (
        "has 4 data sets: ",
        "cifar-10-batches-py (cifar10)",
        "b.npz (npz)",
        "choose one with `fastcifar write-beton --source-format`",
    ):
        assert text in message
    assert open_source(tmp_path, source_format="cifar10").name == "cifar-10-python"
    assert open_source(tmp_path, source_format="cifar100").name == "cifar-100-python"
    assert "has 2 data sets" in refusal(tmp_path, source_format="npz")
    assert "there is no data set of the format kaggle in this folder or the 3 folders" in refusal(
        tmp_path, source_format="kaggle"
    )
    with pytest.raises(ConfigError, match="there is no source format 'kagle': did you mean kaggle"):
        open_source(tmp_path, source_format="kagle")


def test_auto_takes_cifar10_where_there_are_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the root folder of torchvision's data sets."""
    write_python(tmp_path / "cifar-10-batches-py")
    write_cifar100_python(tmp_path / "cifar-100-python")
    monkeypatch.setenv("FASTCIFAR_DATA", str(tmp_path))
    assert_equals_records(open_source())


def test_the_nearest_data_set_is_taken_and_equal_ones_are_not_ambiguous(tmp_path: Path) -> None:
    write_binary(tmp_path / "near" / "cifar-10-batches-bin")
    write_python(tmp_path / "near" / "cifar-10-batches-py")
    write_image_folder(tmp_path / "near" / "x" / "pets")
    assert find_data_set(tmp_path) == ("cifar10", tmp_path / "near" / "cifar-10-batches-bin")
    shutil.rmtree(tmp_path / "near" / "cifar-10-batches-bin")
    assert find_data_set(tmp_path) == ("cifar10", tmp_path / "near" / "cifar-10-batches-py")
    shutil.rmtree(tmp_path / "near" / "cifar-10-batches-py")
    assert find_data_set(tmp_path) == ("image-folder", tmp_path / "near" / "x" / "pets")


def test_a_recognised_folder_that_is_incomplete_says_what_is_missing(tmp_path: Path) -> None:
    folder = write_python(tmp_path / "cifar-10-batches-py")
    for name in (*BATCHES[2:], "batches.meta"):
        (folder / name).unlink()
    assert "is CIFAR-10's python version without data_batch_3, data_batch_4, " in refusal(tmp_path)
    folder = write_cifar100_python(tmp_path / "b" / "c100")
    (folder / "test").unlink()
    assert "is CIFAR-100's python version without test; unpack" in refusal(tmp_path / "b")


def test_folders_called_train_or_test_do_not_hide_a_data_set(tmp_path: Path) -> None:
    for name in ("train", "test"):
        (tmp_path / name).mkdir()
    (tmp_path / "train" / "log.txt").write_text("1")
    write_python(tmp_path / "a" / "b" / "cifar-10-batches-py")
    assert_equals_records(open_source(tmp_path))
    shutil.rmtree(tmp_path / "a")
    assert f"{tmp_path / 'train'}: it has 0 class folders" in refusal(tmp_path)


def test_a_file_of_no_known_format_is_refused(tmp_path: Path) -> None:
    picture = write_picture(tmp_path / "a.png")
    assert "a.png: this file is of no known format; a source is " in refusal(picture)


def test_a_test_fraction_is_for_sources_without_a_test_split(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"test_fraction is 0\.5; leave it out, since .* has a test split"):
        open_source(write_npz(tmp_path / "a.npz"), test_fraction=0.5)
    options: dict[str, Any]
    for options in ({"test_fraction": 1.5}, {"test_fraction": "half"}, {"labels": "medium"}, {"on_progress": 3}):
        ((name, value),) = options.items()
        with pytest.raises(ConfigError, match=f"{name} is {value!r}; it must be "):
            open_source(tmp_path / "a.npz", **options)


def test_the_help_and_the_error_name_every_format(tmp_path: Path) -> None:
    help_text, message = inspect.getsource(WriteBeton), refusal(tmp_path / "nowhere")
    for name, one in FORMATS.items():
        assert re.search(rf"\b{name}\b", help_text), name
        assert f"{name} ({one.looks})" in message


def test_a_path_that_is_not_utf8_is_written_readably(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    opened = open_source(write_npz(folder / "a.npz"))
    manifest, _ = write_pair(tmp_path / "out", opened)
    assert manifest.source == f"{tmp_path}/caf\\xe9/a.npz"
    assert read_pair(tmp_path / "out")[0] == manifest


def test_write_beton_prints_how_a_missing_test_split_was_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_kaggle(tmp_path / "kaggle")
    assert WriteBeton(source=str(tmp_path / "kaggle"), out=tmp_path / "out", test_fraction=0.5).run() == 0
    shown = capsys.readouterr()
    assert "kaggle has no test split with labels: 10 of its 20 images (50 % of each class, seed 0)" in shown.err
    assert "train.beton: 10 images of kaggle" in shown.out


def test_an_empty_file_of_names_and_pictures_without_kaggles_labels_are_named(tmp_path: Path) -> None:
    write_binary(tmp_path / "cifar-10-batches-bin")
    (tmp_path / "cifar-10-batches-bin" / "batches.meta.txt").write_text("")
    assert "batches.meta.txt: it has no names of classes" in refusal(tmp_path)
    write_kaggle(tmp_path / "kaggle")
    (tmp_path / "kaggle" / "trainLabels.csv").unlink()
    assert "for Kaggle's pictures, put trainLabels.csv beside this folder" in refusal(tmp_path / "kaggle")
