"""What a run does before its clock starts: compile, choose algorithms, record CUDA graphs; all on made-up images."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from fastcifar.config import ViewSettings
from fastcifar.models.initialize import first_convolution, freeze, whitening_filters
from fastcifar.training.graphs import Recorded
from fastcifar.training.network import PLAIN_VIEW
from fastcifar.training.optim import rate_table, schedule
from fastcifar.training.runtime import random_state, restore_random_state
from fastcifar.training.state import TrainState
from fastcifar.training.step import step_forms, train_step


def warm_up(state: TrainState) -> float:
    """Compile what compiles and record what is replayed, and leave the state as it was; the seconds it took."""
    start = time.perf_counter()
    state.train_loader.warm_up()
    state.test_loader.warm_up()
    if state.runtime.cuda_graphs or state.runtime.compile_mode:
        with _left_as_it_was(state):
            _rehearse_whitening(state)
            if state.runtime.cuda_graphs:  # only on a GPU
                _record_evaluations(state)
                _record_steps(state)
            else:
                _rehearse(state)
    state.runtime.synchronize()
    return time.perf_counter() - start


@contextmanager
def _left_as_it_was(state: TrainState) -> Iterator[None]:
    """Let no update through in the block; put back what trains, statistics and random state."""
    model, random = state.network.model, random_state()
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with state.finite.holding():
        yield
    state.optimizer.zero_grad(set_to_none=True)
    for parameter in trained:
        parameter.requires_grad_()
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
    restore_random_state(random)


def _rehearse_whitening(state: TrainState) -> None:
    """Compute what the whitening does before the first step, and use nothing of it."""
    if state.config.whiten:
        images, _, _ = _made_up_batch(state, state.config.batch_size)
        state.network.train(False)
        whitening_filters(state.network.augmentation(images), first_convolution(state.network.model).kernel_size[0])


def _rehearse(state: TrainState) -> None:
    """Compute once in each form that the run comes through: its steps' and, where an epoch ends, inference's."""
    config, steps = state.config, len(state.train_loader)
    forms = step_forms(state.total_steps, config)
    evaluated = {frozen for _, frozen in (*forms[steps - 1 :: steps], forms[-1])}
    images, labels, mirrored = _made_up_batch(state, config.batch_size)
    test_images, _, _ = _made_up_batch(state, state.test_loader.batch_size)
    for size, frozen in dict.fromkeys(forms):
        freeze(state.network.model, frozen)
        state.network.train()
        train_step(state, images, labels, 0, size, mirrored)
        if frozen in evaluated:
            state.network.train(False)
            with torch.no_grad():
                state.network.padded_logits(test_images, len(test_images), config)


def _record_steps(state: TrainState) -> None:  # only on a GPU
    """A graph for each form of the run's steps."""
    images, labels, mirrored = _made_up_batch(state, state.config.batch_size)
    state.rates = rate_table(state.optimizer, state.total_steps, state.config)
    pool = torch.cuda.graph_pool_handle()
    for group in state.optimizer.param_groups:
        if "capturable" in group:  # torch's own: Adam counts its steps on the device
            group["capturable"] = True
    state.network.train()
    for size, frozen in dict.fromkeys(step_forms(state.total_steps, state.config)):
        freeze(state.network.model, frozen)
        given = (images, labels, state.rates[0], *(() if mirrored is None else (mirrored,)))
        state.recorded[size, frozen] = Recorded(_recordable_step(state, size), given, pool)
        state.optimizer.zero_grad(set_to_none=True)
    schedule(state.optimizer, 0, state.total_steps, state.config)  # numbers again, for a checkpoint


def _recordable_step(state: TrainState, size: int | None) -> Callable[..., torch.Tensor]:
    """`train_step` as a function of images, labels, a row of the rates, and which images to mirror, if any."""

    def step(images: torch.Tensor, labels: torch.Tensor, rates: torch.Tensor, *mirrored: torch.Tensor) -> torch.Tensor:
        for group, lr in zip(state.optimizer.param_groups, rates[1:], strict=True):
            group["lr"] = lr
        return train_step(state, images, labels, rates[0].long(), size, *mirrored)

    return step


@torch.no_grad()
def _record_evaluations(state: TrainState) -> None:  # only on a GPU
    """A graph for a batch looked at once, and one for a batch with the run's test-time augmentation."""
    images, _, _ = _made_up_batch(state, state.test_loader.batch_size)
    count, pool = torch.full((), len(images), device=images.device), torch.cuda.graph_pool_handle()
    state.network.train(False)
    last = ViewSettings(tta=state.config.tta, tta_share=state.config.tta_share)
    for views in dict.fromkeys((PLAIN_VIEW, last)):
        look = functools.partial(state.network.looked_at, views=views)
        state.network.recorded[len(images), views.tta, views.tta_share] = Recorded(look, (images, count), pool)


def _made_up_batch(state: TrainState, size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Images, labels and, where the run mirrors images in alternate epochs, which to mirror; in the loader's layout."""
    height, width, channels = state.manifest.image_shape
    device = state.runtime.device
    images = torch.randint(0, 256, (size, height, width, channels), dtype=torch.uint8).permute(0, 3, 1, 2).to(device)
    labels = torch.randint(0, len(state.manifest.class_names), (size,)).to(device)
    mirrored = torch.zeros(size, dtype=torch.bool, device=device) if state.config.alternate_flip else None
    return images, labels, mirrored
