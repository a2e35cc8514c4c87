"""Small files in the formats of CIFAR-10 and of image folders, and a local server to download them from."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import tarfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fastcifar.data import cifar10
from fastcifar.data.images import Source
from fastcifar.data.sources import open_source
from fastcifar.errors import DataError

BATCHES = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch")
PER_BATCH = 4
FINE_NAMES = [f"fine{number}".encode() for number in range(100)]
COARSE_NAMES = [f"coarse{number}".encode() for number in range(20)]


def records() -> np.ndarray:
    """Return six batches of binary records, uint8 [6, 4, 3073], with labels of all ten classes."""
    made = np.random.default_rng(0).integers(0, 256, (6, PER_BATCH, 3073), dtype=np.uint8)
    made[..., 0] = np.arange(6 * PER_BATCH).reshape(6, PER_BATCH) % 10
    return made


def as_images(batches: np.ndarray) -> np.ndarray:
    """Return the images of binary records: uint8 [N, 32, 32, 3]."""
    return batches[..., 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def write_python(folder: Path) -> Path:
    """Write the python version as the official files are pickled: protocol 2, with keys and names as bytes."""
    folder.mkdir(parents=True)
    for name, batch in zip(BATCHES, records(), strict=True):
        content = {b"data": batch[:, 1:].copy(), b"labels": batch[:, 0].tolist(), b"batch_label": name.encode()}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    meta = {b"label_names": [name.encode() for name in cifar10.CLASSES], b"num_vis": 3072}
    (folder / "batches.meta").write_bytes(pickle.dumps(meta, protocol=2))
    return folder


def write_binary(folder: Path) -> Path:
    """Write the binary version."""
    folder.mkdir(parents=True)
    for name, batch in zip(BATCHES, records(), strict=True):
        (folder / f"{name}.bin").write_bytes(batch.tobytes())
    (folder / "batches.meta.txt").write_text("\n".join(cifar10.CLASSES) + "\n\n")
    return folder


def write_cifar100_python(folder: Path) -> Path:
    """Write CIFAR-100's python version: the images of `records`, each class 10 times a fine one."""
    folder.mkdir(parents=True)
    made = records()
    for split, batches in (("train", made[:5]), ("test", made[5:])):
        flat = batches.reshape(-1, 3073)
        content = {b"data": flat[:, 1:].copy(), b"fine_labels": [10 * label for label in flat[:, 0].tolist()]}
        content[b"coarse_labels"] = flat[:, 0].tolist()
        (folder / split).write_bytes(pickle.dumps(content, protocol=2))
    meta = {b"fine_label_names": FINE_NAMES, b"coarse_label_names": COARSE_NAMES}
    (folder / "meta").write_bytes(pickle.dumps(meta, protocol=2))
    return folder


def write_cifar100_binary(folder: Path) -> Path:
    """Write CIFAR-100's binary version of the same images."""
    folder.mkdir(parents=True)
    made = records()
    for split, batches in (("train", made[:5]), ("test", made[5:])):
        flat = batches.reshape(-1, 3073)
        (folder / f"{split}.bin").write_bytes(np.column_stack([flat[:, :1], 10 * flat[:, :1], flat[:, 1:]]).tobytes())
    (folder / "fine_label_names.txt").write_bytes(b"\n".join(FINE_NAMES) + b"\n\n")
    (folder / "coarse_label_names.txt").write_bytes(b"\n".join(COARSE_NAMES) + b"\n\n")
    return folder


def write_npz(path: Path, **arrays: np.ndarray) -> Path:
    """Write a .npz file as Keras has it, of the images of `records` or of other arrays."""
    made = records()
    standard = {
        "x_train": as_images(made[:5]), "y_train": made[:5, ..., 0].reshape(-1, 1),
        "x_test": as_images(made[5:]), "y_test": made[5:, ..., 0].reshape(-1, 1),
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **(arrays or standard))
    return path


