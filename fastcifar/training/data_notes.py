"""What a user should know about data that a training accepts."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fastcifar.augment import is_constant
from fastcifar.data.images import Labels
from fastcifar.data.manifest import Manifest
from fastcifar.names import list_names
from fastcifar.pixels import REFERENCE_SIZE


def note_data(manifest: Manifest, training: Labels, validation: Labels | None) -> Iterator[str]:
    """Yield notes on images of another size than 32 × 32, on constant channels, and on classes without images.

    Args:
        manifest: of the training set.
        training: int64 [N], the labels of the images to train on.
        validation: int64 [N], the labels of the images to validate on; None if the test set is used.
    """
    size = manifest.image_shape[0]
    if size != REFERENCE_SIZE:
        factor = f"{size / REFERENCE_SIZE:g}"
        yield f"Images of {size} pixels per side: padding, cutout and reduced sizes are multiplied by {factor}"
    channels = zip(("red", "green", "blue"), manifest.mean, manifest.std, strict=True)
    if constant := [f"{name} ({255 * mean:.0f})" for name, mean, std in channels if is_constant(std)]:
        yield f"warning: channels without variance, which are centred and not scaled: {', '.join(constant)}"
    for purpose, labels in (("train", training), ("validate", validation)):
        if labels is not None and (missing := _missing(manifest.class_names, labels)):
            yield f"warning: classes without an image to {purpose} on: {list_names(missing)}"


def _missing(names: tuple[str, ...], labels: Labels) -> list[str]:
    return [names[label] for label in np.flatnonzero(np.bincount(labels, minlength=len(names)) == 0)]
