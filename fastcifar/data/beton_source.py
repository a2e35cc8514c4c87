"""Read a data set from its train.beton and test.beton, to write a variation of it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from fastcifar.data.beton_format import BetonIndex
from fastcifar.data.images import ImageSet, Origin, Source
from fastcifar.data.manifest import Manifest, open_beton, read_true_labels
from fastcifar.data.pair import SPLITS, read_pair, split_path
from fastcifar.data.pictures import readable_path
from fastcifar.data.reading import ReadOptions
from fastcifar.errors import ConfigError


def read_betons(folder: Path, options: ReadOptions) -> Source:
    """Read the train.beton and test.beton of a folder, with the true labels and the variations of their manifests.

    Raises:
        DataError: a file or its manifest is missing or damaged, or the two do not belong together.
        ConfigError: a test fraction is given.
    """
    read_pair(folder)
    (train_index, manifest), (test_index, _) = (open_beton(split_path(folder, split)) for split in SPLITS)
    train, test = _images(train_index), _images(test_index)
    if options.test_fraction is not None:
        raise ConfigError(f"test_fraction is {options.test_fraction}; leave it out, since {folder} has a test.beton")
    return Source(
        train=train,
        test=test,
        class_names=manifest.class_names,
        name=manifest.name,
        true_labels=read_true_labels(manifest),
        variations=manifest.variations,
    )


def origin_of(folder: Path, train: Manifest, test: Manifest) -> Origin:
    """Return the origin of a data set that is made from the two files of a folder: they are known by their content."""
    content = f"{train.content_sha256}\n{test.content_sha256}\n"
    return Origin(path=readable_path(folder.absolute()), fingerprint=hashlib.sha256(content.encode()).hexdigest())


def _images(index: BetonIndex) -> ImageSet:
    return ImageSet(index.images(), index.labels)
