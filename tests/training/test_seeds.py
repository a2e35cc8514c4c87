from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fastcifar import TrainConfig, fit, get_recipe
from fastcifar.device import apply_process_settings
from fastcifar.errors import DataError
from fastcifar.runs.results import EpochResult
from fastcifar.training import seeds as seeds_module
from fastcifar.training.cuda_graphs import capture_evaluations, capture_train_steps
from fastcifar.training.loss_scaling import INITIAL_SCALE
from fastcifar.training.seeds import SeedTrainer
from fastcifar.training.state import TrainState, create_state
from fastcifar.training.warmup import WarmUp, dummy_batch, preserve_state
from tests.helpers import write_pair

MEASURED = {"train_loss", "train_accuracy", "skipped_steps", "test_loss", "test_accuracy", "tta_accuracy", "epoch"}


def values(results: list[EpochResult]) -> list[dict[str, float]]:
    """The results without times and memory."""
    return [{name: value for name, value in result.to_json().items() if name in MEASURED} for result in results]


def weights(state: TrainState) -> dict[str, torch.Tensor]:
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


class StandInGraph:
    """Stands in for a CUDA graph on the CPU: keeps the tensors of its capture, which must stay the run's."""

    def __init__(self, model: nn.Module, function: Callable[..., Any], inputs: Sequence[torch.Tensor]) -> None:
        self.model, self.function, self.tensors = model, function, self.pointers(model)
        self.trained = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
        function(*inputs)

    @staticmethod
    def pointers(model: nn.Module) -> list[int]:
        return [tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers())]

    def __call__(self, *inputs: torch.Tensor) -> Any:
        assert self.pointers(self.model) == self.tensors
        for parameter, trained in self.trained:
            parameter.requires_grad_(trained)
        return self.function(*(each.clone() for each in inputs))


@pytest.mark.parametrize("optimizer", ["muon", "adam", "sgd"])
def test_captured_graphs_train_the_runs_of_all_seeds(
    betons: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    captured: list[StandInGraph] = []

    def stand_in_warm_up(state: TrainState) -> WarmUp:
        def capture(function: Callable[..., Any], inputs: Sequence[torch.Tensor]) -> StandInGraph:
            captured.append(StandInGraph(state.classifier.model, function, inputs))
            return captured[-1]

        config = state.config
        with preserve_state(state):
            images, _, _ = dummy_batch(state, config.data.test_batch_size)
            logits = capture_evaluations(state.classifier, images, config.tta, capture)
            step = capture_train_steps(state, *dummy_batch(state, config.data.batch_size), capture)
        return WarmUp(run_step=step, logits=logits, seconds=1.0)

    monkeypatch.setattr(seeds_module, "warm_up", stand_in_warm_up)
    run = get_recipe("speedrun", **SMALL, amp=False, optimizer=optimizer, data_dir=betons, device="cpu")
    finished = {}
    for seeds in ((6,), (5, 6, 7)):
        captured.clear()
        with SeedTrainer(run) as trainer:
            for seed in seeds:
                state = trainer.prepare(seed)
                buffers = [value for values in state.optimizer.state.values() for value in values.values()]
                results = list(trainer.fit_epochs())
                if seed == 6:
                    finished[seeds] = values(results), weights(state)
            assert {result.warmup_seconds for result in results} == {1.0 if len(seeds) == 1 else 0.0}
            if len(seeds) > 1:
                after = [value for values in state.optimizer.state.values() for value in values.values()]
                assert all(before is now for before, now in zip(buffers, after, strict=True))
    assert finished[(6,)][0] == finished[(5, 6, 7)][0]
    assert all(torch.equal(value, finished[(6,)][1][name]) for name, value in finished[(5, 6, 7)][1].items())


def test_the_loss_scale_and_the_count_of_skipped_steps_begin_again(config: TrainConfig) -> None:
    run = config.replace(amp=True, amp_dtype="float16")
    with SeedTrainer(run) as trainer:
        state = trainer.prepare(1)
        state.scaler.load_state_dict({"scale": 4.0, "_growth_tracker": 3})
        state.nonfinite.count(torch.tensor(False), 3)
        assert state.nonfinite.exceeded() == (1, 3)
        state = trainer.prepare(2)
        assert state.scaler.state_dict() == {"scale": INITIAL_SCALE, "_growth_tracker": 0}
        assert state.nonfinite.exceeded() is None


def test_cached_images_are_read_once_and_again_for_another_split(betons: Path) -> None:
    run = get_recipe("speedrun", **SMALL, data_dir=betons, device="cpu")
    for changes, keeps in ({"amp": False}, True), ({"val_fraction": 0.2}, False):
        with SeedTrainer(run.replace(**changes)) as trainer:
            first = trainer.prepare(1).train_loader
            deque(first.batches(0), maxlen=0)
            second = trainer.prepare(2).train_loader
            assert (second._cache is not None) == keeps
            for ours, expected in zip(second.batches(0), trainer.prepare(2).train_loader.batches(0), strict=True):
                assert all(torch.equal(*pair) for pair in zip(ours, expected, strict=True))


def test_a_seed_with_another_number_of_steps_gets_a_new_state(betons: Path) -> None:
    with SeedTrainer(CONFIGS["adam"].replace(data_dir=betons, device="cpu")) as trainer:
        before = trainer.prepare(1)
        assert trainer.prepare(2) is before
        trainer.config = trainer.config.replace(batch_size=25)  # stands in for a split with fewer images
        after = trainer.prepare(3)
        assert after is not before
        expected, _ = separate(trainer.config, 3)
        trainer.prepare(3)
        assert values(list(trainer.fit_epochs())) == expected


def test_files_that_were_replaced_between_two_seeds_are_refused(tmp_path: Path) -> None:
    write_pair(tmp_path, train=100, test=50)
    with SeedTrainer(CONFIGS["adam"].replace(data_dir=tmp_path, device="cpu")) as trainer:
        trainer.prepare(1)
        write_pair(tmp_path, train=100, test=50, seed=1)
        with pytest.raises(DataError, match="were changed while they were in use"):
            trainer.prepare(2)


@pytest.mark.gpu
@pytest.mark.parametrize("recipe", ["speedrun", "era-fast", "era"])
def test_a_run_after_another_on_the_gpu_is_like_a_separate_one(tmp_path: Path, recipe: str) -> None:
    betons = write_pair(tmp_path, train=1000, test=300)
    shared = {"data_dir": betons, "batch_size": 100, "eval_batch_size": 200, "epochs": 2, "device": "cuda"}
    run = get_recipe(recipe, **shared, amp=True, cuda_graphs=True, deterministic=True)
    apply_process_settings(run.runtime)
    expected, _ = separate(run, 6)
    with SeedTrainer(run) as trainer:
        for seed in (5, 6):
            trainer.prepare(seed)
            results = values(list(trainer.fit_epochs()))
    for ours, theirs in zip(results, expected, strict=True):
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=0.02)
