from __future__ import annotations

import copy
import dataclasses
import functools
import itertools
import json
import re
import signal
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fastcifar import TrainConfig, create_augmentation, create_loader, fit, get_recipe, load_checkpoint
from fastcifar.data.writer import write_beton
from fastcifar.data.beton_format import read_index
from fastcifar.errors import CheckpointError, ConfigError, DataError, DeviceError, StoppedError, TrainingError
from fastcifar.models.speed_cnn import GELU_SCALE
from fastcifar.runs.checkpoint import checkpoint_path, read_checkpoint, save_checkpoint
from fastcifar.data.manifest import content_sha256
from fastcifar.training.resume import restore
from fastcifar.training.loop import OnStep, run_epoch, train_epoch
from fastcifar.inference.model import ImageClassifier, predict, shrink
from fastcifar.report.figures import schedule
from fastcifar.runs.results import EpochResult, StepProgress
from fastcifar.runs.folder import read_metrics
from fastcifar.device import resolve_runtime, seed_everything
from fastcifar.training.state import TrainState, create_state
from fastcifar.training.step import train_step
from fastcifar.training.signals import GracefulStop
from fastcifar.training.warmup import warm_up
from tests.helpers import TinyNet, no_wait_for_the_device, write_pair


def _tiny_state(config: TrainConfig) -> TrainState:
    seed_everything(config.runtime.seed)
    return create_state(config, model=TinyNet())


def _train(config: TrainConfig, **options: Any) -> list[EpochResult]:
    seed_everything(config.runtime.seed)
    return list(fit(config, model=TinyNet(), **options))


def test_an_epoch_after_another_is_handed_out(config: TrainConfig) -> None:
    results = _train(config)
    assert [result.epoch for result in results] == [1, 2, 3]
    for result in results:
        assert result.eval_split == "test"
        assert 0 <= result.test_accuracy <= 1
        assert result.images_per_second == pytest.approx(192 / result.train_seconds)
        assert result.peak_memory_bytes > 1e8
    assert results[-1].total_train_seconds == pytest.approx(sum(result.train_seconds for result in results))
    best = max(results, key=lambda result: result.test_accuracy)
    assert (results[-1].best_accuracy, results[-1].best_epoch) == (best.test_accuracy, best.epoch)
    assert results[-1].lr_end == pytest.approx(config.optim.max_lr / 10)


def test_training_learns_the_made_up_shapes(tmp_path: Path, config: TrainConfig) -> None:
    betons = write_pair(tmp_path, train=1000, test=200)
    results = _train(dataclasses.replace(config, betons=betons, epochs=12, max_lr=0.02, cutout=0))
    assert results[-1].train_loss < results[0].train_loss
    assert results[-1].test_accuracy > 0.2, "twice chance, of so small a network"


def test_the_test_accuracy_agrees_with_a_count_by_hand(config: TrainConfig) -> None:
    state = _tiny_state(config)
    result = list(fit(config, state=state))[-1]
    layout = read_index(config.data.data_dir / "test.beton")
    mean, std = (np.array(values, dtype=np.float32) for values in (state.manifest.mean, state.manifest.std))
    images = torch.from_numpy((layout.images().astype(np.float32) / 255 - mean) / std).permute(0, 3, 1, 2)
    with torch.no_grad():
        logits = state.classifier.model.eval()(images)
    labels = torch.from_numpy(layout.labels)
    right = sum(int(row.argmax()) == int(label) for row, label in zip(logits, labels, strict=True))
    assert result.test_accuracy == pytest.approx(right / 90)
    assert result.test_loss == pytest.approx(nn.functional.cross_entropy(logits, labels).item(), rel=1e-3)


def test_the_same_seed_gives_the_same_weights_and_another_gives_others(config: TrainConfig) -> None:
    losses = [[result.train_loss for result in _train(dataclasses.replace(config, seed=seed))] for seed in (3, 3, 4)]
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


def test_it_stops_at_the_first_evaluation_that_meets_the_target(config: TrainConfig) -> None:
    assert len(_train(dataclasses.replace(config, target=1e-9))) == 1
    assert len(_train(dataclasses.replace(config, target=1.0))) == 3


def test_each_step_is_told_of(config: TrainConfig) -> None:
    seen: list[StepProgress] = []
    _train(dataclasses.replace(config, epochs=2), on_step=seen.append)
    assert [(progress.epoch, progress.step) for progress in seen] == [(e, s) for e in (1, 2) for s in range(1, 7)]
    assert all(progress.steps == 6 for progress in seen)
    assert max(progress.lr for progress in seen) <= config.optim.max_lr


def test_a_validation_split_keeps_the_test_set_out_of_it(config: TrainConfig) -> None:
    state = _tiny_state(dataclasses.replace(config, val_fraction=0.2))
    eval_split = set(state.test_loader.indices.tolist())
    assert len(eval_split) == 40
    assert not eval_split & set(state.train_loader.indices.tolist())
    assert next(fit(state.config, state=state)).eval_split == "validation"


