"""A new run in the memory of an earlier one: compiled code and captured CUDA graphs stay valid."""

import torch
from torch import Tensor, nn

from fastcifar.config import TrainConfig
from fastcifar.data.loader import BetonLoader
from fastcifar.device import seed_everything
from fastcifar.errors import DataError
from fastcifar.training.class_weights import class_weights
from fastcifar.training.loaders import create_loaders
from fastcifar.training.state import TrainState, create_modules


def reset(state: TrainState, config: TrainConfig, *, keep_data: bool = True) -> None:
    """Make a run's state that of a new run, before its first step; every tensor is overwritten in place.

    The new run has the weights, the order of images and the random state of one that `create_state` starts. `config`
    differs from the state's own only in the seed and the run folder. With `keep_data`, images that are cached on the
    device are not read again.

    Raises:
        DataError: the .beton files were changed in the meantime.
    """
    _open_loaders(state, config, keep_data=keep_data)
    seed_everything(config.runtime.seed, state.runtime.device)
    model, augmentation = create_modules(config, state.manifest)
    _overwrite(state.classifier.model, model)
    _overwrite(state.classifier.augmentation, augmentation)
    weights = class_weights(config.optim, state.train_loader, len(state.manifest.class_names))
    if state.classifier.class_weights is not None and weights is not None:
        state.classifier.class_weights.copy_(weights)  # in place, since a captured step reads it there
    _clear(state.optimizer)
    state.scaler.reset()
    state.nonfinite.reset()
    state.config = config
    state.restart()


def _open_loaders(state: TrainState, config: TrainConfig, *, keep_data: bool) -> None:
    """Replace the loaders, whose order, split and labels may depend on the seed."""
    unverified = config.replace(verify=False)  # the hash was checked when the first run started
    train_loader, test_loader, manifest = create_loaders(unverified, state.runtime.device)
    if manifest.content_sha256 != state.manifest.content_sha256:
        raise DataError(f"{config.data.data_dir}: its .beton files were changed while they were in use; start again")
    _replace(state.train_loader, train_loader, keep_data=keep_data)
    _replace(state.test_loader, test_loader, keep_data=keep_data)
    state.train_loader, state.test_loader = train_loader, test_loader


def _replace(old: BetonLoader, new: BetonLoader, *, keep_data: bool) -> None:
    old.close()
    if keep_data:
        new.take_cache(old)


@torch.no_grad()
def _overwrite(module: nn.Module, fresh: nn.Module) -> None:
    """Copy parameters, buffers, and which parameters train, from a new module of the same kind."""
    for parameter, new in zip(module.parameters(), fresh.parameters(), strict=True):
        parameter.copy_(new)
        parameter.requires_grad_(new.requires_grad)
    for buffer, new_buffer in zip(module.buffers(), fresh.buffers(), strict=True):
        buffer.copy_(new_buffer)


def _clear(optimizer: torch.optim.Optimizer) -> None:
    """Set step counts and running averages to zero, with which Adam, SGD and Muon begin."""
    optimizer.zero_grad(set_to_none=True)
    for values in optimizer.state.values():
        for value in values.values():
            if isinstance(value, Tensor):
                value.zero_()
