"""Write .beton files, each with a manifest beside it, and verify them by reading them back.

The writer fills whole pages of uncompressed pixels with NumPy, in one process. FFCV's own writer sends single samples
to worker processes, and its files have the same meaning. This writer is faster, gives the same bytes for the same
images, and does not hang if a worker dies (libffcv/ffcv#142).
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fastcifar.data import beton_format as beton
from fastcifar.data import manifest
from fastcifar.data.arrays import as_class_names, as_images, as_labels, check_text
from fastcifar.data.decode_all import decoded_sha256
from fastcifar.data.images import Images, ImageSet, Origin, Source, chunks
from fastcifar.data.pair import SPLITS, split_path
from fastcifar.errors import DataError
from fastcifar.files import atomic_write, lock_folder, write_json

Progress = Callable[[int], None]
"""A function that is called with the number of images written so far."""


def channel_statistics(images: Images) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Return the mean and the standard deviation of each channel of uint8 [N, H, W, 3], pixels in [0, 1]."""
    values = np.arange(256, dtype=np.float64) / 255
    counted = np.zeros((3, 256), dtype=np.int64)
    for chunk in chunks(images):
        for channel in range(3):
            counted[channel] += np.bincount(chunk[..., channel].ravel(), minlength=256)
    mean, std = [], []
    for counts in counted:
        average = float(np.average(values, weights=counts))
        mean.append(average)
        std.append(float(np.sqrt(np.average((values - average) ** 2, weights=counts))))
    return (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])


def write_beton(
    path: Path | str,
    images: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    class_names: Sequence[str],
    name: str,
    progress: Progress | None = None,
) -> manifest.Manifest:
    """Write images and labels to `path`, and the manifest beside it. After a failure, the old files are still there.

    Args:
        path: the .beton to create or replace.
        images: RGB pixels from 0 to 255, [N, H, W, 3]: an array or a list of whole numbers.
        labels: [N] or [N, 1], each an index into `class_names`: an array or a list of whole numbers.
        class_names: the names of the classes, in the order of their labels.
        name: the data set's name in the manifest; 'cifar10' if the content is that of the official files.
        progress: called with the number of images written so far.

    Raises:
        DataError: an argument cannot be used, which the message names; other data are read back; or another process
            writes to the folder.
        OSError: the folder cannot be written to, or the disk is full.
    """
    path = Path(os.path.expanduser(path))
    names = as_class_names(path, class_names)
    check_text(path, "name", name)
    pixels = as_images(path, images)
    split = ImageSet(pixels, as_labels(path, labels, len(pixels), len(names)))
    source = Source(train=split, test=split, class_names=names, name=name)
    return _write_files({path: split}, source, progress)[path]


def write_pair(
    folder: Path, source: Source, progress: Progress | None = None
) -> tuple[manifest.Manifest, manifest.Manifest]:
    """Write train.beton and test.beton of a data set, both or none, each with its manifest.

    If they are already there, whole and from the same source, they stay: a training may be reading them. `progress` is
    called with the number of images of both files that are written so far.

    Raises:
        DataError: images of that size do not fit in a file, other data are read back, or another process writes to the
            folder.
        OSError: the folder cannot be written to, or the disk is full.
    """
    files = {
        split_path(folder, split): images for split, images in zip(SPLITS, (source.train, source.test), strict=True)
    }
    for path, split in files.items():
        as_images(path, split.images)
        as_labels(path, split.labels, len(split.images), len(source.class_names))
    written = _find_written(files, source)
    if written is None:
        written = _write_files(files, source, progress)
    train, test = written.values()
    return train, test


def _find_written(files: Mapping[Path, ImageSet], source: Source) -> dict[Path, manifest.Manifest] | None:
    """Return the manifests of the files if they are whole and hold these images of the source; otherwise None."""
    try:
        found = {path: manifest.open_beton(path)[1] for path in files}
    except DataError:
        return None
    content = {path: manifest.dataset_sha256(*split) for path, split in files.items()}
    origin = (source.origin.path, source.origin.fingerprint) if source.origin else (None, None)
    for (path, each), other in zip(found.items(), reversed(content.values()), strict=True):
        has = (each.content_sha256, each.other_split_sha256, each.class_names, each.source, each.source_fingerprint)
        changes = (each.variations, each.packed_true_labels)
        if has != (content[path], other, source.class_names, *origin):
            return None
        if changes != (source.variations, _true_labels(source, files[path])):
            return None
    return found