def test_a_model_and_an_augmentation_of_ones_own_are_trained(config: TrainConfig) -> None:
    class Count(nn.Module):
        calls = 0

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            Count.calls += 1
            return images.float() / 255

    model = TinyNet()
    before = model[0].weight.clone()
    list(fit(dataclasses.replace(config, epochs=1), model=model, augmentation=Count()))
    assert Count.calls == 6 + 3
    assert not torch.equal(model[0].weight, before)


def test_the_network_of_the_exercise_trains_in_bfloat16_in_channels_last(config: TrainConfig) -> None:
    state = create_state(dataclasses.replace(config, epochs=1, amp=True))
    assert state.classifier.model.layer1[0].conv.weight.is_contiguous(memory_format=torch.channels_last)
    seen: set[torch.dtype] = set()
    state.classifier.model.layer3.register_forward_hook(lambda _, __, out: seen.add(out.dtype))
    result = next(fit(state.config, state=state))
    assert seen == {torch.bfloat16}
    assert result.train_loss < 10


def test_float16_trains_with_a_scaler(config: TrainConfig) -> None:
    state = _tiny_state(dataclasses.replace(config, amp=True, amp_dtype="float16"))
    assert state.scaler.is_enabled()
    assert all(np.isfinite(result.train_loss) for result in fit(state.config, state=state))
    assert not _tiny_state(dataclasses.replace(config, amp=True)).scaler.is_enabled()


def test_warming_up_leaves_the_state_as_it_was(config: TrainConfig) -> None:
    state = _tiny_state(config)
    before = {name: value.clone() for name, value in state.classifier.model.state_dict().items()}
    random = torch.get_rng_state()
    assert warm_up(state) > 0
    assert torch.equal(torch.get_rng_state(), random)
    for name, value in state.classifier.model.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.slow
def test_compiled_it_trains_to_what_it_trains_to_eagerly(config: TrainConfig) -> None:
    accuracies = {}
    for compile_it in (False, True):
        run = dataclasses.replace(config, compile=compile_it, epochs=2, padding=0, flip_p=0.0, cutout=0)
        state = _tiny_state(run)
        results = list(fit(run, state=state))
        accuracies[compile_it] = [result.train_loss for result in results]
        assert not any("_orig_mod" in name for name in state.classifier.model.state_dict())
    assert accuracies[True] == pytest.approx(accuracies[False], rel=1e-3)


@pytest.mark.slow
def test_all_that_a_run_compiles_is_compiled_before_the_clock(config: TrainConfig) -> None:
    stages = {"resize_sizes": (16, 24), "resize_fractions": (0.25, 0.5), "freeze": ("0", "1"), "freeze_at": (0.3, 0.8)}
    torch.compiler.reset()  # as in a process of its own: other shapes before would make these dynamic
    state = _tiny_state(dataclasses.replace(config, compile=True, epochs=2, tta="flip", whiten=True, **stages))
    warm_up(state)
    assert all(parameter.requires_grad for parameter in state.classifier.model.parameters())
    with torch.compiler.set_stance("fail_on_recompile"):
        run_epoch(state)
        run_epoch(state)
    trained = {name for name, parameter in state.classifier.model.named_parameters() if parameter.requires_grad}
    assert trained == {"5.weight", "5.bias"}


@pytest.mark.slow
def test_compiled_in_bfloat16_it_evaluates_every_image(config: TrainConfig) -> None:
    state = _tiny_state(dataclasses.replace(config, compile=True, amp=True, epochs=1))
    list(fit(state.config, state=state))
    assert sum(len(labels) for _, labels in predict(state.classifier, state.test_loader)) == 90


class _Breaks(nn.Module):
    """A network whose logits, or their gradients alone, are not finite in some of its training steps."""

    def __init__(self, *steps: int, gradient: bool = False) -> None:
        super().__init__()
        self.net, self.steps, self.gradient, self.step = TinyNet(), steps, gradient, 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.net(images)
        if not self.training:
            return logits
        self.step += 1
        if self.step not in self.steps:
            return logits
        if self.gradient:
            logits.register_hook(lambda grad: grad * torch.inf)
            return logits
        return self.net(images * torch.nan)  # the statistics take it, too


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("optimizer", ["adam", "sgd", "muon"])
def test_what_is_not_finite_stops_the_run_before_the_weights_take_it(
    config: TrainConfig, tmp_path: Path, optimizer: Any, gradient: bool
) -> None:
    run = dataclasses.replace(config, optimizer=optimizer, max_lr=0.01, bias_lr=0.01, head_lr=0.01, run_dir=tmp_path)
    state = create_state(run, model=_Breaks(9, gradient=gradient))
    weights: list[torch.Tensor] = []

    def on_step(_: StepProgress) -> None:
        weights[:] = [parameter.detach().clone() for parameter in state.classifier.model.parameters()]

    with pytest.raises(
        TrainingError, match=r"step 3 of epoch 2, at rate 0\.00\d+: the loss or a gradient is not finite"
    ):
        list(fit(run, state=state, on_step=on_step))
    assert all(map(torch.equal, weights, state.classifier.model.parameters()))
    assert read_checkpoint(checkpoint_path(tmp_path, "last"))["epoch"] == 1


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("optimizer", ["adam", "sgd", "muon"])
def test_what_is_not_finite_can_be_skipped(config: TrainConfig, optimizer: Any, gradient: bool) -> None:
    rates = {"optimizer": optimizer, "max_lr": 0.01, "bias_lr": 0.01, "head_lr": 0.01}
    run = dataclasses.replace(config, on_nonfinite="skip", max_skipped=2, **rates)
    model = _Breaks(3, 9, gradient=gradient)
    results = list(fit(run, model=model))
    assert [result.skipped_steps for result in results] == [1, 1, 0]
    assert all(0 < result.train_loss < 10 for result in results)
    assert all(value.isfinite().all() for value in model.state_dict().values())
    with pytest.raises(TrainingError, match=r"step 3 of epoch 1, .* and 2 steps after it"):
        list(fit(run, model=_Breaks(3, 9, 10, gradient=gradient)))


