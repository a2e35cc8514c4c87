"""What a user should know about data that a training accepts."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fastcifar.augment import is_constant
from fastcifar.data.images import Labels
from fastcifar.data.manifest import Manifest

SHOWN_NAMES = 5
"""Names of classes in a note."""


def note_data(manifest: Manifest, validation: Labels | None) -> Iterator[str]:
    """Yield notes on constant channels of the training set, and on classes that a validation split lacks.

    Args:
        manifest: of the training set.
        validation: int64 [N], the labels of the images to validate on; None if the test set is used.
    """
    channels = zip(("red", "green", "blue"), manifest.mean, manifest.std, strict=True)
    if constant := [f"{name} ({255 * mean:.0f})" for name, mean, std in channels if is_constant(std)]:
        yield f"warning: channels without variance, which are centred and not scaled: {', '.join(constant)}"
    if validation is not None:
        counts = np.bincount(validation, minlength=len(manifest.class_names))
        if missing := [manifest.class_names[label] for label in np.flatnonzero(counts == 0)]:
            more = f" and {len(missing) - SHOWN_NAMES:,} more" if len(missing) > SHOWN_NAMES else ""
            yield f"warning: classes without an image to validate on: {', '.join(missing[:SHOWN_NAMES])}{more}"
