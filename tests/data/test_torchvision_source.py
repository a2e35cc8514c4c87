"""Data sets of torchvision by name, from small files in the layouts in which torchvision keeps them."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets
from torchvision.datasets.vision import VisionDataset

from fastcifar.cli import main
from fastcifar.data import cifar10, source_check, torchvision_sets
from fastcifar.data.source_check import check_source
from fastcifar.data.sources import open_source
from fastcifar.data.torchvision_sets import data_set_names
from fastcifar.errors import ConfigError, DataError
from fastcifar.progress import Progress
from tests.data.cifar_files import BATCHES, assert_equals_records, records, refusal

pytestmark = pytest.mark.usefixtures("no_source_variable")
COUNTS = {"train": 40, "test": 20}


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every download fail, as without a network, and start in an empty folder."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.chdir(tmp_path)


def draw(split: str, *shape: int, classes: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Return random pixels uint8 [N, *shape], and labels uint8 [N] of all classes."""
    count = COUNTS[split]
    pixels = np.random.default_rng(count).integers(0, 256, (count, *shape), dtype=np.uint8)
    return pixels, (np.arange(count) % classes).astype(np.uint8)


def write_idx(root: Path, name: str = "FashionMNIST", prefix: str = "") -> Path:
    """Write the unpacked files of MNIST and its relatives."""
    raw = root / name / "raw"
    raw.mkdir(parents=True)
    for split, stem in (("train", "train"), ("test", "test" if prefix else "t10k")):
        pixels, labels = draw(split, 28, 28)
        for kind, array in (("images-idx3", pixels), ("labels-idx1", labels)):
            sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
            (raw / f"{prefix}{stem}-{kind}-ubyte").write_bytes(bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes())
    return root


def md5(path: Path) -> str:
    """Return the MD5 of a file."""
    return hashlib.md5(path.read_bytes()).hexdigest()


def write_cifar10(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write the python version of `records`, and let torchvision accept it."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name, batch in zip(BATCHES, records(), strict=True):
        (folder / name).write_bytes(pickle.dumps({"data": batch[:, 1:], "labels": batch[:, 0].tolist()}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list(cifar10.CLASSES)}))
    sums = [[name, md5(folder / name)] for name in BATCHES]
    monkeypatch.setattr(datasets.CIFAR10, "train_list", sums[:5])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", sums[5:])
    monkeypatch.setitem(datasets.CIFAR10.meta, "md5", md5(folder / "batches.meta"))
    return root