def test_a_skipped_step_leaves_everything_as_it_was(config: TrainConfig) -> None:
    for optimizer in ("adam", "sgd", "muon"):
        run = dataclasses.replace(config, on_nonfinite="skip", optimizer=optimizer)  # type: ignore[arg-type]
        state = create_state(run, model=_Breaks(2))
        images, labels = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8), torch.arange(8)
        train_step(state, images, labels)
        before = copy.deepcopy((state.classifier.model.state_dict(), state.optimizer.state_dict()))
        assert train_step(state, images, labels).tolist() == [0, 0, 1]
        after = (state.classifier.model.state_dict(), state.optimizer.state_dict())
        torch.testing.assert_close(after, before, rtol=0, atol=0)
        assert train_step(state, images, labels)[0] > 0
        state.close()


def test_float16s_scaling_is_not_mistaken_for_a_broken_run(config: TrainConfig) -> None:
    results = list(fit(dataclasses.replace(config, amp=True, amp_dtype="float16"), model=_Breaks(2, gradient=True)))
    assert [result.skipped_steps for result in results] == [0, 0, 0]
    with pytest.raises(TrainingError, match="step 2 of epoch 1"):
        list(fit(dataclasses.replace(config, amp=True, amp_dtype="float16"), model=_Breaks(2)))


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("not enough memory")])
def test_without_memory_the_batch_size_that_fits_is_named(
    config: TrainConfig, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = ImageClassifier.logits

    def limited(network: ImageClassifier, images: torch.Tensor, size: int | None = None) -> torch.Tensor:
        if len(images) > 10:
            raise error
        return logits(network, images, size)

    monkeypatch.setattr(ImageClassifier, "logits", limited)
    with pytest.raises(TrainingError, match=r"out of memory on cpu with --batch-size 32; .* take --batch-size 8$"):
        _train(config)


def test_another_error_is_not_taken_for_want_of_memory(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("something else")

    monkeypatch.setattr(ImageClassifier, "logits", broken)
    with pytest.raises(RuntimeError, match="something else"):
        _train(config)


def test_bad_input_is_refused(config: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="write-beton"):
        next(fit(dataclasses.replace(config, betons=tmp_path)))
    with pytest.raises(ConfigError, match="batch_size is 512"):
        next(fit(dataclasses.replace(config, batch_size=512)))
    with pytest.raises(ConfigError, match="device is 'tpu9'"):
        next(fit(dataclasses.replace(config, device="tpu9")))
    if not torch.cuda.is_available():
        with pytest.raises(DeviceError, match="sees 0 CUDA devices; use --device cpu"):
            next(fit(dataclasses.replace(config, device="cuda")))


def _noise(folder: Path, size: int) -> Path:
    images, labels = np.random.default_rng(0).integers(0, 256, (40, size, size, 3), dtype=np.uint8), np.arange(40) % 2
    folder.mkdir()
    for split in ("train", "test"):
        write_beton(folder / f"{split}.beton", images, labels, class_names=("a", "b"), name="noise")
    return folder


def test_images_of_a_size_that_the_network_does_not_take_are_refused(config: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"takes no images of 4 × 4 pixels; .*--resize 32"):
        next(fit(dataclasses.replace(config, betons=_noise(tmp_path / "4", 4))))
    large = dataclasses.replace(config, betons=_noise(tmp_path / "64", 64), model="dilated_cnn", epochs=1)
    assert next(fit(large)).epoch == 1, "the mean over the places takes any size"


def test_the_last_epoch_may_be_a_part_of_one(config: TrainConfig) -> None:
    steps: list[StepProgress] = []
    results = _train(dataclasses.replace(config, epochs=1.5), on_step=steps.append)
    assert [(result.epoch, result.epochs) for result in results] == [(1, 2), (2, 2)]
    assert [(step.epoch, step.step, step.steps) for step in steps[5:]] == [(1, 6, 6), (2, 1, 3), (2, 2, 3), (2, 3, 3)]
    assert results[-1].lr_end == pytest.approx(config.optim.max_lr / 10), "the schedule ends where the run ends"
    assert results[-1].images_per_second == pytest.approx(3 * 32 / results[-1].train_seconds)


def test_the_first_images_are_small(config: TrainConfig) -> None:
    seen: list[int] = []
    net = TinyNet()
    net.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[-1]) if net.training else None)
    list(fit(dataclasses.replace(config, epochs=2, resize_sizes=(16, 20), resize_fractions=(0.25, 0.5)), model=net))
    assert seen == [16] * 3 + [20] * 6 + [32] * 3


