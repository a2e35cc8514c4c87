"""The warm-up before the clock starts: compile, autotune and capture CUDA graphs, all with dummy batches."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from fastcifar import clock
from fastcifar.device import get_random_state, set_random_state
from fastcifar.errors import TrainingError
from fastcifar.inference.model import LogitsFunction
from fastcifar.models.init import first_convolution, whitening_filters
from fastcifar.models.ops.winograd_tiles import FORMATS, compiled_kernel
from fastcifar.training.cuda_graphs import capture_evaluations, capture_train_steps
from fastcifar.training.freezing import freeze
from fastcifar.training.state import TrainState
from fastcifar.training.step import StepFunction, run_step, step_variants, train_step


@dataclass(frozen=True, kw_only=True)
class WarmUp:
    """The functions that the training loop calls, and the time that their warm-up took."""

    run_step: StepFunction
    """Runs one training step: eagerly, compiled, or as a replayed CUDA graph."""
    logits: LogitsFunction
    """Computes the logits of one evaluation batch: eagerly, compiled, or as a replayed CUDA graph."""
    seconds: float


def warm_up(state: TrainState) -> WarmUp:
    """Compile or capture the run's training steps and evaluations, without changing the state.

    Raises:
        TrainingError: torch.compile fails.
    """
    start = clock.now()
    state.train_loader.warm_up()
    state.test_loader.warm_up()
    dtype = state.runtime.amp_dtype or torch.float32
    if state.runtime.device.type == "cpu" and dtype in FORMATS:
        compiled_kernel(dtype)
    step: StepFunction = functools.partial(run_step, state)
    logits: LogitsFunction = state.classifier.fixed_batch_logits
    if state.runtime.cuda_graphs or state.runtime.compile_mode:
        with preserve_state(state), explain_compile_errors():
            _warm_up_whitening(state)
            if state.runtime.cuda_graphs:
                test_images, _, _ = dummy_batch(state, state.test_loader.batch_size)
                logits = capture_evaluations(state.classifier, test_images, state.config.tta)
                step = capture_train_steps(state, *dummy_batch(state, state.train_loader.own_batch_size))
            else:
                _warm_up_compile(state)
    state.runtime.synchronize()
    return WarmUp(run_step=step, logits=logits, seconds=clock.now() - start)


@contextmanager
def explain_compile_errors() -> Iterator[None]:
    """Turn an error of torch.compile into one line.

    Raises:
        TrainingError: torch.compile fails.
    """
    try:
        yield
    except RuntimeError as error:
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        lines = (line for line in str(error).splitlines() if line and not line.endswith(":"))  # "… raised:"
        reason = next(lines, type(error).__name__)
        raise TrainingError(f"torch.compile fails ({reason}); train with --no-compile") from error


@contextmanager
def preserve_state(state: TrainState) -> Iterator[None]:
    """Skip every weight update in the block; then restore running statistics, frozen modules and random state."""
    model, device = state.classifier.model, state.runtime.device
    random = get_random_state(device)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        with state.nonfinite.no_updates():
            yield
    finally:
        state.optimizer.zero_grad(set_to_none=True)
        for parameter in trained:
            parameter.requires_grad_()
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])
        set_random_state(random, device)


def _warm_up_whitening(state: TrainState) -> None:
    """Run the computation of the whitening filters, and discard the result."""
    if state.config.init.whiten:
        images, _, _ = dummy_batch(state, state.config.data.batch_size)
        state.classifier.train(False)
        kernel_size = first_convolution(state.classifier.model).kernel_size[0]
        whitening_filters(state.classifier.augmentation(images), kernel_size)


def _warm_up_compile(state: TrainState) -> None:
    """Compile each variant of the training step, and evaluation for each set of modules frozen at an epoch's end."""
    config, steps = state.config, len(state.train_loader)
    variants = step_variants(state.total_steps, config)
    evaluated = {frozen for _, frozen in (*variants[steps - 1 :: steps], variants[-1])}
    images, labels, flip = dummy_batch(state, state.train_loader.own_batch_size)
    test_images, _, _ = dummy_batch(state, state.test_loader.batch_size)
    for size, frozen in dict.fromkeys(variants):
        freeze(state.classifier.model, frozen)
        state.classifier.train()
        train_step(state, images, labels, size=size, flip=flip)
        if frozen in evaluated:
            state.classifier.train(False)
            with torch.no_grad():
                state.classifier.fixed_batch_logits(test_images, len(test_images), config.tta)


def dummy_batch(state: TrainState, size: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return random images and labels in the loader's memory format, and a flip mask if `alternate_flip` is set."""
    height, width, channels = state.manifest.image_shape
    device = state.runtime.device
    images = torch.randint(0, 256, (size, height, width, channels), dtype=torch.uint8).permute(0, 3, 1, 2).to(device)
    labels = torch.randint(0, len(state.manifest.class_names), (size,)).to(device)
    flip = torch.zeros(size, dtype=torch.bool, device=device) if state.config.augment.alternate_flip else None
    return images, labels, flip
