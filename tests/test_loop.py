from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fastcifar import TrainConfig, create_augmentation, fit, load_checkpoint
from fastcifar.data.beton import write_beton
from fastcifar.data.layout import read_layout
from fastcifar.errors import CheckpointError, ConfigError, DataError, DeviceError, TrainingError
from fastcifar.training.checkpoint import checkpoint_path, read_checkpoint, restore
from fastcifar.training.loop import warm_up
from fastcifar.training.network import predict
from fastcifar.training.results import EpochResult, StepProgress
from fastcifar.training.run import read_metrics
from fastcifar.training.runtime import resolve_runtime, seed_everything
from fastcifar.training.state import TrainState, create_state
from tests.conftest import TinyNet, write_pair


def _tiny_state(config: TrainConfig) -> TrainState:
    seed_everything(config.seed)
    return create_state(config, model=TinyNet())


def _train(config: TrainConfig, **options: Any) -> list[EpochResult]:
    seed_everything(config.seed)
    return list(fit(config, model=TinyNet(), **options))


def test_an_epoch_after_another_is_handed_out(config: TrainConfig) -> None:
    results = _train(config)
    assert [result.epoch for result in results] == [1, 2, 3]
    for result in results:
        assert result.held_out == "test"
        assert 0 <= result.test_accuracy <= 1
        assert result.images_per_second == pytest.approx(192 / result.train_seconds)
        assert result.peak_memory_bytes > 1e8
    assert results[-1].total_train_seconds == pytest.approx(sum(result.train_seconds for result in results))
    best = max(results, key=lambda result: result.test_accuracy)
    assert (results[-1].best_accuracy, results[-1].best_epoch) == (best.test_accuracy, best.epoch)
    assert results[-1].lr_end == pytest.approx(config.max_lr / 10)


def test_training_learns_the_made_up_shapes(tmp_path: Path, config: TrainConfig) -> None:
    betons = write_pair(tmp_path, train=1000, test=200)
    results = _train(dataclasses.replace(config, betons=betons, epochs=12, max_lr=0.02, cutout=0))
    assert results[-1].train_loss < results[0].train_loss
    assert results[-1].test_accuracy > 0.2, "twice chance, of so small a network"


def test_the_test_accuracy_agrees_with_a_count_by_hand(config: TrainConfig) -> None:
    state = _tiny_state(config)
    result = list(fit(config, state=state))[-1]
    layout = read_layout(config.betons / "test.beton")
    mean, std = (np.array(values, dtype=np.float32) for values in (state.manifest.mean, state.manifest.std))
    images = torch.from_numpy((layout.images().astype(np.float32) / 255 - mean) / std).permute(0, 3, 1, 2)
    with torch.no_grad():
        logits = state.network.model.eval()(images)
    labels = torch.from_numpy(layout.labels)
    right = sum(int(row.argmax()) == int(label) for row, label in zip(logits, labels, strict=True))
    assert result.test_accuracy == pytest.approx(right / 90)
    assert result.test_loss == pytest.approx(nn.functional.cross_entropy(logits, labels).item(), rel=1e-5)


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
    assert max(progress.lr for progress in seen) <= config.max_lr


def test_a_validation_split_keeps_the_test_set_out_of_it(config: TrainConfig) -> None:
    state = _tiny_state(dataclasses.replace(config, val_fraction=0.2))
    held_out = set(state.test_loader.indices.tolist())
    assert len(held_out) == 40
    assert not held_out & set(state.train_loader.indices.tolist())
    assert next(fit(state.config, state=state)).held_out == "validation"


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
    assert state.network.model.layer1[0].conv.weight.is_contiguous(memory_format=torch.channels_last)
    seen: set[torch.dtype] = set()
    state.network.model.layer3.register_forward_hook(lambda _, __, out: seen.add(out.dtype))
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
    before = {name: value.clone() for name, value in state.network.model.state_dict().items()}
    random = torch.get_rng_state()
    assert warm_up(state) > 0
    assert torch.equal(torch.get_rng_state(), random)
    for name, value in state.network.model.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.slow
def test_compiled_it_trains_to_what_it_trains_to_eagerly(config: TrainConfig) -> None:
    accuracies = {}
    for compile_it in (False, True):
        run = dataclasses.replace(config, compile=compile_it, epochs=2, padding=0, flip_p=0.0, cutout=0)
        state = _tiny_state(run)
        results = list(fit(run, state=state))
        accuracies[compile_it] = [result.train_loss for result in results]
        assert not any("_orig_mod" in name for name in state.network.model.state_dict())
    assert accuracies[True] == pytest.approx(accuracies[False], rel=1e-3)


@pytest.mark.slow
def test_compiled_in_bfloat16_it_evaluates_every_image(config: TrainConfig) -> None:
    state = _tiny_state(dataclasses.replace(config, compile=True, amp=True, epochs=1))
    list(fit(state.config, state=state))
    assert sum(len(labels) for _, labels in predict(state.network, state.test_loader)) == 90


def test_a_loss_that_is_not_finite_stops_the_run(config: TrainConfig) -> None:
    class Broken(TinyNet):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward(images) * float("nan")

    with pytest.raises(TrainingError, match="epoch 1: the training loss is nan"):
        list(fit(config, model=Broken()))


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