def test_frozen_parts_stop_where_they_are_and_the_others_go_on(config: TrainConfig) -> None:
    parts = {"freeze": ("prep", "layer1"), "freeze_at": (0.25, 0.75)}
    config = dataclasses.replace(config, model="custom_resnet", epochs=2, weight_decay=0.1, **parts)
    state = create_state(config)
    steps: list[dict[str, torch.Tensor]] = []

    def keep(_: StepProgress) -> None:
        steps.append({name: value.detach().clone() for name, value in state.classifier.model.named_parameters()})

    list(fit(config, state=state, on_step=keep))
    assert len(steps) == 12
    for part, last in (("prep", 3), ("layer1", 9), ("layer3", 12), ("head", 12)):
        names = [name for name in steps[0] if name.startswith(part)]
        assert names
        for number, (before, after) in enumerate(itertools.pairwise(steps), start=2):
            moved = any(not torch.equal(before[name], after[name]) for name in names)
            assert moved == (number <= last), f"{part} in step {number}"


def test_a_run_goes_on_with_the_parts_frozen_that_were(config: TrainConfig) -> None:
    config = dataclasses.replace(config, model="custom_resnet", freeze=("prep",), freeze_at=(0.25,))
    state = create_state(config)
    state.epoch = 1
    train_epoch(state)
    assert {name for name, value in state.classifier.model.named_parameters() if not value.requires_grad} == {
        "prep.conv.weight", "prep.norm.weight", "prep.norm.bias",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (("layer9",), "freeze has 'layer9'; this network's parts are prep, layer1, layer2, layer3, head"),
        (("prep", "layer1", "layer2", "layer3", "head"), "one must train to the end"),
    ],
)
def test_parts_that_cannot_be_frozen_are_refused(config: TrainConfig, parts: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        create_state(dataclasses.replace(config, model="custom_resnet", freeze=parts, freeze_at=(0.5,) * len(parts)))


def test_shrinking_keeps_a_plane_of_one_colour_and_a_slope(config: TrainConfig) -> None:
    slope = torch.arange(32.0).expand(1, 3, 32, 32)
    assert torch.allclose(shrink(slope, 16)[0, 0, 0], torch.arange(16.0) * 2 + 0.5)
    assert torch.allclose(shrink(torch.full((1, 3, 32, 32), 0.25), 24), torch.full((1, 3, 24, 24), 0.25))


@pytest.mark.parametrize(("tta", "share"), [("flip", 1.0), ("flip-shift", 1.0), ("flip", 0.25)])
def test_test_time_augmentation_averages_the_views(config: TrainConfig, tta: Any, share: float) -> None:
    state = _tiny_state(dataclasses.replace(config, tta=tta, tta_fraction=share))
    state.classifier.train(False)
    images = torch.randint(0, 256, (20, 3, 32, 32), dtype=torch.uint8)
    model, pixels = state.classifier.model, state.classifier.augmentation(images)
    with torch.no_grad():
        plain = model(pixels)
        mean = (plain + model(pixels.flip(-1))) / 2
        if tta == "flip-shift":
            padded = nn.functional.pad(pixels, (1, 1, 1, 1), mode="reflect")
            moved = [padded[:, :, :-2, :-2], padded[:, :, 2:, 2:]]
            mean = mean / 2 + sum(model(view) + model(view.flip(-1)) for view in moved) / 8
        doubtful = plain.softmax(1).amax(1).argsort()[: round(share * 20)]
        expected = plain.clone()
        expected[doubtful] = mean[doubtful]
        torch.testing.assert_close(state.classifier.fixed_batch_logits(images, 20, state.config), expected)
    state.close()


def test_the_last_evaluation_is_also_made_with_test_time_augmentation(config: TrainConfig) -> None:
    first, last = _train(dataclasses.replace(config, epochs=2, tta="flip"))
    assert first.tta_accuracy is None
    assert first.tta_seconds is None
    assert last.tta_accuracy is not None
    assert abs(last.tta_accuracy - last.test_accuracy) < 0.2
    assert last.tta_seconds is not None
    assert last.tta_seconds > 0


def test_a_speed_recipe_begins_whitened_and_trains_what_it_should(config: TrainConfig) -> None:
    speedrun = get_recipe("speedrun", betons=config.data.data_dir, batch_size=100, epochs=1, amp=False)
    state = create_state(speedrun)
    drawn = state.classifier.model.whiten.weight.clone()
    epoch = state.train_loader.epoch
    list(fit(speedrun, state=state))
    weight = state.classifier.model.whiten.weight
    assert not torch.equal(weight, drawn)
    assert torch.equal(weight[:12], -weight[12:]), "they are kept"
    assert state.train_loader.epoch == epoch + 1, "the batch that whitens is no step"
    norms = [module for module in state.classifier.model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert all(torch.equal(norm.weight, torch.full_like(norm.weight, GELU_SCALE)) for norm in norms), "they are kept"
    assert all(norm.bias.abs().sum() > 0 for norm in norms)


def test_the_run_folder_holds_the_run(config: TrainConfig, tmp_path: Path) -> None:
    run = tmp_path / "run"
    results = _train(dataclasses.replace(config, run_dir=run))
    assert sorted(path.name for path in run.iterdir()) == [
        "checkpoints", "config.json", "environment.json", "metrics.jsonl",
    ]  # fmt: skip
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["best.pt", "last.pt", "previous.pt"]
    assert TrainConfig.from_json(json.loads((run / "config.json").read_text())).epochs == 3
    assert read_metrics(run) == [result.to_json() for result in results]
    environment = json.loads((run / "environment.json").read_text())
    assert environment["data"]["name"] == "synthetic"
    assert environment["versions"]["torch"] == torch.__version__
    assert read_checkpoint(checkpoint_path(run, "best"))["epoch"] == results[-1].best_epoch
    assert read_checkpoint(checkpoint_path(run, "last"))["epoch"] == 3


def test_a_run_folder_that_holds_a_run_is_not_overwritten(config: TrainConfig, tmp_path: Path) -> None:
    run = dataclasses.replace(config, epochs=1, run_dir=tmp_path / "run")
    _train(run)
    with pytest.raises(CheckpointError, match="holds a run already"):
        _train(run)


@pytest.mark.parametrize("amp", [False, True])
def test_resuming_ends_with_exactly_the_weights_of_the_uninterrupted_run(
    config: TrainConfig, tmp_path: Path, amp: bool
) -> None:
    config = dataclasses.replace(config, amp=amp)
    whole = _tiny_state(dataclasses.replace(config, run_dir=tmp_path / "whole"))
    expected = list(fit(whole.config, state=whole))

    broken_off = dataclasses.replace(config, run_dir=tmp_path / "resumed")
    first = fit(broken_off, state=_tiny_state(broken_off))
    next(first)
    first.close()
    torch.manual_seed(12345)  # another process has other random numbers
    resumed = create_state(broken_off, model=TinyNet())
    restore(tmp_path / "resumed", resumed)
    results = list(fit(broken_off, state=resumed))

    assert [result.epoch for result in results] == [2, 3]
    assert [result.train_loss for result in results] == [result.train_loss for result in expected[1:]]
    for name, value in whole.network.model.state_dict().items():
        assert torch.equal(value, resumed.network.model.state_dict()[name]), name
    assert [line["epoch"] for line in read_metrics(tmp_path / "resumed")] == [1, 2, 3]


def _stop_after(steps: int, stop: GracefulStop) -> OnStep:
    """Ask for a stop when that many steps were seen."""
    seen = itertools.count(1)

    def on_step(_: StepProgress) -> None:
        if next(seen) == steps:
            stop.signal = signal.SIGTERM

    return on_step


@functools.cache
def _whole_run(recipe: str, **shared: Any) -> tuple[TrainState, list[EpochResult]]:
    whole = create_state(get_recipe(recipe, **shared))
    return whole, list(fit(whole.config, state=whole))


@pytest.mark.parametrize("recipe", ["era", "era-fast", "speedrun"])
@pytest.mark.parametrize("amp", [False, True])
@pytest.mark.parametrize("steps", [4, 5], ids=["at an epoch's end", "in its middle"])
def test_a_run_that_was_stopped_between_two_batches_ends_with_exactly_the_weights_of_the_whole_one(
    betons: Path, tmp_path: Path, recipe: str, amp: bool, steps: int
) -> None:
    shared: dict[str, Any] = {"betons": betons, "batch_size": 50, "epochs": 1.5, "amp": amp}
    whole, expected = _whole_run(recipe, **shared)
    config, stop = get_recipe(recipe, run_dir=tmp_path, **shared), GracefulStop()
    with pytest.raises(StoppedError) as stopped:
        list(fit(config, on_step=_stop_after(steps, stop), stop=stop))
    assert stopped.value.exit_code == 143
    torch.manual_seed(12345)
    resumed = create_state(config)
    assert restore(tmp_path, resumed) is None
    epoch = (steps - 1) // 4  # an epoch whose evaluation is still to come is not done
    assert (resumed.epoch, resumed.epoch_steps) == (epoch, steps - 4 * epoch)
    results = list(fit(config, state=resumed))
    for result, reference in zip(results, expected[-len(results) :], strict=True):
        for name in ("train_loss", "train_accuracy", "test_loss", "test_accuracy", "tta_accuracy"):
            assert getattr(result, name) == getattr(reference, name), name
    for name, value in whole.network.model.state_dict().items():
        assert torch.equal(value, resumed.network.model.state_dict()[name]), name
    assert [line["epoch"] for line in read_metrics(tmp_path)] == [1, 2]


def test_a_checkpoint_is_kept_inside_an_epoch_if_asked_for(config: TrainConfig, tmp_path: Path) -> None:
    run = dataclasses.replace(config, run_dir=tmp_path, checkpoint_every=2)
    steps: list[int] = []

    def on_step(progress: StepProgress) -> None:
        steps.append(progress.step)
        if len(steps) == 6 + 5:
            raise KeyboardInterrupt  # as a death at any moment

    with pytest.raises(KeyboardInterrupt):
        list(fit(run, state=_tiny_state(run), on_step=on_step))
    last, previous = (read_checkpoint(checkpoint_path(tmp_path, which)) for which in ("last", "previous"))
    assert (last["epoch"], last["epoch_steps"], last["schedule"]["step"]) == (1, 4, 10)
    assert (previous["epoch"], previous["epoch_steps"]) == (1, 2)


def _flip_a_bit(path: Path) -> None:
    """Of a tensor; in a new file, since others may be links to the old one."""
    weight = read_checkpoint(path)["model"]["1.running_mean"]
    content = bytearray(path.read_bytes())
    content[content.index(weight.numpy().tobytes()) + 1] ^= 1
    path.unlink()
    path.write_bytes(content)


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before_it(config: TrainConfig, tmp_path: Path) -> None:
    run = dataclasses.replace(config, run_dir=tmp_path)
    _train(run)
    last, previous = checkpoint_path(tmp_path, "last"), checkpoint_path(tmp_path, "previous")
    _flip_a_bit(last)
    state = _tiny_state(run)
    damage = restore(tmp_path, state)
    assert str(damage).startswith(f"{last}: damaged")
    assert state.epoch == 2
    assert [result.epoch for result in fit(run, state=state)] == [3]
    assert [line["epoch"] for line in read_metrics(tmp_path)] == [1, 2, 3]
    assert read_checkpoint(last)["epoch"] == 3
    assert last.with_name("damaged.pt").exists()
    for path in (last, previous):
        if path.exists():
            _flip_a_bit(path)
    with pytest.raises(CheckpointError, match=re.escape(f"{last}: damaged")):
        restore(tmp_path, _tiny_state(run))


def test_a_checkpoint_that_cannot_be_written_is_named(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise RuntimeError("unexpected pos 64 vs 0\nand a trace")

    monkeypatch.setattr(torch, "save", full)
    message = r"^.*last\.pt: cannot be written \(unexpected pos 64 vs 0\); is the disk full\?$"
    with pytest.raises(CheckpointError, match=message):
        save_checkpoint(tmp_path / "last.pt", _tiny_state(config))
    assert list(tmp_path.iterdir()) == []


def test_two_runs_cannot_write_to_one_folder(config: TrainConfig, tmp_path: Path) -> None:
    run = dataclasses.replace(config, run_dir=tmp_path)
    first = fit(run, state=_tiny_state(run))
    next(first)
    state = _tiny_state(run)
    restore(tmp_path, state)
    with pytest.raises(CheckpointError, match="another process trains in this folder"):
        next(fit(run, state=state))
    first.close()
    state = _tiny_state(run)
    restore(tmp_path, state)
    assert next(fit(run, state=state)).epoch == 2, "the end of the first gave the folder back"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 4}, "had 3 for --epochs, this one has 4: a run goes on as it began"),
        ({"batch_size": 20}, "had 32 for --batch-size"),
        ({"max_lr": 0.1}, "had .* for --max-lr, this one has 0.1"),
        ({"seed": 9}, "had 0 for --seed"),
    ],
)
def test_a_run_goes_on_only_as_it_began(
    config: TrainConfig, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    run = dataclasses.replace(config, run_dir=tmp_path / "run")
    next(fit(run, state=_tiny_state(run)))
    other = create_state(dataclasses.replace(run, **change), model=TinyNet())
    with pytest.raises(CheckpointError, match=rf"last\.pt: its run {message}"):
        restore(tmp_path / "run", other)


def test_a_run_does_not_go_on_with_other_data(config: TrainConfig, tmp_path: Path) -> None:
    run = dataclasses.replace(config, run_dir=tmp_path / "run")
    next(fit(run, state=_tiny_state(run)))
    betons = write_pair(tmp_path / "betons", train=200, test=90, seed=1)
    other = create_state(dataclasses.replace(run, betons=betons), model=TinyNet())
    with pytest.raises(CheckpointError, match=r"last\.pt: its run had .* for data, this one has"):
        restore(tmp_path / "run", other)


def test_a_run_does_not_go_on_with_another_network(config: TrainConfig, tmp_path: Path) -> None:
    run = dataclasses.replace(config, run_dir=tmp_path / "run")
    next(fit(run, state=_tiny_state(run)))
    other = create_state(run, model=nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)))
    with pytest.raises(CheckpointError, match=r"last\.pt: does not fit this network \(Error\(s\) in loading"):
        restore(tmp_path / "run", other)


