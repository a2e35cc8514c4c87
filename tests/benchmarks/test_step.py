from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import step
from benchmarks.harness import TrainingTiming
from benchmarks.results import Results
from fastcifar.augment import CIFAR10_MEAN, CIFAR10_STD
from fastcifar.errors import ConfigError


def test_throughput_measures_every_part_at_each_batch_size(betons: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    options = step.Throughput(data_dir=betons, device="cpu", rounds=1, out=out, batch_sizes=(8, 4), steps=1, matrix=64)
    step.throughput(options)
    runs = Results.read(out).runs
    parts = ("loader", step.CEILING, "augmentation", "model step", "whole step", "plain model step")
    assert [(run["batch_size"], run["part"]) for run in runs] == [(size, part) for size in (8, 4) for part in parts]
    for run in runs:
        flop = {step.CEILING: 2 * 64**3, "loader": 0, "augmentation": 0}.get(
            run["part"], 379.27e6 * 6 * run["batch_size"]
        )
        assert run["flop"] == pytest.approx(flop, rel=1e-4)
        assert run["seconds"]["median"] > 0


@pytest.mark.parametrize(
    ("option", "allowed"),
    [({"batch_sizes": ()}, "one value or several"), ({"steps": 0}, "at least 1"), ({"matrix": -1}, "at least 1")],
)
def test_there_is_something_to_measure(option: dict[str, Any], allowed: str) -> None:
    with pytest.raises(ConfigError, match=rf"{next(iter(option))} is .*; it must be .*{allowed}"):
        step.Throughput(**option)


@pytest.mark.parametrize("fast_bfloat16", [True, False])
def test_the_ceiling_is_measured_in_the_precision_of_the_step(
    fast_bfloat16: bool, betons: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastcifar.device.has_fast_bfloat16", lambda: fast_bfloat16)
    multiplied, multiply = set(), torch.Tensor.__matmul__
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda a, b: multiplied.add((a.shape, a.dtype)) or multiply(a, b))
    out = tmp_path / "out.json"
    options = step.Throughput(
        data_dir=betons, device="cpu", rounds=1, out=out, batch_sizes=(8,), recipe="speedrun", steps=1, matrix=17
    )
    step.throughput(options)
    results = Results.read(out)
    precision = torch.bfloat16 if fast_bfloat16 else torch.float32
    assert {dtype for shape, dtype in multiplied if shape == (17, 17)} == {precision}
    assert results.precision.startswith(str(precision).removeprefix("torch."))
    whole_step = next(run for run in results.runs if run["part"] == "whole step")
    assert whole_step["recipe"] == "speedrun"
    assert whole_step["flop"] == pytest.approx(64.4e6 * 6 * 8, rel=0.02), "as torch's convolution would multiply"


def test_implementations_of_the_augmentation_are_timed_in_turn(betons: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    step.augmentation(TrainingTiming(data_dir=betons, device="cpu", rounds=2, out=out), batch_size=8)
    runs = Results.read(out).runs
    assert [run["part"] for run in runs] == [step.FASTCIFAR, *step.other_implementations(), step.STEP]
    assert all(len(run["seconds"]["all"]) == 2 for run in runs)


@pytest.mark.parametrize("name", step.other_implementations())
def test_other_implementations_crop_flip_normalise_and_cut_out(name: str) -> None:
    images = torch.full((200, 3, 32, 32), 255, dtype=torch.uint8)
    images[..., 16:] = 200
    augmented = step.other_implementations()[name](images)
    assert augmented.shape == images.shape
    assert augmented.dtype == torch.float32
    white, grey = ((pixel / 255 - CIFAR10_MEAN[0]) / CIFAR10_STD[0] for pixel in (255, 200))
    red = augmented[:, 0]
    allowed = torch.tensor([white, grey, -CIFAR10_MEAN[0] / CIFAR10_STD[0], 0.0])
    assert ((red[..., None] - allowed).abs().amin(-1) < 1e-4).all()
    assert ((red == 0).sum((1, 2)) == 64).all(), "one square of 8 x 8 in each image"
    left_is_white = (red[:, :, 12] - white).abs().amin(1) < 1e-4
    mirrored = 1 - left_is_white.float().mean()
    assert mirrored in (0, 1) if "one draw" in name else 0.3 < mirrored < 0.7
