"""Train two short runs, alone or as one of the processes that torchrun starts, and save what they computed as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastcifar import TrainConfig, get_recipe
from fastcifar.device import seed_everything
from fastcifar.models import model_from_config
from fastcifar.models.init import initialize
from fastcifar.optim.muon import can_share, orthogonalize
from fastcifar.parallel import Processes, current, join
from fastcifar.training.loop import fit_epochs
from fastcifar.training.state import create_state

RECIPES: dict[str, dict[str, Any]] = {"era": {}, "speedrun": {"max_lr": 0.02, "bias_lr": 5.0, "head_lr": 10.0}}
"""Recipes, with learning rates for small batches: with those of large ones, rounding errors grow fivefold per step."""
BATCH_SIZE = 4


def run_config(recipe: str, folder: Path) -> TrainConfig:
    """The configuration of a short run on small images: one epoch of 50 steps, with 200 images."""
    return get_recipe(
        recipe, data_dir=folder, device="cpu", amp=False, compile=False, cuda_graphs=False, sync_batchnorm=True,
        epochs=1, batch_size=BATCH_SIZE, eval_batch_size=30, **RECIPES[recipe],
    )  # fmt: skip


def in_float64(config: TrainConfig) -> nn.Module:
    """The network of a run in float64. In float32, rounding errors grow so fast that no two runs stay together."""
    seed_everything(config.runtime.seed)
    model = model_from_config(config.model, 10)
    initialize(model, config.init)
    forward = model.forward

    def forward_float64(images: Tensor) -> Any:
        return forward(images.double())

    model.forward = forward_float64  # type: ignore[method-assign]
    return model.double()


def train(config: TrainConfig) -> dict[str, Any]:
    """Train a run; return the loss of each step, the accuracies, and the images that this process trained on."""
    with create_state(config, model=in_float64(config)) as state:
        losses: list[float] = []
        totals = [0.0]

        def keep_loss(*_: object) -> None:
            total = float(state.epoch_totals.loss)
            losses.append(total - totals[0] if state.epoch_steps_done > 1 else total)
            totals[0] = total

        results = list(fit_epochs(state, on_step=keep_loss))
        processes = state.processes
        own = [
            [int(index) for _, _, indices in loader.batches_with_indices() for index in indices]
            for loader in (state.train_loader, state.test_loader)
        ]
    return {
        "losses": losses,
        "accuracies": [result.test_accuracy for result in results],
        "tta_accuracy": results[-1].tta_accuracy,
        "indices": _join(processes, own),
    }


def _join(processes: Processes, own: list[list[int]]) -> list[list[int]]:
    everyone: list[Any] = [own] * processes.count
    if processes.count > 1:
        torch.distributed.all_gather_object(everyone, own)
    return [[index for lists in everyone for index in lists[split]] for split in (0, 1)]


def orthogonalize_together() -> list[bool]:
    """Tell for each of some filter banks whether its result is the same, bit for bit, shared with others and alone."""
    torch.manual_seed(0)
    shapes = [(16, 4, 3, 3), (8, 16, 3, 3), (64, 4, 3, 3), (8, 16, 3, 3), (24, 3, 2, 2), (32, 32, 3, 3)]
    filters = [torch.randn(shape).to(memory_format=torch.channels_last) for shape in shapes]
    assert can_share(filters[0].device, current())
    return [
        torch.equal(shared, alone)
        for dtype in (torch.bfloat16, torch.float32)
        for shared, alone in zip(orthogonalize(filters, dtype, current()), orthogonalize(filters, dtype), strict=True)
    ]


def main(folder: Path, out: Path) -> None:
    torch.set_num_threads(1)
    with join("cpu"):
        results: dict[str, Any] = {recipe: train(run_config(recipe, folder)) for recipe in RECIPES}
        results["orthogonalized"] = orthogonalize_together()
        if current().is_first:
            out.write_text(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
