"""CIFAR-10 trained to 90 % and beyond, with every second counted.

The names below are the public ones. Each is imported when it is first used, so that `import fastcifar` is fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fastcifar import machine as machine  # before torch: it reads the cores that this process may use
from fastcifar.version import __version__ as __version__

if TYPE_CHECKING:
    from fastcifar.augment import create_augmentation as create_augmentation
    from fastcifar.config import TrainConfig as TrainConfig
    from fastcifar.data.create import create_loader as create_loader
    from fastcifar.data.writer import write_beton as write_beton
    from fastcifar.device import apply_process_settings as apply_process_settings
    from fastcifar.errors import FastCifarError as FastCifarError
    from fastcifar.models import create_model as create_model
    from fastcifar.parallel import join as join
    from fastcifar.recipes import get_recipe as get_recipe
    from fastcifar.runs.checkpoint import load_checkpoint as load_checkpoint
    from fastcifar.runs.results import EpochResult as EpochResult
    from fastcifar.settings import AugmentSettings as AugmentSettings
    from fastcifar.training.loop import fit as fit
    from fastcifar.training.loop import fit_epochs as fit_epochs

_MODULES = {
    "augment": ["create_augmentation"],
    "config": ["TrainConfig"],
    "data.create": ["create_loader"],
    "data.writer": ["write_beton"],
    "device": ["apply_process_settings"],
    "errors": ["FastCifarError"],
    "models": ["create_model"],
    "parallel": ["join"],
    "recipes": ["get_recipe"],
    "runs.checkpoint": ["load_checkpoint"],
    "runs.results": ["EpochResult"],
    "settings": ["AugmentSettings"],
    "training.loop": ["fit", "fit_epochs"],
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = list(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'fastcifar' has no attribute {name!r}")
    return getattr(importlib.import_module(f"fastcifar.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
