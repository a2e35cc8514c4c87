from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fastcifar.models.ops import winograd
from fastcifar.models.ops.winograd import conv3x3_winograd, is_faster, tile_side
from fastcifar.models.ops.winograd_tiles import POINTS, winograd_matrices


def _relative_error(result: torch.Tensor, exact: torch.Tensor) -> float:
    """The largest error, relative to the largest number."""
    return ((result.double() - exact).abs().max() / exact.abs().max()).item()


def _example(batch: int, inputs: int, outputs: int, *size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images, a weight and the gradient of the outputs."""
    torch.manual_seed(0)
    images = torch.randn(batch, inputs, *size).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(outputs, inputs, 3, 3)
    return images.requires_grad_(), weight.requires_grad_(), torch.randn(batch, outputs, *size)


@pytest.mark.parametrize("side", POINTS)
def test_the_matrices_compute_a_convolution_of_one_row(side: int) -> None:
    output, input_, weight = winograd_matrices(side)
    pixels, taps = np.random.default_rng(0).standard_normal((2, side + 2))
    expected = np.correlate(pixels, taps[:3], mode="valid")
    np.testing.assert_allclose(output @ ((weight @ taps[:3]) * (input_ @ pixels)), expected, rtol=1e-10)


SIZES = [*((side, side) for side in (3, 4, 5, 6, 7, 8, 15, 31, 33, 47, 96)), (5, 12), (9, 3)]
"""Heights and widths of images and of feature maps, many of which are no multiple of a tile."""


@pytest.mark.parametrize("size", SIZES)
def test_outputs_and_gradients_are_within_two_ten_thousandths_of_the_exact_ones(size: tuple[int, int]) -> None:
    images, weight, grad = _example(7, 64, 40, *size)
    outputs = conv3x3_winograd(images, weight)
    outputs.backward(grad)
    exact = images.detach().double().requires_grad_(), weight.detach().double().requires_grad_()
    expected = F.conv2d(*exact, padding=1)
    expected.backward(grad.double())
    assert _relative_error(outputs, expected) < 2e-4
    assert _relative_error(images.grad, exact[0].grad) < 2e-4
    assert _relative_error(weight.grad, exact[1].grad) < 2e-4
    assert outputs.is_contiguous(memory_format=torch.channels_last)


def test_each_image_is_convolved_alone_whatever_the_number_of_images_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    images, weight, _ = _example(11, 16, 8, 7, 7)
    expected = F.conv2d(images, weight, padding=1)
    for tiles in (1, 3, 100):
        monkeypatch.setattr(winograd, "MAX_TILES", tiles)
        torch.testing.assert_close(conv3x3_winograd(images, weight), expected, rtol=1e-3, atol=1e-3)


def test_results_are_the_same_bit_for_bit_in_each_run() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    results = []
    for _ in range(3):
        images, weight, grad = _example(40, 32, 32, 8, 8)
        outputs = conv3x3_winograd(images, weight)
        outputs.backward(grad)
        results.append((outputs, images.grad, weight.grad))
    torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(*pair) for pair in zip(results[0], other, strict=True))


def test_only_the_gradients_that_are_needed_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    images, weight, grad = _example(3, 8, 8, 4, 4)
    outputs = conv3x3_winograd(images.detach(), weight)
    monkeypatch.setattr(winograd, "_convolve", lambda *_: pytest.fail("the gradient of the images is not needed"))
    outputs.backward(grad)
    assert images.grad is None
    assert weight.grad.abs().sum() > 0


@pytest.mark.parametrize(("size", "side"), [((7, 7), 7), ((8, 8), 8), ((16, 16), 8), ((3, 3), 3), ((12, 12), 6)])
def test_tiles_have_the_size_that_needs_the_fewest_multiplications(size: tuple[int, int], side: int) -> None:
    assert tile_side(*size) == side


@pytest.mark.parametrize(
    ("shape", "outputs", "faster"),
    [
        ((64, 192, 7, 7), 192, True),
        ((64, 32, 15, 15), 192, True),
        ((64, 24, 31, 31), 32, False),  # few channels: the transforms take as long as the convolution
        ((15, 192, 7, 7), 192, False),  # few tiles: the transform of the weight does
        ((64, 190, 7, 7), 192, False),  # not a whole number of vector registers
        ((64, 192, 7, 7), 188, False),
    ],
)
def test_it_is_faster_for_many_channels_and_tiles(shape: tuple[int, ...], outputs: int, faster: bool) -> None:
    assert is_faster(torch.empty(shape), outputs) is faster


def test_without_torchs_openmp_library_it_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winograd, "gomp_parallel", lambda: None)
    assert not is_faster(torch.empty(64, 192, 7, 7), 192)