def write_stl10(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write STL-10's binary files, whose images are stored by columns, and let torchvision accept them."""
    folder = root / "stl10_binary"
    folder.mkdir(parents=True)
    for split in COUNTS:
        pixels, labels = draw(split, 96, 96, 3)
        (folder / f"{split}_X.bin").write_bytes(pixels.transpose(0, 3, 2, 1).tobytes())
        (folder / f"{split}_y.bin").write_bytes((labels + 1).tobytes())
    (folder / "unlabeled_X.bin").write_bytes(b"")
    (folder / "class_names.txt").write_text("\n".join(cifar10.CLASSES) + "\n")
    for kind, names in (("train_list", ("train_X", "train_y", "unlabeled_X")), ("test_list", ("test_X", "test_y"))):
        sums = [[f"{name}.bin", md5(folder / f"{name}.bin")] for name in names]
        monkeypatch.setattr(datasets.STL10, kind, sums)
    return root


class Signs(VisionDataset):
    """Pictures of several sizes, made when they are asked for, without names of classes, as GTSRB has them."""

    downloads: tuple[bool, ...] = ()
    item: Callable[[int], tuple[Any, Any]] | None = None

    def __init__(
        self, root: str, split: str = "train", transform: Callable[..., Any] | None = None, download: bool = False
    ) -> None:
        type(self).downloads += (download,)
        file = Path(root) / "signs.txt"
        if download:
            print("Downloading")
            file.write_text("here")
        elif not file.exists():
            raise RuntimeError("Dataset not found. You can use download=True to download it")
        self.count = {"train": 30, "test": 10}[split]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        if self.item:
            return self.item(index)
        return Image.new("L", (20 + index % 3, 24), 5 * index), index % 43


@pytest.fixture
def signs(monkeypatch: pytest.MonkeyPatch) -> type[Signs]:
    """The class `Signs` in the place of GTSRB."""
    fresh = type("GTSRB", (Signs,), {"downloads": ()})
    monkeypatch.setattr(datasets, "GTSRB", fresh)
    return fresh


def test_fashion_mnist_becomes_three_equal_channels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTCIFAR_DATA", str(write_idx(tmp_path / "sets")))
    opened = open_source("torchvision:fashionMNIST")
    for split in ("train", "test"):
        images, labels = getattr(opened, split)
        pixels, expected = draw(split, 28, 28)
        np.testing.assert_array_equal(images, np.repeat(pixels[..., None], 3, axis=3))
        np.testing.assert_array_equal(labels, expected)
        assert (images.dtype, labels.dtype, images.flags.c_contiguous) == (np.uint8, np.int64, True)
    assert opened.class_names == tuple(datasets.FashionMNIST.classes)
    assert opened.origin is not None
    assert opened.origin.path == opened.origin.fingerprint == opened.name == "torchvision:fashionmnist"


def test_emnist_gives_its_balanced_classes(tmp_path: Path) -> None:
    write_idx(tmp_path / "data" / "torchvision", "EMNIST", "emnist-balanced-")
    opened = open_source("torchvision:EMNIST")
    assert len(opened.class_names) == 47
    np.testing.assert_array_equal(opened.test.images[..., 1], draw("test", 28, 28)[0])


def test_qmnist_gives_the_first_of_its_columns_of_labels(tmp_path: Path) -> None:
    raw = tmp_path / "QMNIST" / "raw"
    raw.mkdir(parents=True)
    for split in COUNTS:
        pixels, labels = draw(split, 28, 28)
        columns = np.stack([labels, *[labels + 50] * 7], axis=1).astype(">i4")
        for kind, code, array in (("images-idx3-ubyte", 8, pixels), ("labels-idx2-int", 12, columns)):
            sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
            file = raw / f"qmnist-{split}-{kind}"
            file.write_bytes(bytes([0, 0, code, array.ndim]) + sizes + array.tobytes())
    opened = open_source("torchvision:QMNIST", cache=tmp_path)
    np.testing.assert_array_equal(opened.test.labels, draw("test", 28, 28)[1])
    np.testing.assert_array_equal(opened.test.images[..., 2], draw("test", 28, 28)[0])


def test_cifar10_equals_the_images_of_the_python_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = open_source("torchvision:CIFAR10", cache=write_cifar10(tmp_path / "sets", monkeypatch))
    assert_equals_records(opened)


def test_stl10_can_be_resized(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_stl10(tmp_path / "sets", monkeypatch)
    pixels, labels = draw("train", 96, 96, 3)
    whole, small = (open_source("torchvision:STL10", cache=root, resize=size) for size in (None, 32))
    np.testing.assert_array_equal(whole.train.images, pixels)
    np.testing.assert_array_equal(whole.train.labels, labels)
    assert whole.class_names == small.class_names == cifar10.CLASSES
    assert small.test.images.shape == (20, 32, 32, 3)
    resized = Image.fromarray(pixels[7]).resize((32, 32), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(small.train.images[7], np.asarray(resized))


def test_svhn_has_digits_for_names(monkeypatch: pytest.MonkeyPatch) -> None:
    class SVHN(VisionDataset):
        def __init__(self, root: str, split: str = "train", transform: Any = None, download: bool = False) -> None:
            pixels, self.labels = draw(split, 32, 32, 3)
            self.data = pixels.transpose(0, 3, 1, 2)

        def __len__(self) -> int:
            return len(self.data)

        def __getitem__(self, index: int) -> tuple[Image.Image, int]:
            return Image.fromarray(self.data[index].transpose(1, 2, 0)), int(self.labels[index])

    monkeypatch.setattr(datasets, "SVHN", SVHN)
    monkeypatch.setattr(torchvision_sets, "find_spec", lambda _: object())
    opened = open_source("torchvision:SVHN")
    np.testing.assert_array_equal(opened.train.images, draw("train", 32, 32, 3)[0])
    assert opened.class_names == tuple("0123456789")


def test_a_missing_package_is_named_before_the_download(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision_sets, "find_spec", lambda _: None)
    assert "torchvision needs the package scipy to read it; run `pip install scipy`" in refusal("torchvision:svhn")


def test_pictures_of_several_sizes_are_resized_with_progress(signs: type[Signs], tmp_path: Path) -> None:
    tmp_path.joinpath("signs.txt").touch()
    assert "image 0 is 20x24 pixels, image 1 is 21x24; use --resize 32" in refusal("torchvision:gtsrb", cache=tmp_path)
    shown: list[Progress] = []
    opened = open_source("torchvision:gtsrb", cache=tmp_path, resize=8, on_progress=shown.append)
    assert opened.train.images.shape == (30, 8, 8, 3)
    np.testing.assert_array_equal(opened.train.images[:, 0, 0, 2], 5 * np.arange(30))
    assert opened.class_names == tuple(map(str, range(30)))
    assert [(one.task, one.done, one.total) for one in shown] == [
        ("reading torchvision:gtsrb, train", 30, 30),
        ("reading torchvision:gtsrb, test", 10, 10),
    ]
    assert signs.downloads == (False,) * 4


def test_only_missing_files_are_downloaded_and_nothing_is_printed(
    signs: type[Signs], capsys: pytest.CaptureFixture[str]
) -> None:
    shown: list[Progress] = []
    open_source("torchvision:GTSRB", resize=8, on_progress=shown.append)
    assert signs.downloads == (False, True, False)
    assert shown[0].task == "downloading GTSRB to data/torchvision"
    assert Path("data/torchvision/signs.txt").exists()
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("label", [None, (1, 2), 0.5, -1])
def test_a_label_that_is_no_class_is_an_error(signs: type[Signs], label: object) -> None:
    signs.item = staticmethod(lambda _: (Image.new("RGB", (8, 8)), label))
    assert "torchvision:gtsrb, train" in refusal("torchvision:gtsrb")


@pytest.mark.parametrize("data", [np.zeros((30, 24), np.uint8), np.zeros((30, 24, 20), np.uint8)])
def test_arrays_that_are_not_the_pictures_are_not_taken(
    signs: type[Signs], data: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.joinpath("signs.txt").touch()
    signs.item = staticmethod(lambda index: (Image.new("L", (20, 24), 100 + index), index))
    monkeypatch.setattr(signs, "data", data, raising=False)
    monkeypatch.setattr(signs, "targets", list(range(30)), raising=False)
    opened = open_source("torchvision:GTSRB", cache=tmp_path)
    np.testing.assert_array_equal(opened.train.images[:, 0, 0, 0], 100 + np.arange(30))
    np.testing.assert_array_equal(opened.train.labels, np.arange(30))


def test_damaged_pictures_and_empty_splits_are_errors(signs: type[Signs], monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(index: int) -> tuple[Any, Any]:
        raise OSError(f"image file is truncated\n({index} bytes not processed)")

    signs.item = staticmethod(damaged)
    assert "train: cannot be read (image file is truncated (0 bytes not processed))" in refusal("torchvision:GTSRB")
    monkeypatch.setattr(signs, "__len__", lambda _: 0)
    assert "torchvision:GTSRB, train: has no images" in refusal("torchvision:GTSRB")


def test_without_a_network_the_error_says_where_the_files_belong(tmp_path: Path) -> None:
    message = refusal("torchvision:MNIST")
    for part in (
        "torchvision:MNIST",
        "data/torchvision",
        "Name or service not known",
        "download=True",
        "FASTCIFAR_DATA",
    ):
        assert part in message
    message = refusal("torchvision:FER2013", cache=tmp_path)
    assert f"cannot be read from {tmp_path}" in message
    assert "torchvision does not download it" in message


def test_damaged_files_are_named(tmp_path: Path) -> None:
    file = write_idx(tmp_path) / "FashionMNIST" / "raw" / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-100])
    assert f"can neither be read from {tmp_path}" in refusal("torchvision:FashionMNIST", cache=tmp_path)


def test_a_variable_that_is_not_a_folder_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTCIFAR_DATA", str(tmp_path / "cifar-10-python.tar.gz"))
    assert "which is not a folder" in refusal("torchvision:MNIST")


def test_unknown_names_suggest_the_closest_and_other_tasks_are_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean torchvision:FashionMNIST"):
        open_source("torchvision:FashonMNIST")
    for name in ("CocoDetection", "vocsegmentation", "CelebA", "Kinetics", "EuroSAT", "FakeData", "ImageFolder"):
        with pytest.raises(ConfigError, match="does not have a training and a test split with one class per image"):
            open_source(f"torchvision:{name}")
    with pytest.raises(ConfigError, match="torchvision has no such data set"):
        open_source("torchvision:")
    with pytest.raises(ConfigError, match="labels is 'coarse'"):
        open_source("torchvision:CIFAR100", labels="coarse")


def test_every_other_task_of_torchvision_is_left_out() -> None:
    assert {"CIFAR10", "CIFAR100", "EMNIST", "FashionMNIST", "GTSRB", "KMNIST", "MNIST", "QMNIST", "STL10", "SVHN",
            "USPS", "Imagenette", "OxfordIIITPet"} <= set(data_set_names())  # fmt: skip
    left_out = set(datasets.__all__) - set(data_set_names())
    assert {"CocoCaptions", "Kitti", "KittiFlow", "LFWPairs", "PhotoTour", "UCF101", "VOCDetection"} <= left_out


def test_files_are_known_by_the_name_of_their_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTCIFAR_DATA", str(write_idx(tmp_path / "sets")))
    write_idx(tmp_path / "sets", "KMNIST")
    file = tmp_path / "sets" / "KMNIST" / "raw" / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    assert main(["write-beton", "--source", "torchvision:FashionMNIST", "--out", "out", "--resize", "8"]) == 0
    with pytest.raises(DataError, match="written from torchvision:fashionmnist, and not what the source torchvision:K"):
        check_source(Path("out"), "torchvision:KMNIST")
    monkeypatch.setattr(source_check, "open_source", None)
    check_source(Path("out"), "TORCHVISION:fashionmnist")


def test_a_training_takes_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTCIFAR_DATA", str(write_idx(tmp_path / "sets")))
    arguments = ["train", "--source", "torchvision:FashionMNIST", "--recipe", "quick", "--epochs", "1"]
    arguments += ["--batch-size", "20", "--max-lr", "1e-3", "--device", "cpu", "--run-dir", "run"]
    assert main([*arguments, "--data-dir", "out"]) == 0
    assert "Ankle boot" in Path("run/report/report.html").read_text()
