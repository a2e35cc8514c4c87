from __future__ import annotations

import math
from typing import Literal

import numpy as np
import pytest
import torch

from fastcifar.corruptions import filters


@pytest.mark.parametrize(("border", "padding"), [("nearest", "edge"), ("reflect", "symmetric")])
def test_the_gaussian_blur_equals_a_convolution_of_padded_images(
    border: Literal["nearest", "reflect"], padding: Literal["edge", "symmetric"]
) -> None:
    image, sigma = np.random.default_rng(0).random((9, 12)), 0.9
    radius = int(3 * sigma + 0.5)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    kernel = np.outer(weights, weights) / weights.sum() ** 2
    padded = np.pad(image, radius, mode=padding)
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape)
    expected = (windows * kernel).sum((2, 3))
    blurred = filters.gaussian_blur(torch.from_numpy(image), sigma, border=border, truncate=3)
    assert blurred.numpy() == pytest.approx(expected, abs=1e-6)


def test_a_mirrored_border_can_be_wider_than_the_image() -> None:
    image = torch.rand(1, 4, 4, generator=torch.Generator().manual_seed(0))
    blurred = filters.gaussian_blur(image, 30.0, border="reflect", truncate=3)
    assert torch.allclose(blurred, image.mean().expand_as(blurred), atol=0.02)
    assert blurred.mean().item() == pytest.approx(image.mean().item(), abs=1e-6)  # mirrors keep the sum


def test_motion_blur_averages_along_a_line_on_one_side() -> None:
    images = torch.rand(4, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    angles = torch.tensor([0.0, 90.0, -31.0, 134.0])
    blurred = filters.motion_blur(images, 3, 2.0, angles)
    weights = [math.exp(-0.5 * (step / 2) ** 2) for step in range(7)]
    for image, result, angle in zip(images, blurred, angles.tolist(), strict=True):
        for row, column in ((0, 0), (5, 9), (15, 7)):
            expected = torch.zeros(2)
            for step, weight in enumerate(weights):
                x = column + math.ceil(step * math.cos(math.radians(angle)) - 0.5)
                y = row + math.ceil(step * math.sin(math.radians(angle)) - 0.5)
                expected += weight / sum(weights) * image[:, min(max(y, 0), 15), min(max(x, 0), 15)]
            assert torch.allclose(result[:, row, column], expected, atol=1e-5)


def test_the_zoom_keeps_the_middle_and_enlarges_around_it() -> None:
    ramp = torch.arange(32.0).expand(1, 1, 32, 32)
    assert torch.equal(filters.clipped_zoom(ramp, 1.0), ramp)
    zoomed = filters.clipped_zoom(ramp, 2.0)[0, 0, 5]
    assert zoomed[:2].tolist() == pytest.approx([8, 8 + 15 / 31])
    assert zoomed.tolist() == pytest.approx(np.linspace(8, 23, 32).tolist(), abs=1e-4)


def test_the_plasma_texture_equals_the_diamond_square_algorithm_point_by_point() -> None:
    side, decay = 8, 2.0
    noise = torch.rand(side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    texture, step, wibble = np.zeros((side, side)), side, 100.0

    def fill(row: int, column: int, neighbors: list[tuple[int, int]]) -> None:
        mean = sum(texture[(row + down) % side, (column + right) % side] for down, right in neighbors) / 4
        texture[row, column] = mean + wibble**2 * noise[row, column].item()

    while step >= 2:
        half = step // 2
        grid = [(row, column) for row in range(0, side, step) for column in range(0, side, step)]
        for row, column in grid:
            fill(row + half, column + half, [(a, b) for a in (-half, half) for b in (-half, half)])
        cross = [(-half, 0), (half, 0), (0, -half), (0, half)]
        for row, column in grid:
            fill(row, column + half, cross)
            fill(row + half, column, cross)
        step, wibble = half, wibble / decay
    expected = (texture - texture.min()) / (texture.max() - texture.min())
    assert filters.plasma(noise[None], decay)[0].numpy() == pytest.approx(expected, abs=1e-5)
