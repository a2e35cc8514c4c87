from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fastcifar import TrainConfig, fit, fit_epochs, get_recipe
from fastcifar.data.beton_format import read_index
from fastcifar.errors import ConfigError, StoppedError
from fastcifar.inference.model import sample_metrics
from fastcifar.runs.checkpoint import checkpoint_path, read_checkpoint
from fastcifar.runs.dynamics import EpochSamples, epoch_path, read_epochs
from fastcifar.runs.results import StepProgress
from fastcifar.training.resume import restore
from fastcifar.training.signals import GracefulStop
from fastcifar.training.state import TrainState, create_state
from fastcifar.training.step import run_step
from tests.helpers import TinyNet, no_wait_for_the_device, tiny_state

FIELDS = ("index", "label", "predicted", "loss", "margin")


def _equal(one: EpochSamples, other: EpochSamples) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in FIELDS)


def test_sample_metrics_are_loss_margin_and_predicted_class() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0], [2.0, 1.0, 5.0], [1.0, 1.0, 1.0]])
    loss, margin, predicted = sample_metrics(logits, torch.tensor([0, 1, 2]))
    expected = -logits.softmax(dim=1)[[0, 1, 2], [0, 1, 2]].log()
    torch.testing.assert_close(loss, expected)
    assert margin.tolist() == [1, -4, 0]
    assert predicted.tolist() == [0, 2, 0]


def test_the_records_are_what_each_step_computed_for_its_images(config: TrainConfig, tmp_path: Path) -> None:
    config = config.replace(dynamics=True, run_dir=tmp_path, epochs=1.5, label_smoothing=0.2)
    state = tiny_state(config)
    seen: list[dict[int, tuple[float, float]]] = [{}, {}]
    compute, order = state.classifier._loss, [state.train_loader.order(epoch) for epoch in range(2)]

    def spy(images: torch.Tensor, labels: torch.Tensor, *rest: Any) -> Any:
        epoch, step = state.epochs_done, state.epoch_steps_done
        loss, correct, samples = compute(images, labels, *rest)
        assert samples is not None
        assert torch.equal((samples[2] == labels).sum(), correct)
        for position, each, margin in zip(order[epoch][32 * step :], *samples[:2].tolist(), strict=False):
            seen[epoch][int(position)] = each, margin
        return loss, correct, samples

    state.classifier.__dict__["loss"] = spy
    results = fit(state)
    labels = read_index(config.data.data_dir / "train.beton").labels
    for epoch, (samples, result) in enumerate(zip(read_epochs(tmp_path), results, strict=True)):
        assert samples.index.tolist() == sorted(seen[epoch])
        assert len(samples.index) == (192, 96)[epoch], "of 200 images, six batches of 32, and then three"
        assert samples.label.tolist() == labels[samples.index].tolist()
        for position, loss, margin in zip(samples.index.tolist(), samples.loss, samples.margin, strict=True):
            assert (loss, margin) == pytest.approx(seen[epoch][position])
        assert samples.correct.mean() == pytest.approx(result.train_accuracy)
        assert samples.loss.mean() != pytest.approx(result.train_loss), "the run's loss has label smoothing"


def test_records_change_no_number_of_a_run(config: TrainConfig, tmp_path: Path) -> None:
    plain = tiny_state(config.replace(run_dir=tmp_path / "plain"))
    expected = fit(plain)
    recorded = tiny_state(config.replace(run_dir=tmp_path / "recorded", dynamics=True))
    for one, other in zip(expected, fit(recorded), strict=True):
        assert (one.train_loss, one.train_accuracy, one.test_loss) == (
            other.train_loss, other.train_accuracy, other.test_loss,
        )  # fmt: skip
    for name, value in plain.classifier.model.state_dict().items():
        assert torch.equal(value, recorded.classifier.model.state_dict()[name]), name
    assert not (tmp_path / "plain" / "dynamics").exists()


@pytest.mark.parametrize("steps", [1, 4, 7], ids=["in the first epoch", "at its end", "in the second"])
def test_a_resumed_run_has_the_records_of_the_uninterrupted_run(betons: Path, tmp_path: Path, steps: int) -> None:
    shared: dict[str, Any] = {"data_dir": betons, "batch_size": 50, "dynamics": True, "val_fraction": 0.1}
    config = get_recipe("dilated-cnn", epochs=2, device="cpu", **shared)
    fit(tiny_state(config.replace(run_dir=tmp_path / "whole")))
    stop, seen = GracefulStop(), []

    def on_step(progress: StepProgress) -> None:
        seen.append(progress)
        stop.signal = signal.SIGTERM if len(seen) == min(steps, 6) else None

    resumed = config.replace(run_dir=tmp_path / "resumed")
    with pytest.raises(StoppedError):
        fit(tiny_state(resumed), on_step=on_step, stop=stop)
    state = create_state(resumed, model=TinyNet())
    restore(tmp_path / "resumed", state)
    fit(state)
    pairs = list(zip(read_epochs(tmp_path / "whole"), read_epochs(tmp_path / "resumed"), strict=True))
    assert len(pairs) == 2
    assert all(_equal(one, other) for one, other in pairs)