def test_reading_a_whole_checkpoint_leaves_it_where_it_is(config: TrainConfig, tmp_path: Path) -> None:
    run = dataclasses.replace(config, run_dir=tmp_path / "run")
    next(fit(run, state=_tiny_state(run)))
    before = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert restore(tmp_path / "run", _tiny_state(run)) is None
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == before


def test_a_run_does_not_go_on_with_a_loader_of_other_images(config: TrainConfig, tmp_path: Path) -> None:
    run = dataclasses.replace(config, run_dir=tmp_path / "run")
    next(fit(run, state=_tiny_state(run)))
    other = _tiny_state(run)
    other.train_loader = create_loader(run.betons / "train.beton", batch_size=32, train=True, indices=np.arange(100))
    with pytest.raises(CheckpointError, match=r"last\.pt: its run had 18 for the number of steps, this one has 9"):
        restore(tmp_path / "run", other)


def test_a_checkpoint_is_loaded_in_eval_mode_with_its_configuration(config: TrainConfig, tmp_path: Path) -> None:
    run = dataclasses.replace(config, epochs=1, batch_size=100, run_dir=tmp_path / "run")
    state = create_state(run)
    list(fit(run, state=state))
    for which in ("best", "last"):
        model, loaded = load_checkpoint(tmp_path / "run", which)  # type: ignore[arg-type]
        assert loaded == run
        assert not model.training
        for name, value in state.classifier.model.state_dict().items():
            assert torch.equal(model.state_dict()[name], value), name


