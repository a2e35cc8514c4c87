from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fastcifar import TrainConfig, create_augmentation, fit, fit_epochs, get_recipe
from fastcifar.data.beton_format import read_index
from fastcifar.errors import ConfigError
from fastcifar.models.speed_cnn import GELU_SCALE
from fastcifar.runs.results import StepProgress
from fastcifar.training.state import create_state
from tests.helpers import TinyNet, tiny_state, train_tiny, write_pair


def test_training_yields_one_result_per_epoch(config: TrainConfig) -> None:
    results = train_tiny(config)
    assert [result.epoch for result in results] == [1, 2, 3]
    for result in results:
        assert result.eval_split == "test"
        assert 0 <= result.test_accuracy <= 1
        assert result.images_per_second == pytest.approx(192 / result.train_seconds)
        assert result.peak_memory_bytes > 1e8
    assert results[-1].total_train_seconds == pytest.approx(sum(result.train_seconds for result in results))
    best = max(results, key=lambda result: result.test_accuracy)
    assert (results[-1].best_accuracy, results[-1].best_epoch) == (best.test_accuracy, best.epoch)
    assert results[-1].lr_end == pytest.approx(config.optim.max_lr / config.optim.div_factor)


def test_training_learns_synthetic_images(tmp_path: Path, config: TrainConfig) -> None:
    betons = write_pair(tmp_path, train=1000, test=200)
    results = train_tiny(
        config.replace(data_dir=betons, epochs=12, max_lr=0.02, div_factor=10, weight_decay=1e-4, cutout=0)
    )
    assert results[-1].train_loss < results[0].train_loss
    assert results[-1].test_accuracy > 0.2, "twice the accuracy of chance, with so small a network"


def test_the_test_accuracy_equals_a_count_by_hand(config: TrainConfig) -> None:
    state = tiny_state(config)
    result = fit(state)[-1]
    layout = read_index(config.data.data_dir / "test.beton")
    mean, std = (np.array(values, dtype=np.float32) for values in (state.manifest.mean, state.manifest.std))
    images = torch.from_numpy((layout.images().astype(np.float32) / 255 - mean) / std).permute(0, 3, 1, 2)
    with torch.no_grad():
        logits = state.classifier.model.eval()(images)
    labels = torch.from_numpy(layout.labels)
    right = sum(int(row.argmax()) == int(label) for row, label in zip(logits, labels, strict=True))
    assert result.test_accuracy == pytest.approx(right / 90)
    assert result.test_loss == pytest.approx(nn.functional.cross_entropy(logits, labels).item(), rel=1e-3)


def test_equal_seeds_give_equal_losses(config: TrainConfig) -> None:
    losses = [[result.train_loss for result in train_tiny(config.replace(seed=seed))] for seed in (3, 3, 4)]
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


def test_training_stops_at_the_target_accuracy(config: TrainConfig) -> None:
    assert len(train_tiny(config.replace(target_accuracy=1e-9))) == 1
    assert len(train_tiny(config.replace(target_accuracy=1.0))) == 3


def test_on_step_is_called_for_each_step(config: TrainConfig) -> None:
    seen: list[StepProgress] = []
    train_tiny(config.replace(epochs=2), on_step=seen.append)
    assert [(progress.epoch, progress.step) for progress in seen] == [(e, s) for e in (1, 2) for s in range(1, 7)]
    assert all(progress.steps == 6 for progress in seen)
    assert max(progress.lr for progress in seen) <= config.optim.max_lr


def test_a_validation_split_replaces_the_test_set(config: TrainConfig) -> None:
    state = tiny_state(config.replace(val_fraction=0.2))
    eval_split = set(state.test_loader.indices.tolist())
    assert len(eval_split) == 40
    assert not eval_split & set(state.train_loader.indices.tolist())
    assert next(fit_epochs(state)).eval_split == "validation"


def test_a_given_model_and_augmentation_are_trained(config: TrainConfig) -> None:
    class Count(nn.Module):
        calls = 0

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            Count.calls += 1
            return images.float() / 255

    model = TinyNet()
    before = model[0].weight.clone()
    fit(config.replace(epochs=1), model=model, augmentation=Count())
    assert Count.calls == 1 + 6 + 3, "the check of the network, training, evaluation"
    assert not torch.equal(model[0].weight, before)


