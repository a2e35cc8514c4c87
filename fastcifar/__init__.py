"""CIFAR-10 trained to 90 % and beyond, with every second counted.

The names below are the public ones. They are imported when they are first used, so that `import fastcifar` is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastcifar.augment import create_augmentation as create_augmentation
    from fastcifar.config import TrainConfig as TrainConfig
    from fastcifar.data.loader import create_loader as create_loader
    from fastcifar.data.writer import write_beton as write_beton
    from fastcifar.errors import FastCifarError as FastCifarError
    from fastcifar.models import create_model as create_model
    from fastcifar.recipes import get_recipe as get_recipe
    from fastcifar.runs.checkpoint import load_checkpoint as load_checkpoint
    from fastcifar.runs.results import EpochResult as EpochResult
    from fastcifar.training.loop import fit as fit
    from fastcifar.training.loop import fit_epochs as fit_epochs

_HOMES = {
    "EpochResult": "fastcifar.runs.results",
    "FastCifarError": "fastcifar.errors",
    "TrainConfig": "fastcifar.config",
    "create_augmentation": "fastcifar.augment",
    "create_loader": "fastcifar.data.loader",
    "create_model": "fastcifar.models",
    "fit": "fastcifar.training.loop",
    "fit_epochs": "fastcifar.training.loop",
    "get_recipe": "fastcifar.recipes",
    "load_checkpoint": "fastcifar.runs.checkpoint",
    "write_beton": "fastcifar.data.writer",
}

__all__ = [
    "EpochResult",
    "FastCifarError",
    "TrainConfig",
    "create_augmentation",
    "create_loader",
    "create_model",
    "fit",
    "fit_epochs",
    "get_recipe",
    "load_checkpoint",
    "write_beton",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fastcifar' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