def test_a_checkpoint_that_is_none_or_of_another_network_is_refused(config: TrainConfig, tmp_path: Path) -> None:
    run = dataclasses.replace(config, epochs=1, run_dir=tmp_path / "run")
    _train(run)
    with pytest.raises(
        CheckpointError,
        match=r"best\.pt: its weights are of another network; pass that as `model` \(Error\(s\) in loading",
    ):
        load_checkpoint(tmp_path / "run")
    assert isinstance(load_checkpoint(tmp_path / "run", model=TinyNet())[0], TinyNet)
    with pytest.raises(CheckpointError, match="there is no such checkpoint"):
        load_checkpoint(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="'best', 'last' and 'previous'"):
        load_checkpoint(tmp_path / "run", "first")  # type: ignore[arg-type]
    path = checkpoint_path(tmp_path / "run", "best")
    whole = path.read_bytes()
    for content in (b"", b"nonsense", whole[: len(whole) // 2]):
        path.unlink()
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="damaged, or no checkpoint"):
            load_checkpoint(tmp_path / "run")


def test_the_hash_of_a_checkpoint_tells_names_nesting_types_and_shapes_apart() -> None:
    zeros = torch.zeros(4)
    contents = [
        {"a": 1, "b": 2}, {"b": 1, "a": 2}, {"a": 12}, {"a": "1"}, {"a": True}, {"a": {}}, {"a": []},
        [1, 2], [[1], 2], [[1, 2]], [12], ["a", 1],
        {"a": zeros}, {"a": zeros.view(2, 2)}, {"a": zeros.int()}, {"a": -zeros}, {"a": [zeros]},
    ]  # fmt: skip
    assert len({content_sha256(content) for content in contents}) == len(contents)
    assert content_sha256({"a": [1, zeros]}) == content_sha256({"a": (1, zeros.clone())})


OTHER_HASH = "damaged: its content does not have the hash that it was saved with"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"format_version": 1}, "format version 1; this fastcifar reads 3"),
        ({"format_version": 3}, "damaged: its content does not have the hash that it was saved with"),
        (
            {"format_version": 3, "sha256": "0" * 64},
            "damaged: its content does not have the hash that it was saved with",
        ),
        (
            {"format_version": 3, "a": {"b": [torch.zeros(1).expand(10**12)]}},
            "damaged: a tensor is larger than what the file holds of it",
        ),
        ({"a": 1}, "damaged, or no checkpoint of fastcifar's ('format_version')"),
        ([1], "damaged, or no checkpoint of fastcifar's (list indices must be integers or slices, not str)"),
    ],
)
def test_a_file_that_is_no_checkpoint_of_ours_is_told_apart(tmp_path: Path, values: Any, message: str) -> None:
    torch.save(values, tmp_path / "last.pt")
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(tmp_path / "last.pt")
    assert str(caught.value) == f"{tmp_path / 'last.pt'}: {message}"


