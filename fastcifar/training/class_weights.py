"""The weight of each class in the training loss, for data with rare classes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fastcifar.data.loader import BetonLoader
from fastcifar.settings import OptimSettings


def class_weights(settings: OptimSettings, loader: BetonLoader, classes: int) -> Tensor | None:
    """Return the weights of the classes on the loader's device, float32 [classes]; None if all images count the same.

    With K classes, the weight of a class with n of the N training images is N / (K n), so that the weights of all
    images have the mean 1. A class without a training image has weight 0, and does not count in K.

    Source: King and Zeng, *Logistic Regression in Rare Events Data*, 2001; the formula is scikit-learn's 'balanced'.
    """
    if settings.class_weights == "none":
        return None
    counts = np.bincount(loader.labels, minlength=classes)
    weights = np.zeros(classes, dtype=np.float32)
    present = counts > 0
    weights[present] = len(loader.labels) / (present.sum() * counts[present])
    return torch.from_numpy(weights).to(loader.device)