def as_png(image: np.ndarray) -> bytes:
    """Encode uint8 [H, W, 3] as PNG."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="PNG")
    return file.getvalue()


def write_kaggle(folder: Path) -> Path:
    """Write Kaggle's form of the training images of `records`."""
    (folder / "train").mkdir(parents=True)
    made = records()[:5].reshape(-1, 3073)
    rows = ["id,label"]
    for number, (image, label) in enumerate(zip(as_images(made), made[:, 0], strict=True), start=1):
        (folder / "train" / f"{number}.png").write_bytes(as_png(image))
        rows.append(f"{number},{cifar10.CLASSES[label]}")
    (folder / "trainLabels.csv").write_text("\n".join(rows) + "\n")
    return folder


def write_parquet(
    folder: Path, *, image: str = "img", label: str = "label", names: list[str] | None = None, shards: int = 2
) -> Path:
    """Write Hugging Face's form of the images of `records`, with the training split in several files."""
    import pyarrow
    import pyarrow.parquet

    folder.mkdir(parents=True, exist_ok=True)
    features = {image: {"_type": "Image"}, label: {"names": names, "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})} if names else {}
    for split, batches, count in (("train", records()[:5], shards), ("test", records()[5:], 1)):
        flat = batches.reshape(-1, 3073)
        rows = [{"bytes": as_png(one), "path": None} for one in as_images(flat)]
        table = pyarrow.table({image: rows, label: pyarrow.array(flat[:, 0].tolist())})
        table = table.replace_schema_metadata(metadata)
        each = -(-len(flat) // count)
        for number in range(count):
            file = folder / f"{split}-{number:05d}-of-{count:05d}.parquet"
            pyarrow.parquet.write_table(table.slice(number * each, each), file)
    return folder


def write_archive(archive: Path, folder: Path) -> str:
    """Pack `folder` like the official archives, and return the MD5 of the archive."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, arcname=folder.name)
    return hashlib.md5(archive.read_bytes()).hexdigest()


def write_picture(path: Path, value: int = 0, size: tuple[int, int] = (32, 32), mode: str = "RGB") -> Path:
    """Write a picture of one colour, whose red is `value`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value // 2, 255 - value)).convert(mode).save(path)
    return path


def write_image_folder(root: Path) -> Path:
    """Write an image folder of three classes, with files that must be ignored."""
    for value, name in enumerate(("zebra", "ant", "moth")):
        write_picture(root / "train" / name / "b.png", 10 * value)
        write_picture(root / "train" / name / "a.PNG", 10 * value + 1)
        write_picture(root / "test" / name / "c.png", 10 * value + 2)
    (root / "train" / "ant" / "notes.txt").write_text("not a picture")
    (root / "train" / ".hidden").mkdir()
    (root / "train" / "ant" / "._a.png").write_text("a file that macOS writes beside a picture")
    return root


def refusal(source: str | Path, **options: Any) -> str:
    """Return the message of the DataError that opening `source` raises, which must be one line."""
    with pytest.raises(DataError) as caught:
        open_source(source, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def assert_equals_records(opened: Source) -> None:
    """Check that `opened` has the images and labels of `records`."""
    assert opened.class_names == cifar10.CLASSES
    for split, batches in ((opened.train, records()[:5]), (opened.test, records()[5:])):
        np.testing.assert_array_equal(split.images, as_images(batches))
        np.testing.assert_array_equal(split.labels, batches[..., 0].ravel())
        assert split.images.dtype == np.uint8
        assert split.labels.dtype == np.int64
        assert split.images.flags.c_contiguous


class Server(ThreadingHTTPServer):
    """A server that sends the same body for every path."""

    body = b""
    with_ranges = True
    breaks_after: int | None = None
    """Number of bytes after which the server ends the connection."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.ranges: list[str | None] = []
        """The Range header of each request."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/cifar-10-python.tar.gz"


class Handler(BaseHTTPRequestHandler):
    """Answers requests, also for the rest of the body."""

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
