"""Files of FFCV's own writer become ours, and FFCV's own loader reads ours."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fastcifar import TrainConfig, create_loader
from fastcifar.cli import main
from fastcifar.data import cifar10
from fastcifar.data.adopt import adopt, rewrite
from fastcifar.data.beton_format import FIELD, HEADER
from fastcifar.data.decode_all import decode_all
from fastcifar.data.manifest import CIFAR10_CONTENT, dataset_sha256, manifest_path, open_beton
from fastcifar.errors import DataError
from tests.data.conftest import NAMES
from tests.helpers import train_tiny

pytest.importorskip("ffcv")
COLOURS = np.random.default_rng(0).integers(0, 256, (12, 3), dtype=np.uint8)


def _write(path: Path, fields: dict[str, Any], rows: list[tuple[Any, ...]]) -> Path:
    """Write a file as FFCV's examples do."""
    from ffcv.writer import DatasetWriter

    writer = DatasetWriter(str(path), fields, num_workers=1)
    writer.from_indexed_dataset(rows)
    return path


def _plain(path: Path, images: np.ndarray, labels: Any, names: tuple[str, str] = ("img", "target")) -> Path:
    from ffcv.fields import IntField, RGBImageField

    rows = [(image, int(label)) for image, label in zip(images, labels, strict=True)]
    return _write(path, dict(zip(names, (RGBImageField(), IntField()), strict=True)), rows)


def _mixed(path: Path, height: int = 24) -> Path:
    """Write images of one colour each, some as JPEG, of several sizes, with a weight and two more integers."""
    from ffcv.fields import FloatField, IntField, JSONField, RGBImageField

    fields = {
        "weight": FloatField(), "label": IntField(), "note": JSONField(), "row": IntField(),
        "picture": RGBImageField(write_mode="smart", smart_threshold=16 * 16 * 3, jpeg_quality=100),
    }  # fmt: skip
    sizes = [(16, 16) if row % 2 else (height, 32) for row in range(len(COLOURS))]
    images = [np.broadcast_to(colour, (*size, 3)).copy() for colour, size in zip(COLOURS, sizes, strict=True)]
    return _write(path, fields, [(0.5, row % 3, {"a": row}, row, image) for row, image in enumerate(images)])


@pytest.mark.parametrize("names", [("image", "label"), ("img", "target")])
def test_a_file_of_ffcvs_writer_gives_the_same_batches_from_both_decoders(
    tmp_path: Path, pictures: np.ndarray, labels: np.ndarray, names: tuple[str, str]
) -> None:
    path = _plain(tmp_path / "cifar_train.beton", pictures, labels, names)
    with pytest.raises(DataError, match=rf"has no manifest, .*; if FFCV's own writer .*`fastcifar adopt {path}`"):
        open_beton(path)
    before = path.read_bytes()
    manifest = adopt(path, class_names=NAMES)
    assert path.read_bytes() == before
    assert (manifest.class_names, manifest.name, manifest.samples) == (NAMES, "cifar_train", 64)
    assert open_beton(path)[1] == manifest
    for kind in ("ffcv", "memmap"):
        with create_loader(path, batch_size=10, train=False, loader=kind) as loader:
            batches = list(loader.batches())
        assert np.array_equal(torch.cat([images for images, _ in batches]).permute(0, 2, 3, 1).numpy(), pictures)
        assert np.array_equal(torch.cat([numbers for _, numbers in batches]).numpy(), labels)


def test_the_files_of_ffcvs_example_are_trained_on(tmp_path: Path, config: TrainConfig, pictures: np.ndarray) -> None:
    """Its write_datasets.py gives torchvision's pairs of a PIL image and a label to the writer."""
    from ffcv.fields import IntField, RGBImageField

    labels = np.arange(64) % 10
    for split in ("train", "test"):
        pairs = [(Image.fromarray(image), label) for image, label in zip(pictures, labels.tolist(), strict=True)]
        path = _write(tmp_path / f"{split}.beton", {"image": RGBImageField(), "label": IntField()}, pairs)
        assert main(["adopt", str(path), "--class-names", *cifar10.CLASSES]) == 0
    images, numbers = decode_all(tmp_path / "train.beton")
    assert np.array_equal(images, pictures)
    assert np.array_equal(numbers, labels)
    (result,) = train_tiny(config.replace(data_dir=tmp_path, epochs=1))
    assert result.test_loss > 0