def test_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "executed",))

    (tmp_path / "checkpoints").mkdir()
    torch.save({"format_version": 1, "model": Payload()}, tmp_path / "checkpoints" / "best.pt")
    with pytest.raises(CheckpointError, match="damaged, or no checkpoint"):
        load_checkpoint(tmp_path)
    assert not (tmp_path / "executed").exists()


def test_amp_and_devices_are_resolved_from_the_machine(config: TrainConfig) -> None:
    assert resolve_runtime(config).amp_dtype is None
    assert resolve_runtime(dataclasses.replace(config, amp=True)).amp_dtype is torch.bfloat16
    forced = dataclasses.replace(config, amp=True, amp_dtype="float16")
    assert resolve_runtime(forced).amp_dtype is torch.float16
    described = resolve_runtime(dataclasses.replace(config, amp=True, compile=True)).describe_precision()
    assert described == "bfloat16 (AMP), channels-last, compiled"


class _Replayed:
    """Stands for a CUDA graph where there is none: rehearsed as often, then called, with what then trained training."""

    def __init__(self, parameters: list[nn.Parameter], function: Any, inputs: Any, pool: object) -> None:
        self.function = function
        self.trained = [(parameter, parameter.requires_grad) for parameter in parameters]
        for _ in range(3):
            function(*inputs)

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        for parameter, trained in self.trained:
            parameter.requires_grad_(trained)
        return self.function(*(each.clone() for each in inputs))


