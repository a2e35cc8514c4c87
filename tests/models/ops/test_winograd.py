from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fastcifar.models.ops import winograd
from fastcifar.models.ops.winograd import conv3x3_winograd, is_faster, tile_side
from fastcifar.models.ops.winograd_tiles import BFLOAT16, FLOAT32, FORMATS, Format, winograd_matrices


def _relative_error(result: torch.Tensor, exact: torch.Tensor) -> float:
    """The largest error, relative to the largest number."""
    return ((result.double() - exact).abs().max() / exact.abs().max()).item()


def _root_mean_square_error(result: torch.Tensor, exact: torch.Tensor) -> float:
    """The root mean square error, relative to the root mean square."""
    return ((result.double() - exact).norm() / exact.norm()).item()


def _example(
    batch: int, inputs: int, outputs: int, *size: int, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images, a weight and the gradient of the outputs."""
    torch.manual_seed(0)
    images = torch.randn(batch, inputs, *size).to(dtype).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(outputs, inputs, 3, 3).to(dtype)
    return images.requires_grad_(), weight.requires_grad_(), torch.randn(batch, outputs, *size).to(dtype)


@pytest.mark.parametrize(
    ("format_", "side"), [(format_, side) for format_ in FORMATS.values() for side in format_.points]
)
def test_the_matrices_compute_a_convolution_of_one_row(format_: Format, side: int) -> None:
    output, input_, weight = winograd_matrices(side, format_)
    pixels, taps = np.random.default_rng(0).standard_normal((2, side + 2))
    expected = np.correlate(pixels, taps[:3], mode="valid")
    np.testing.assert_allclose(output @ ((weight @ taps[:3]) * (input_ @ pixels)), expected, rtol=1e-10)


SIZES = [*((side, side) for side in (3, 4, 5, 6, 7, 8, 15, 31, 33, 47, 96)), (5, 12), (9, 3)]
"""Heights and widths of images and of feature maps, many of which are no multiple of a tile."""


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("dtype", "error", "bound"),
    [(torch.float32, _relative_error, 2e-4), (torch.bfloat16, _root_mean_square_error, 0.02)],
)
def test_the_errors_of_outputs_and_gradients_are_small(
    dtype: torch.dtype, error: Callable[[torch.Tensor, torch.Tensor], float], bound: float, size: tuple[int, int]
) -> None:
    images, weight, grad = _example(7, 64, 48, *size, dtype=dtype)
    outputs = conv3x3_winograd(images, weight)
    outputs.backward(grad)
    exact = images.detach().double().requires_grad_(), weight.detach().double().requires_grad_()
    expected = F.conv2d(*exact, padding=1)
    expected.backward(grad.double())
    assert error(outputs, expected) < bound
    assert error(images.grad, exact[0].grad) < bound
    assert error(weight.grad, exact[1].grad) < bound
    assert outputs.is_contiguous(memory_format=torch.channels_last)
    assert {outputs.dtype, images.grad.dtype, weight.grad.dtype} == {dtype}


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_a_number_that_is_not_finite_is_not_lost(dtype: torch.dtype, value: float) -> None:
    images, weight, grad = _example(5, 16, 16, 7, 7, dtype=dtype)
    images.data[3, 5, 2, 4] = value
    outputs = conv3x3_winograd(images, weight)
    outputs.backward(grad)
    assert outputs.isfinite().all(dim=(1, 2, 3)).tolist() == [True, True, True, False, True]
    assert not weight.grad[:, 5].isfinite().any()
    assert images.grad.isfinite().all()


def test_each_image_is_convolved_alone_whatever_the_number_of_images_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    images, weight, _ = _example(11, 16, 8, 7, 7)
    expected = F.conv2d(images, weight, padding=1)
    for tiles in (1, 3, 100):
        monkeypatch.setattr(winograd, "MAX_TILES", tiles)
        torch.testing.assert_close(conv3x3_winograd(images, weight), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", FORMATS)
def test_results_are_the_same_bit_for_bit_in_each_run(dtype: torch.dtype) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    results = []
    for _ in range(3):
        images, weight, grad = _example(40, 32, 32, 8, 8, dtype=dtype)
        outputs = conv3x3_winograd(images, weight)
        outputs.backward(grad)
        results.append((outputs, images.grad, weight.grad))
    torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(*pair) for pair in zip(results[0], other, strict=True))


def test_only_the_gradients_that_are_needed_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    images, weight, grad = _example(3, 8, 8, 4, 4)
    outputs = conv3x3_winograd(images.detach(), weight)
    monkeypatch.setattr(winograd, "_convolve", lambda *_, **__: pytest.fail("the gradient of the images is not needed"))
    outputs.backward(grad)
    assert images.grad is None
    assert weight.grad.abs().sum() > 0


def test_the_weight_is_transformed_once_for_the_outputs_and_both_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    transformed, transform = [], winograd._transformed_weight
    monkeypatch.setattr(winograd, "_transformed_weight", lambda *args: transformed.append(args) or transform(*args))
    images, weight, grad = _example(3, 8, 16, 4, 4)
    conv3x3_winograd(images, weight).backward(grad)
    assert len(transformed) == 1
    assert images.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("size", "float32", "bfloat16"),
    [((7, 7), 7, 4), ((8, 8), 8, 4), ((16, 16), 8, 4), ((3, 3), 3, 3), ((5, 5), 5, 3), ((12, 12), 6, 4)],
)
def test_tiles_have_the_size_that_needs_the_fewest_multiplications(
    size: tuple[int, int], float32: int, bfloat16: int
) -> None:
    assert (tile_side(*size, torch.float32), tile_side(*size, torch.bfloat16)) == (float32, bfloat16)


@pytest.mark.parametrize(
    ("shape", "outputs", "faster"),
    [
        ((64, 192, 7, 7), 192, True),
        ((64, 32, 15, 15), 192, True),
        ((64, 24, 31, 31), 32, False),  # few channels: the transforms take as long as the convolution
        ((15, 192, 7, 7), 192, False),  # few tiles: the transform of the weight does
        ((64, 190, 7, 7), 192, False),  # not a whole number of vectors
        ((64, 192, 7, 7), 188, False),
    ],
)
@pytest.mark.parametrize("dtype", FORMATS)
def test_it_is_faster_for_many_channels_and_tiles(
    dtype: torch.dtype, shape: tuple[int, ...], outputs: int, faster: bool
) -> None:
    assert is_faster(torch.empty(shape), dtype, outputs) is faster


def test_a_vector_has_more_numbers_of_bfloat16() -> None:
    assert is_faster(torch.empty(64, 200, 7, 7), FLOAT32.dtype, 200)
    assert not is_faster(torch.empty(64, 200, 7, 7), BFLOAT16.dtype, 200)


def test_without_torchs_openmp_library_it_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winograd, "gomp_parallel", lambda: None)
    assert not is_faster(torch.empty(64, 192, 7, 7), torch.float32, 192)
