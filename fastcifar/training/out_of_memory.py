"""Out-of-memory errors, explained with a batch size that fits."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fastcifar.errors import TrainingError
from fastcifar.training.state import TrainState


@contextmanager
def explain_out_of_memory(state: TrainState) -> Iterator[None]:
    """Turn an out-of-memory error in the block, on the host or the device, into advice.

    Raises:
        TrainingError: memory ran out; names the largest batch size, by repeated halving, with which a step works.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        error.__traceback__ = None  # its frames hold the step's tensors
    else:
        return
    batch = state.config.data.batch_size
    fits = batch // 2
    while fits and not _fits(state, fits):
        fits //= 2
    advice = f"a step of {fits} fits: use --batch-size {fits}" if fits else "not even one image fits: free some memory"
    raise TrainingError(f"out of memory on {state.runtime.device} with --batch-size {batch}; {advice}")


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "not enough memory" in str(error)


def _fits(state: TrainState, batch: int) -> bool:
    state.optimizer.zero_grad(set_to_none=True)
    gc.collect()
    if state.runtime.device.type == "cuda":  # only on a GPU
        torch.cuda.empty_cache()
    images = torch.zeros(batch, *state.manifest.image_shape, dtype=torch.uint8, device=state.runtime.device)
    try:
        state.classifier.train()
        state.classifier.logits(images.permute(0, 3, 1, 2)).sum().backward()
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        return False
    return True