@pytest.mark.filterwarnings("ignore:Using a pytorch transform on the CPU:ResourceWarning")
def test_the_pipeline_of_ffcvs_example_reads_our_files(file: Path, pictures: np.ndarray, labels: np.ndarray) -> None:
    """As in its train_cifar.py, on the CPU and without random operations."""
    from ffcv.fields.decoders import IntDecoder, SimpleRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import Convert, ToDevice, ToTensor, ToTorchImage
    from ffcv.transforms.common import Squeeze
    from torchvision.transforms import Normalize

    threads, cpu = torch.get_num_threads(), torch.device("cpu")
    normalize = Normalize([125.307, 122.961, 113.8575], [51.5865, 50.847, 51.255])
    convert = [ToTensor(), ToDevice(cpu, non_blocking=True), ToTorchImage(), Convert(torch.float16), normalize]
    pipelines = {
        "image": [SimpleRGBImageDecoder(), *convert],
        "label": [IntDecoder(), ToTensor(), ToDevice(cpu), Squeeze()],
    }
    loader = Loader(str(file), 24, num_workers=1, order=OrderOption.SEQUENTIAL, drop_last=False, pipelines=pipelines)
    batches = [(images.clone(), numbers.clone()) for images, numbers in loader]
    torch.set_num_threads(threads)
    assert [len(images) for images, _ in batches] == [24, 24, 16]
    expected = normalize(torch.from_numpy(pictures).permute(0, 3, 1, 2).half())
    assert torch.equal(torch.cat([images for images, _ in batches]), expected)
    assert np.array_equal(torch.cat([numbers for _, numbers in batches]).numpy(), labels)