def test_a_run_that_goes_on_from_an_earlier_epoch_removes_later_records(config: TrainConfig, tmp_path: Path) -> None:
    config = config.replace(dynamics=True, run_dir=tmp_path)
    epochs = fit_epochs(tiny_state(config))
    next(epochs)
    epochs.close()
    epoch_path(tmp_path, 3).write_bytes(epoch_path(tmp_path, 1).read_bytes())  # of a run that was killed
    state = create_state(config, model=TinyNet())
    restore(tmp_path, state)
    rest = fit_epochs(state)
    next(rest)
    rest.close()
    assert len(list(read_epochs(tmp_path))) == 2


def test_checkpoints_at_the_end_of_an_epoch_hold_no_records(config: TrainConfig, tmp_path: Path) -> None:
    fit(tiny_state(config.replace(dynamics=True, run_dir=tmp_path, epochs=1)))
    assert read_checkpoint(checkpoint_path(tmp_path, "last"))["recorder"]["samples"].numel() == 0


def test_a_sampled_image_has_the_values_of_its_last_visit(config: TrainConfig) -> None:
    with tiny_state(config.replace(dynamics=True, batch_size=4)) as state:
        state.train_loader.order = lambda epoch: np.array([7, 3, 7, 9, 3, 7, 5, 9], dtype=np.uint64)  # type: ignore[method-assign]
        for step in range(2):
            state.recorder.write(torch.arange(4.0).repeat(3, 1) + 4 * step)
            state.recorder.keep(step)
        samples = state.recorder.read(state.train_loader, 0)
    assert samples.index.tolist() == [3, 5, 7, 9]
    assert samples.loss.tolist() == [4, 6, 5, 7]
    assert samples.label.tolist() == state.train_loader.labels[[3, 5, 7, 9]].tolist()


def test_records_need_a_run_folder(config: TrainConfig) -> None:
    with pytest.raises(ConfigError, match="dynamics is True; it needs a run_dir"):
        fit(tiny_state(config.replace(dynamics=True)))


def test_a_run_without_pyarrow_ends_before_it_trains(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"pip install 'fastcifar\[parquet\]'"):
        fit(config.replace(dynamics=True, run_dir=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def _record_one_step(state: TrainState) -> EpochSamples:
    state.classifier.train()
    images, labels = next(state.train_loader.batches())
    run_step(state, images, labels, 0)
    state.recorder.keep(0)
    return state.recorder.read(state.train_loader, 0)


@pytest.mark.slow
def test_a_compiled_step_records_like_an_eager_one(config: TrainConfig) -> None:
    config = config.replace(dynamics=True, padding=0, flip_p=0.0, cutout=0)
    with tiny_state(config) as eager, tiny_state(config.replace(compile=True)) as compiled:
        ours, expected = _record_one_step(compiled), _record_one_step(eager)
    assert np.array_equal(ours.index, expected.index)
    np.testing.assert_allclose(ours.loss, expected.loss, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ours.margin, expected.margin, rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("graphs", [False, True])
def test_a_gpu_records_without_a_wait(config: TrainConfig, tmp_path: Path, graphs: bool) -> None:
    config = config.replace(dynamics=True, device="cuda", cuda_graphs=graphs, run_dir=tmp_path, epochs=2)
    with tiny_state(config) as state:
        images, labels = next(state.train_loader.batches())
        state.classifier.train()
        run_step(state, images, labels, 0)
        with no_wait_for_the_device():
            run_step(state, images, labels, 1)
            state.recorder.keep(1)
    results = fit(tiny_state(config))
    for samples, result in zip(read_epochs(tmp_path), results, strict=True):
        assert samples.correct.mean() == pytest.approx(result.train_accuracy)
        assert np.array_equal(samples.correct, samples.margin > 0)


def test_the_loss_gives_the_probability_of_the_label(config: TrainConfig, tmp_path: Path) -> None:
    logits, labels = torch.randn(50, 10), torch.arange(50) % 10
    loss = sample_metrics(logits, labels)[0]
    torch.testing.assert_close((-loss).exp(), logits.softmax(dim=1)[torch.arange(50), labels])
    torch.testing.assert_close(loss.mean(), F.cross_entropy(logits, labels))
