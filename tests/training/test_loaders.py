"""Which images a run trains on and is evaluated on: the subset, beside the validation split."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fastcifar import TrainConfig
from fastcifar.cli import main
from fastcifar.commands.train_messages import run_header
from fastcifar.data.cached_loader import CachedLoader
from fastcifar.data.decode_all import decode_all
from fastcifar.data.manifest import read_manifest
from fastcifar.device import resolve_runtime
from fastcifar.errors import CheckpointError, ConfigError
from fastcifar.report.run_page import write_report
from fastcifar.training import loaders
from fastcifar.training.loaders import create_loaders
from fastcifar.training.loop import fit, fit_epochs
from fastcifar.training.resume import restore
from fastcifar.training.state import create_state
from tests.helpers import tiny_state, train_tiny


def indices(config: TrainConfig) -> tuple[set[int], set[int]]:
    """Return the positions of the images to train on and to evaluate on."""
    train, test, _ = create_loaders(config, resolve_runtime(config.runtime).device)
    return set(train.indices.tolist()), set(test.indices.tolist())


def test_a_subset_in_training_has_the_images_of_the_subset_in_a_file(config: TrainConfig, tmp_path: Path) -> None:
    source = str(config.data.data_dir)
    assert main(["write-beton", "--source", source, "--out", str(tmp_path), "--subset", "0.3", "--seed", "5"]) == 0
    written = decode_all(tmp_path / "train.beton")
    train, test, _ = create_loaders(config.replace(subset=0.3, seed=5), resolve_runtime(config.runtime).device)
    whole = decode_all(config.data.data_dir / "train.beton")
    chosen = train.indices.astype(np.int64)
    assert len(chosen) == 60
    assert np.array_equal(whole.images[chosen], written.images)
    assert np.array_equal(train.labels, written.labels)
    assert test.samples == 90 == read_manifest(tmp_path / "test.beton").samples


def test_images_that_do_not_fit_on_the_device_are_decoded_in_each_epoch(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = config.replace(cache_on_device=True)
    with tiny_state(cached) as state:
        assert isinstance(state.train_loader, CachedLoader)
        assert not any("decoding" in note for note in state.notes)
        needed = sum(len(loader.indices) * 32 * 32 * 3 for loader in (state.train_loader, state.test_loader))
    monkeypatch.setattr(loaders, "available_memory_bytes", lambda: 2 * needed - 1)
    with tiny_state(cached) as state:
        assert not isinstance(state.train_loader, CachedLoader)
        assert not isinstance(state.test_loader, CachedLoader)
        assert any("50% of the device's free memory: decoding them in each epoch" in note for note in state.notes)
    monkeypatch.setattr(loaders, "available_memory_bytes", lambda: 2 * needed)
    with tiny_state(cached) as state:
        assert isinstance(state.test_loader, CachedLoader)


def test_console_report_and_inspect_say_how_the_images_were_chosen(
    config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "noisy"
    flags = ["--source", str(config.data.data_dir), "--out", str(out), "--subset", "0.8", "--label-noise", "0.25"]
    assert main(["write-beton", *flags]) == 0
    run = config.replace(data_dir=out, subset=64, seed=1, run_dir=tmp_path / "run", model="speed_cnn", widths=(8, 8, 8))
    with create_state(run.replace(epochs=1, batch_size=32)) as state:
        fit(state)
        images = run_header(state).images
    changes = "subset 0.8, label noise 0.25, seed 0"
    assert images.startswith(f"synthetic-variant: 64 of 200 training images ({changes}; subset of 64 images, seed 1)")
    page = write_report(tmp_path / "run", device="cpu").read_text()
    assert f"synthetic-variant ({changes}; subset of 64 images, seed 1)" in page
    capsys.readouterr()
    assert main(["inspect", str(out / "train.beton")]) == 0
    shown = capsys.readouterr().out
    assert f"variation       {changes}" in shown
    assert "wrong labels    40 (25.00 %), put in on purpose" in shown


def test_the_validation_split_is_the_same_for_every_size_of_the_subset(config: TrainConfig) -> None:
    run = config.replace(val_fraction=0.2)
    training, validation = indices(run)
    smaller = [indices(run.replace(subset=size)) for size in (0.5, 100, 40)]
    assert [len(train) for train, _ in smaller] == [80, 100, 40]
    assert all(evaluated == validation for _, evaluated in smaller)
    assert smaller[2][0] < smaller[0][0] < smaller[1][0] < training


def test_a_subset_that_is_too_large_or_smaller_than_a_batch_is_refused(config: TrainConfig) -> None:
    with pytest.raises(ConfigError, match="subset is 201; there are 200 training images"):
        create_state(config.replace(subset=201))
    with pytest.raises(ConfigError, match=r"batch_size is 32.* has 20 images to train on"):
        create_state(config.replace(subset=0.1))
    with pytest.raises(ConfigError, match="subset is 0"):
        config.replace(subset=0)


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("change", [{"sampler": "balanced"}, {"class_weights": "balanced"}])
def test_a_resumed_run_on_a_subset_ends_like_one_that_was_not_stopped(
    config: TrainConfig, tmp_path: Path, cache: bool, change: dict[str, str]
) -> None:
    run = config.replace(subset=0.5, cache_on_device=cache, epochs=2, **change)
    whole = train_tiny(run.replace(run_dir=tmp_path / "whole"))
    with tiny_state(run.replace(run_dir=tmp_path / "resumed")) as state:
        next(iter(fit_epochs(state)))
    with tiny_state(run.replace(run_dir=tmp_path / "resumed")) as state:
        restore(tmp_path / "resumed", state)
        (last,) = fit(state)[-1:]
    assert (last.train_loss, last.test_loss) == (whole[-1].train_loss, whole[-1].test_loss)
    with (
        tiny_state(run.replace(subset=0.6)) as state,
        pytest.raises(CheckpointError, match=r"was started with 0.5 for --subset, not 0.6"),
    ):
        restore(tmp_path / "resumed", state)
