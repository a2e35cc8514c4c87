"""Freezing: the first modules of a network stop training before the last ones.

Source: Brock et al., *FreezeOut*, 2017.
"""

from collections.abc import Iterable

from torch import nn

from fastcifar.errors import ConfigError
from fastcifar.settings import FreezeSettings


def check_freezable(model: nn.Module, settings: FreezeSettings) -> None:
    """Check that the modules to freeze exist, and that others remain.

    Raises:
        ConfigError: the network has no such module, or every module with parameters would be frozen.
    """
    modules = dict(model.named_children())
    for name in settings.freeze:
        if name not in modules:
            raise ConfigError(f"freeze has {name!r}; the modules of this network are {', '.join(modules)}")
    if settings.freeze and all(name in settings.freeze for name, module in modules.items() if [*module.parameters()]):
        raise ConfigError("freeze has every module of the network; at least one must train to the end")


def frozen_modules(fraction: float, settings: FreezeSettings) -> tuple[str, ...]:
    """Names of the modules that are frozen once `fraction` of the steps (0 to 1) is done."""
    return tuple(name for name, at in zip(settings.freeze, settings.freeze_at, strict=True) if fraction >= at)


def freeze(model: nn.Module, modules: Iterable[str]) -> None:
    """Turn off the gradients of modules, by name."""
    for name in modules:
        model.get_submodule(name).requires_grad_(False)
