from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from fastcifar import TrainConfig
from fastcifar.inference.model import reduce_images, resize
from fastcifar.inference.tta import tta_views
from tests.helpers import tiny_state


def test_shrinking_keeps_a_plane_of_one_colour_and_a_slope(config: TrainConfig) -> None:
    slope = torch.arange(32.0).expand(1, 3, 32, 32)
    assert torch.allclose(resize(slope, 16)[0, 0, 0], torch.arange(16.0) * 2 + 0.5)
    assert torch.allclose(resize(torch.full((1, 3, 32, 32), 0.25), 24), torch.full((1, 3, 24, 24), 0.25))


@pytest.mark.parametrize(("side", "size", "expected"), [(32, 16, 16), (64, 24, 48), (28, 16, 14), (8, 16, 8)])
def test_images_are_reduced_in_proportion_to_their_size(side: int, size: int, expected: int) -> None:
    assert reduce_images(torch.zeros(1, 3, side, side), size).shape == (1, 3, expected, expected)


@pytest.mark.parametrize(("side", "shift"), [(8, 1), (28, 1), (32, 1), (64, 2), (96, 3)])
def test_shifts_of_test_time_augmentation_are_in_proportion_to_the_size(side: int, shift: int) -> None:
    images = torch.randn(2, 3, side, side)
    _, views = tta_views(images, "flip-shift")
    assert torch.equal(views[1][:, :, shift:, shift:], images[:, :, :-shift, :-shift])
    assert torch.equal(views[2][:, :, :-shift, :-shift], images[:, :, shift:, shift:])


@pytest.mark.parametrize(("tta", "share"), [("flip", 1.0), ("flip-shift", 1.0), ("flip", 0.25)])
def test_test_time_augmentation_averages_the_views(config: TrainConfig, tta: Any, share: float) -> None:
    state = tiny_state(config.replace(tta=tta, tta_fraction=share))
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
        torch.testing.assert_close(state.classifier.fixed_batch_logits(images, 20, state.config.tta), expected)
    state.close()