def test_images_of_a_size_that_the_network_does_not_take_are_refused(config: TrainConfig, tmp_path: Path) -> None:
    images, labels = np.random.default_rng(0).integers(0, 256, (40, 64, 64, 3), dtype=np.uint8), np.arange(40) % 2
    for split in ("train", "test"):
        write_beton(tmp_path / f"{split}.beton", images, labels, class_names=("a", "b"), name="noise")
    with pytest.raises(ConfigError, match=r"takes no images of 64 × 64 pixels; .*--resize 32"):
        next(fit(dataclasses.replace(config, betons=tmp_path)))
    small = dataclasses.replace(config, betons=tmp_path, model="dilated_cnn", epochs=1)
    assert next(fit(small)).epoch == 1, "the mean over the places takes any size"


def test_the_run_folder_holds_the_run(config: TrainConfig, tmp_path: Path) -> None:
    run = tmp_path / "run"
    results = _train(dataclasses.replace(config, run_dir=run))
    assert sorted(path.name for path in run.iterdir()) == [
        "checkpoints", "config.json", "environment.json", "metrics.jsonl",
    ]  # fmt: skip
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["best.pt", "last.pt"]
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
    restore(checkpoint_path(tmp_path / "resumed", "last"), resumed)
    results = list(fit(broken_off, state=resumed))

    assert [result.epoch for result in results] == [2, 3]
    assert [result.train_loss for result in results] == [result.train_loss for result in expected[1:]]
    for name, value in whole.network.model.state_dict().items():
        assert torch.equal(value, resumed.network.model.state_dict()[name]), name
    assert [line["epoch"] for line in read_metrics(tmp_path / "resumed")] == [1, 2, 3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 4}, "had 3 for --epochs, this one has 4"),
        ({"batch_size": 20}, "had 32 for --batch-size"),
        ({"max_lr": 0.1}, "for --max-lr"),
        ({"seed": 9}, "for --seed"),
    ],
)
def test_a_run_goes_on_only_as_it_began(
    config: TrainConfig, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    run = dataclasses.replace(config, run_dir=tmp_path / "run")
    next(fit(run, state=_tiny_state(run)))
    other = create_state(dataclasses.replace(run, **change), model=TinyNet())
    with pytest.raises(CheckpointError, match=message):
        restore(checkpoint_path(tmp_path / "run", "last"), other)


def test_a_run_does_not_go_on_with_other_data(config: TrainConfig, tmp_path: Path) -> None:
    run = dataclasses.replace(config, run_dir=tmp_path / "run")
    next(fit(run, state=_tiny_state(run)))
    betons = write_pair(tmp_path / "betons", train=200, test=90, seed=1)
    other = create_state(dataclasses.replace(run, betons=betons), model=TinyNet())
    with pytest.raises(CheckpointError, match="for data"):
        restore(checkpoint_path(tmp_path / "run", "last"), other)


def test_a_checkpoint_is_loaded_in_eval_mode_with_its_configuration(config: TrainConfig, tmp_path: Path) -> None:
    run = dataclasses.replace(config, epochs=1, batch_size=100, run_dir=tmp_path / "run")
    state = create_state(run)
    list(fit(run, state=state))
    for which in ("best", "last"):
        model, loaded = load_checkpoint(tmp_path / "run", which)  # type: ignore[arg-type]
        assert loaded == run
        assert not model.training
        for name, value in state.network.model.state_dict().items():
            assert torch.equal(model.state_dict()[name], value), name


def test_a_checkpoint_that_is_none_or_of_another_network_is_refused(config: TrainConfig, tmp_path: Path) -> None:
    run = dataclasses.replace(config, epochs=1, run_dir=tmp_path / "run")
    _train(run)
    with pytest.raises(CheckpointError, match="weights are of another network"):
        load_checkpoint(tmp_path / "run")
    assert isinstance(load_checkpoint(tmp_path / "run", model=TinyNet())[0], TinyNet)
    with pytest.raises(CheckpointError, match="there is no such checkpoint"):
        load_checkpoint(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="'best' and 'last'"):
        load_checkpoint(tmp_path / "run", "first")  # type: ignore[arg-type]
    path = checkpoint_path(tmp_path / "run", "best")
    whole = path.read_bytes()
    for content in (b"", b"nonsense", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="damaged, or no checkpoint"):
            load_checkpoint(tmp_path / "run")


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


@pytest.mark.gpu
def test_an_epoch_on_the_gpu_waits_for_the_host_nowhere(config: TrainConfig) -> None:
    from fastcifar.training.loop import train_step

    run = dataclasses.replace(config, device="cuda", amp=True)
    state = create_state(run)
    images = torch.randint(0, 256, (32, 3, 32, 32), dtype=torch.uint8, device="cuda")
    labels = torch.zeros(32, dtype=torch.int64, device="cuda")
    train_step(state, images, labels)
    torch.cuda.set_sync_debug_mode("error")
    try:
        train_step(state, images, labels)
    finally:
        torch.cuda.set_sync_debug_mode("default")


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
