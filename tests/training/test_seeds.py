from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fastcifar import TrainConfig, fit, get_recipe
from fastcifar.runs.results import EpochResult
from fastcifar.training import seeds as seeds_module
from fastcifar.training.seeds import SeedTrainer
from fastcifar.training.state import create_state

MEASURED = {"train_loss", "train_accuracy", "skipped_steps", "test_loss", "test_accuracy", "tta_accuracy", "epoch"}


def values(results: list[EpochResult]) -> list[dict[str, float]]:
    """The results without times and memory."""
    return [{name: value for name, value in result.to_json().items() if name in MEASURED} for result in results]


def weights(state: seeds_module.TrainState) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in state.classifier.model.state_dict().items()}


def separate(config: TrainConfig, seed: int) -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
    with create_state(config.replace(seed=seed)) as state:
        return values(fit(state)), weights(state)


SMALL = {"widths": (8, 8, 8), "batch_size": 50, "epochs": 0.75, "eval_batch_size": 40, "cuda_graphs": False}
CONFIGS = {
    "muon": get_recipe("speedrun", **SMALL, amp=False),
    "adam": get_recipe("era", model="speed_cnn", on_nonfinite="skip", **SMALL),
    "sgd": get_recipe("speedrun", optimizer="sgd", val_fraction=0.2, freeze=("group1",), freeze_at=(0.5,), **SMALL),
}


@pytest.mark.parametrize(("name", "keep_data"), [("muon", True), ("adam", False), ("sgd", True)])
def test_a_run_after_another_equals_a_separate_one(name: str, keep_data: bool, betons: Path) -> None:
    config = CONFIGS[name].replace(data_dir=betons, device="cpu")
    expected, expected_weights = separate(config, 6)
    with SeedTrainer(config, keep_data=keep_data) as trainer:
        trainer.prepare(5)
        first = values(list(trainer.fit_epochs()))
        state = trainer.prepare(6)
        assert values(list(trainer.fit_epochs())) == expected != first
        assert all(torch.equal(value, expected_weights[key]) for key, value in weights(state).items())