@pytest.mark.parametrize("recipe", ["speedrun", "era"])
def test_what_is_recorded_is_the_run_step_by_step(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, recipe: str
) -> None:
    shared = {"betons": config.data.data_dir, "batch_size": 50, "eval_batch_size": 40, "device": "cpu"}
    run = get_recipe(recipe, **shared, epochs=1.75, amp=False)

    def in_tensors(optimizer: torch.optim.Optimizer, *at: Any) -> float:
        rate = schedule(optimizer, *at)
        for group in optimizer.param_groups:
            group["lr"] = torch.as_tensor(group["lr"], dtype=torch.float32)
        return rate

    with monkeypatch.context() as patch:  # the rates as a graph holds them, or rounding would tell the runs apart
        patch.setattr("fastcifar.training.step.schedule", in_tensors)
        plain_state = create_state(run)
        plain = list(fit(run, state=plain_state))
    state = create_state(run)
    stand_in = functools.partial(_Replayed, list(state.classifier.model.parameters()))
    monkeypatch.setattr("fastcifar.training.warmup.CudaGraph", stand_in)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    state.classifier = dataclasses.replace(
        state.classifier, runtime=dataclasses.replace(state.runtime, cuda_graphs=True), recorded={}
    )
    recorded = list(fit(run, state=state))
    assert {size for size, _ in state.recorded} == {*run.resize_sizes, None}
    assert len(state.classifier.recorded) == 1 + (run.tta != "none")
    for ours, theirs in zip(recorded, plain, strict=True):
        assert ours.train_loss == theirs.train_loss
        assert (ours.test_accuracy, ours.tta_accuracy) == (theirs.test_accuracy, theirs.tta_accuracy)
    weights = plain_state.network.model.state_dict()
    for name, tensor in state.classifier.model.state_dict().items():
        assert torch.equal(tensor, weights[name]), name


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("recipe", ["speedrun", "era-fast", "era"])
def test_recorded_on_the_gpu_it_trains_to_what_it_trains_to_launch_by_launch(
    tmp_path: Path, recipe: str, compiled: bool
) -> None:
    betons = write_pair(tmp_path, train=1000, test=300)
    shared = {"betons": betons, "batch_size": 100, "eval_batch_size": 200, "epochs": 2, "device": "cuda"}
    run = get_recipe(recipe, **shared, cache_on_device=True, compile=compiled, deterministic=True)
    losses = {}
    for graphs in (False, True):
        results = list(fit(dataclasses.replace(run, cuda_graphs=graphs)))
        losses[graphs] = [result.train_loss for result in results]
    assert losses[True] == pytest.approx(losses[False], rel=0.02)


@pytest.mark.gpu
@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("recipe", ["speedrun", "era"])
def test_within_an_epoch_the_host_waits_for_the_gpu_nowhere(tmp_path: Path, recipe: str, graphs: bool) -> None:
    betons = write_pair(tmp_path, train=1000, test=300)
    shared = {"batch_size": 50, "eval_batch_size": 100, "epochs": 2, "device": "cuda", "amp": True}
    run = get_recipe(recipe, betons=betons, **shared, cuda_graphs=graphs)
    with ExitStack() as stack:

        def watch(progress: StepProgress) -> None:
            if progress.step == 2:
                stack.enter_context(no_wait_for_the_device())
            if progress.step == progress.steps:
                stack.close()

        assert len(list(fit(run, on_step=watch))) == 2


@pytest.mark.gpu
def test_compiled_training_on_the_gpu_learns(config: TrainConfig, tmp_path: Path) -> None:
    betons = write_pair(tmp_path, train=2000, test=500)
    run = dataclasses.replace(config, betons=betons, device="cuda", amp=True, compile=True, epochs=5, batch_size=100)
    assert list(fit(run))[-1].test_accuracy > 0.5


def test_the_public_names_are_exported() -> None:
    import fastcifar

    for name in fastcifar.__all__:
        assert getattr(fastcifar, name) is not None
    assert create_augmentation is fastcifar.create_augmentation
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        fastcifar.nothing  # noqa: B018