def test_the_network_of_the_exercise_trains_in_bfloat16_in_channels_last(config: TrainConfig) -> None:
    state = create_state(config.replace(epochs=0.2, amp=True, amp_dtype="bfloat16"))
    assert state.classifier.model.layer1[0].conv.weight.is_contiguous(memory_format=torch.channels_last)
    seen: set[torch.dtype] = set()
    state.classifier.model.layer3.register_forward_hook(lambda _, __, out: seen.add(out.dtype))
    result = next(fit_epochs(state))
    assert seen == {torch.bfloat16}
    assert result.train_loss < 10


def test_float16_trains_with_a_scaler(config: TrainConfig) -> None:
    state = tiny_state(config.replace(amp=True, amp_dtype="float16"))
    assert state.scaler.enabled
    assert all(np.isfinite(result.train_loss) for result in fit_epochs(state))
    assert not tiny_state(config.replace(amp=True, amp_dtype="bfloat16")).scaler.enabled


def test_the_last_epoch_may_be_partial(config: TrainConfig) -> None:
    steps: list[StepProgress] = []
    results = train_tiny(config.replace(epochs=1.5), on_step=steps.append)
    assert [(result.epoch, result.epochs) for result in results] == [(1, 2), (2, 2)]
    assert [(step.epoch, step.step, step.steps) for step in steps[5:]] == [(1, 6, 6), (2, 1, 3), (2, 2, 3), (2, 3, 3)]
    assert results[-1].lr_end == pytest.approx(config.optim.max_lr / config.optim.div_factor), (
        "the schedule ends where the run ends"
    )
    assert results[-1].images_per_second == pytest.approx(3 * 32 / results[-1].train_seconds)


def test_progressive_resizing_starts_with_small_images(config: TrainConfig) -> None:
    seen: list[int] = []
    net = TinyNet()
    net.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[-1]) if net.training else None)
    fit(config.replace(epochs=2, resize_sizes=(16, 20), resize_fractions=(0.25, 0.5)), model=net)
    assert seen == [16] * 3 + [20] * 6 + [32] * 3


def test_the_last_evaluation_also_uses_test_time_augmentation(config: TrainConfig) -> None:
    first, last = train_tiny(config.replace(epochs=2, tta="flip"))
    assert first.tta_accuracy is None
    assert first.tta_seconds is None
    assert last.tta_accuracy is not None
    assert abs(last.tta_accuracy - last.test_accuracy) < 0.2
    assert last.tta_seconds is not None
    assert last.tta_seconds > 0


def test_a_speed_recipe_starts_whitened_and_trains_the_other_parameters(config: TrainConfig) -> None:
    speedrun = get_recipe("speedrun", data_dir=config.data.data_dir, batch_size=100, epochs=1, amp=False)
    state = create_state(speedrun)
    drawn = state.classifier.model.whiten.weight.clone()
    steps: list[StepProgress] = []
    fit(state, on_step=steps.append)
    weight = state.classifier.model.whiten.weight
    assert not torch.equal(weight, drawn)
    assert torch.equal(weight[:12], -weight[12:]), "they are kept"
    assert len(steps) == len(state.train_loader), "the batch used for whitening is not a step"
    norms = [module for module in state.classifier.model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert all(torch.equal(norm.weight, torch.full_like(norm.weight, GELU_SCALE)) for norm in norms), "they are kept"
    assert all(norm.bias.abs().sum() > 0 for norm in norms)


def test_a_given_state_stays_open_and_a_model_beside_it_is_refused(config: TrainConfig) -> None:
    with tiny_state(config.replace(epochs=1)) as state:
        assert [result.epoch for result in fit(state)] == [1]
        assert next(state.train_loader.batches(0))[0].shape == (32, 3, 32, 32)
        with pytest.raises(ConfigError, match="a run's state has its own model and augmentation"):
            fit(state, model=TinyNet())


def test_the_public_names_are_exported() -> None:
    import fastcifar

    for name in fastcifar.__all__:
        assert getattr(fastcifar, name) is not None
    assert create_augmentation is fastcifar.create_augmentation
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        fastcifar.nothing  # noqa: B018
