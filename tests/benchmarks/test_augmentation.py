from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import augmentation
from fastcifar.augment import CIFAR10_MEAN, CIFAR10_STD
from tests.benchmarks.helpers import read_checked


def test_implementations_are_timed_in_turn(betons: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    settings = augmentation.AugmentationTimes(data_dir=betons, device="cpu", batch_size=8, rounds=2, out=out)
    augmentation.main(settings)
    results = read_checked(out)
    parts = {run["part"]: run for run in results["runs"]}
    assert list(parts) == [augmentation.FASTCIFAR, *augmentation.other_implementations(), augmentation.STEP]
    own, step = (parts[name]["seconds"]["median"] for name in (augmentation.FASTCIFAR, augmentation.STEP))
    assert results["figures"]["fraction_of_step"] == pytest.approx(own / step)
    for name, ratio in results["figures"]["relative_to_fastcifar"].items():
        assert ratio == pytest.approx(parts[name]["seconds"]["median"] / own)


@pytest.mark.parametrize("name", augmentation.other_implementations())
def test_other_implementations_crop_flip_normalise_and_cut_out(name: str) -> None:
    images = torch.full((200, 3, 32, 32), 255, dtype=torch.uint8)
    images[..., 16:] = 200
    augmented = augmentation.other_implementations()[name](images)
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