def test_the_classes_have_digits_or_for_cifar10_its_names(
    tmp_path: Path, pictures: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = np.arange(64) % 10
    path = _plain(tmp_path / "a.beton", pictures, labels)
    assert adopt(path).class_names == tuple("0123456789")
    with pytest.raises(DataError, match=r"a\.beton\.json: is there already; remove it first"):
        adopt(path)
    manifest_path(path).unlink()
    monkeypatch.setitem(CIFAR10_CONTENT, "train", dataset_sha256(pictures, labels))
    assert adopt(path).class_names == cifar10.CLASSES
    assert open_beton(path)[1].name == "cifar10"


def test_jpeg_images_of_several_sizes_are_rewritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, target = _mixed(tmp_path / "mixed.beton"), tmp_path / "new" / "train.beton"
    assert main(["adopt", str(path)]) == 1
    assert "it has 5 fields, not one RGB image and one integer label; `fastcifar adopt" in capsys.readouterr().err
    assert main(["adopt", str(path), "--rewrite", str(target)]) == 1
    assert "mixed.beton, image 0 is 32x24 pixels, " in capsys.readouterr().err
    names = ["cat", "dog", "emu"]
    assert main(["adopt", str(path), "--rewrite", str(target), "--resize", "8", "--class-names", *names]) == 0
    assert f"{target}: 12 images of mixed, 3 classes" in capsys.readouterr().out
    images, labels = decode_all(target)
    assert images.shape == (12, 8, 8, 3)
    assert labels.tolist() == [row % 3 for row in range(12)]
    assert np.abs(images.astype(int) - COLOURS[:, None, None]).max() <= 2
    assert open_beton(target)[1].class_names == tuple(names)
    assert not manifest_path(path).exists()


def test_uncompressed_images_are_rewritten_without_a_change(
    tmp_path: Path, pictures: np.ndarray, labels: np.ndarray
) -> None:
    path = _plain(tmp_path / "a.beton", pictures, labels)
    rewrite(path, tmp_path / "train.beton")
    assert np.array_equal(decode_all(tmp_path / "train.beton")[0], pictures)
    with pytest.raises(DataError, match="is the file to read; choose another name"):
        rewrite(path, path)


@pytest.mark.parametrize(
    "options",
    [{"write_mode": "jpg"}, {"write_mode": "proportion", "compress_probability": 0.5}],
    ids=lambda options: options["write_mode"],
)
def test_jpeg_images_of_one_size_are_rewritten(tmp_path: Path, options: dict[str, Any]) -> None:
    from ffcv.fields import IntField, RGBImageField

    rows = [(np.broadcast_to(colour, (32, 32, 3)).copy(), row) for row, colour in enumerate(COLOURS)]
    fields = {"image": RGBImageField(jpeg_quality=100, **options), "label": IntField()}
    path = _write(tmp_path / "a.beton", fields, rows)
    with pytest.raises(DataError, match=r"not all uncompressed .*; `fastcifar adopt \S+ --rewrite NEW\.beton` makes"):
        adopt(path)
    rewrite(path, tmp_path / "train.beton")
    images, labels = decode_all(tmp_path / "train.beton")
    assert labels.tolist() == list(range(12))
    assert np.abs(images.astype(int) - COLOURS[:, None, None]).max() <= 2


def test_the_fields_are_chosen_by_name_where_there_are_several(
    tmp_path: Path, pictures: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    from ffcv.fields import IntField, RGBImageField

    fields = {"left": RGBImageField(), "age": IntField(), "right": RGBImageField(), "height": IntField()}
    rows = [(image, 0, 255 - image, row % 2) for row, image in enumerate(pictures[:4])]
    path, target = _write(tmp_path / "a.beton", fields, rows), tmp_path / "train.beton"
    command = ["adopt", str(path), "--rewrite", str(target)]
    listed = "its fields are left (RGB image), age (integer), right (RGB image), height (integer); choose one with"
    for more, message in (
        ([], "must have one integer field, or one called label or target"),
        (["--label-field", "height"], "must have one RGB image field, or one called image or img"),
        (["--label-field", "right"], "has no field 'right' that is an integer"),
    ):
        assert main([*command, *more]) == 1
        err = capsys.readouterr().err
        assert f"{path}: {message}; {listed}" in err
    with pytest.raises(SystemExit):
        main(["adopt", str(path), "--image-field", "left"])
    assert "image_field is left; it needs --rewrite" in capsys.readouterr().err
    assert main([*command, "--image-field", "right", "--label-field", "height"]) == 0
    images, labels = decode_all(target)
    assert np.array_equal(images, 255 - pictures[:4])
    assert labels.tolist() == [0, 1, 0, 1]


def test_a_file_whose_label_comes_first_is_rewritten(tmp_path: Path, pictures: np.ndarray) -> None:
    from ffcv.fields import IntField, RGBImageField

    rows = [(row % 2, image) for row, image in enumerate(pictures[:4])]
    path = _write(tmp_path / "a.beton", {"label": IntField(), "image": RGBImageField()}, rows)
    with pytest.raises(DataError, match="not one RGB image and then one integer label; `fastcifar adopt"):
        adopt(path)
    rewrite(path, tmp_path / "train.beton")
    assert np.array_equal(decode_all(tmp_path / "train.beton")[0], pictures[:4])


def test_fields_that_are_no_image_or_no_integer_are_refused(tmp_path: Path, pictures: np.ndarray) -> None:
    from ffcv.fields import FloatField, IntField, NDArrayField, RGBImageField

    array = NDArrayField(np.dtype(np.int64), (1,))
    cases = [
        ({"image": RGBImageField(), "label": FloatField()}, (pictures[0], 1.0), "one integer field, .*label .float"),
        (
            {"image": RGBImageField(), "label": array},
            (pictures[0], np.ones(1, int)),
            "one integer field, .*label .array",
        ),
        ({"x": FloatField(), "label": IntField()}, (0.5, 1), "one RGB image field, .* x .float., label .integer.$"),
    ]
    for number, (fields, row, message) in enumerate(cases):
        path = _write(tmp_path / f"{number}.beton", fields, [row] * 4)
        for function in (adopt, lambda file: rewrite(file, tmp_path / "b.beton")):
            with pytest.raises(DataError, match=rf"{path}: must have {message}"):
                function(path)


def test_labels_that_do_not_fit_the_class_names_are_refused(tmp_path: Path, pictures: np.ndarray) -> None:
    negative = _plain(tmp_path / "a.beton", pictures[:4], [0, 1, -1, 0])
    for names in ((), NAMES):
        with pytest.raises(DataError, match="label 2 is -1"):
            adopt(negative, class_names=names)
    path = _plain(tmp_path / "b.beton", pictures[:4], [0, 1, 2, 0])
    with pytest.raises(DataError, match="has labels up to 2, so it needs 3 names of classes, not 2"):
        adopt(path, class_names=NAMES)
    with pytest.raises(DataError, match="class_names has 'a' twice"):
        adopt(path, class_names=("a", "b", "a"))
    assert adopt(path, class_names=("a", "b", "c", "absent")).class_names[3] == "absent"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A file of FFCV's writer."""
    images = np.zeros((8, 16, 16, 3), dtype=np.uint8)
    return _plain(tmp_path_factory.mktemp("ffcv") / "a.beton", images, range(8)).read_bytes()


def _overwrite(path: Path, position: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        file.write(content)


@pytest.mark.parametrize(
    ("position", "content", "message"),
    [
        (0, b"\x01\x00", "it is not a .beton of version 2"),
        (HEADER.fields["alloc_table_ptr"][1], bytes(8), "it is incomplete"),
        (HEADER.fields["alloc_table_ptr"][1], b"\xff" * 8, "cannot be read"),
        (HEADER.fields["alloc_table_ptr"][1], (10**9).to_bytes(8, "little"), "cannot be read"),
        (HEADER.fields["num_samples"][1], b"\xff" * 8, "cannot be read"),
        (HEADER.fields["num_samples"][1], (10**6).to_bytes(8, "little"), "the file is truncated"),
        (HEADER.fields["num_samples"][1], bytes(8), "the file is truncated"),
        (HEADER.fields["num_fields"][1], bytes(2), "its fields have equal names"),
        (HEADER.itemsize, b"\xff", "a type that is not FFCV's"),
        (HEADER.itemsize + FIELD.itemsize + 1, b"img\0", "its fields have equal names"),
        (HEADER.itemsize + 2 * FIELD.itemsize, b"\x07", "image 0 has an unknown mode"),
        (HEADER.itemsize + 2 * FIELD.itemsize, b"\x00", "image 0: is not a picture that can be read"),
        (HEADER.itemsize + 2 * FIELD.itemsize + 1, b"\x07", "does not match its images"),
        (HEADER.itemsize + 2 * FIELD.itemsize + 5, b"\xff" * 8, "does not match its images"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, written: bytes, position: int, content: bytes, message: str) -> None:
    path = tmp_path / "a.beton"
    path.write_bytes(written)
    _overwrite(path, position, content)
    with pytest.raises(DataError, match=rf"a\.beton.*{message}"):
        rewrite(path, tmp_path / "b.beton")
    for size in (0, 10, 1000, 3000):
        os.truncate(path, size)
        with pytest.raises(DataError, match=r"a\.beton: "):
            rewrite(path, tmp_path / "b.beton")
    for missing, reason in ((tmp_path / "nowhere.beton", "there is no such file"), (tmp_path, "is a folder")):
        with pytest.raises(DataError, match=reason):
            rewrite(missing, tmp_path / "b.beton")