def _write_files(
    files: Mapping[Path, ImageSet],
    source: Source,
    progress: Progress | None,
) -> dict[Path, manifest.Manifest]:
    """Write one file, or two that belong together, to one folder. The old files stay until all new ones are complete.

    A process that is killed between the renames of two files leaves a pair that `read_pair` refuses.
    """
    folder = next(iter(files)).parent
    if taken := next((path for path in files if path.is_dir()), None):
        raise DataError(f"{taken}: is a folder; choose another name for the .beton")
    folder.mkdir(parents=True, exist_ok=True)
    content = {path: manifest.dataset_sha256(*split) for path, split in files.items()}
    held = f"{folder}: another process writes to this folder; wait, or choose another folder"
    written: dict[Path, manifest.Manifest] = {}
    with lock_folder(folder, DataError(held)) as locked:
        with ExitStack() as stack:
            done = 0
            for path, split in files.items():
                temporary = stack.enter_context(atomic_write(path, only_writer=locked))
                _write_verified(temporary, split, content[path], _shifted(progress, done))
                done += len(split.images)
                other = next((content[another] for another in files if another != path), None)
                names, name, origin = source.class_names, source.name, source.origin
                described = describe(temporary, split, names, name, content[path], other, origin)
                true = _true_labels(source, split)
                written[path] = dataclasses.replace(described, variations=source.variations, packed_true_labels=true)
            for path, values in written.items():
                write_json(manifest.next_manifest_path(path), dataclasses.asdict(values), only_writer=locked)
        for path in written:
            os.replace(manifest.next_manifest_path(path), manifest.manifest_path(path))
    return written


def _true_labels(source: Source, split: ImageSet) -> str | None:
    """Return the packed true labels of a split: only training labels are changed."""
    if source.true_labels is None or split is not source.train:
        return None
    return manifest.pack_labels(source.true_labels)


def _shifted(progress: Progress | None, done: int) -> Progress | None:
    """Return `progress` for a file that is written after `done` images of another one."""
    return progress and (lambda count: progress(done + count))


def _write_verified(path: Path, split: ImageSet, content: str, progress: Progress | None) -> None:
    _write_file(path, split, progress)
    beton.read_index(path)
    if decoded_sha256(path) != content:
        raise DataError(f"{path}: reading it back gives different data; check the disk and try again")


def describe(
    path: Path,
    split: ImageSet,
    class_names: tuple[str, ...],
    name: str,
    content: str,
    other_split: str | None,
    origin: Origin | None,
) -> manifest.Manifest:
    """Return the manifest of the file at `path`, which has the images and labels of `split` and their hash `content`.

    `other_split` is the hash of the file that was written together with it.
    """
    mean, std = channel_statistics(split.images)
    official = dict.fromkeys(manifest.CIFAR10_CONTENT.values(), "cifar10")
    return manifest.Manifest(
        format_version=manifest.MANIFEST_VERSION,
        name=official.get(content, name),
        samples=len(split.images),
        image_shape=(split.images.shape[1], split.images.shape[2], 3),
        class_names=class_names,
        mean=mean,
        std=std,
        content_sha256=content,
        file_sha256=manifest.file_sha256(path),
        file_size=path.stat().st_size,
        source=origin.path if origin else None,
        source_fingerprint=origin.fingerprint if origin else None,
        other_split_sha256=other_split,
    )


def _write_file(path: Path, split: ImageSet, progress: Progress | None) -> None:
    images, labels = split
    count, height, width, _ = images.shape
    image_bytes = height * width * 3
    metadata_end = beton.HEADER.itemsize + beton.FIELD.itemsize * len(beton.FIELDS) + beton.SAMPLE.itemsize * count
    offsets = beton.image_offsets(count, image_bytes, beton.PAGE_SIZE, metadata_end)
    samples = np.zeros(count, dtype=beton.SAMPLE)
    samples["image"]["mode"] = beton.RAW
    samples["image"]["height"], samples["image"]["width"] = height, width
    samples["image"]["data_ptr"] = offsets
    samples["label"] = labels
    allocations = np.zeros(count, dtype=beton.ALLOCATION)
    allocations["sample_id"], allocations["ptr"], allocations["size"] = np.arange(count), offsets, image_bytes

    per_page = beton.PAGE_SIZE // image_bytes
    with path.open("wb") as file:
        header = np.zeros(1, dtype=beton.HEADER)
        file.write(header.tobytes() + beton.field_descriptors().tobytes() + samples.tobytes())
        file.seek(int(offsets[0]))
        page = np.zeros(beton.PAGE_SIZE, dtype=np.uint8)
        for start in range(0, count, per_page):
            chunk = images[start : start + per_page]
            page[: chunk.size] = chunk.ravel()
            page[chunk.size :] = 0
            file.write(page.data)
            if progress:
                progress(start + len(chunk))
        header["version"], header["num_fields"], header["page_size"] = beton.VERSION, len(beton.FIELDS), beton.PAGE_SIZE
        header["num_samples"], header["alloc_table_ptr"] = count, file.tell()
        file.write(allocations.tobytes())
        file.seek(0)
        file.write(header.tobytes())
