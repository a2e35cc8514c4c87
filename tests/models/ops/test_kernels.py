from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastcifar.models.custom_resnet import CustomResNet
from fastcifar.models.speed_cnn import SpeedCNN
from fastcifar.models import kernels
from fastcifar.models.ops.kernels import MaxPool2x2, ReLU

SHAPES = [(3, 5, 4, 4), (7, 33, 9, 6), (2, 64, 5, 7), (50, 130, 8, 8), (1, 1, 2, 3)]


@pytest.fixture(params=[1, 2, 5])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def _images(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    """Of few values, so that many are equal, some of them zeros of both signs and infinite."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(-3, 4, shape, generator=generator) * torch.randint(0, 2, shape, generator=generator) * -0.37
    images[torch.rand(shape, generator=generator) < 0.02] = float("inf")
    images[torch.rand(shape, generator=generator) < 0.02] = -float("inf")
    return images.bfloat16().contiguous(memory_format=torch.channels_last)


def _bits(images: torch.Tensor) -> torch.Tensor:
    return images.detach().contiguous().view(torch.int16)


def _is_ours(result: torch.Tensor, name: str) -> bool:
    return type(result.grad_fn).__name__ == name


@pytest.mark.parametrize("shape", SHAPES)
def test_max_pooling_gives_torchs_results_and_gradients(shape: tuple[int, ...], threads: int) -> None:
    ours, theirs = (_images(shape).requires_grad_() for _ in range(2))
    pooled, expected = MaxPool2x2()(ours), F.max_pool2d(theirs, 2)
    assert _is_ours(pooled, "_MaxPoolBackward"), "it was torch's own"
    gradient = torch.randn(pooled.shape).bfloat16()
    pooled.backward(gradient)
    expected.backward(gradient)
    assert torch.equal(pooled, expected)
    assert torch.equal(ours.grad, theirs.grad)
    assert pooled.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("shape", SHAPES)
def test_relu_gives_torchs_results_and_gradients_in_place(shape: tuple[int, ...], threads: int) -> None:
    ours, theirs = (_images(shape).requires_grad_() for _ in range(2))
    given = ours.clone()
    result, expected = ReLU()(given), F.relu(theirs)
    assert _is_ours(result, "_ReLUBackward"), "it was torch's own"
    assert result.data_ptr() == given.data_ptr()
    gradient = torch.randn(shape).bfloat16()
    result.backward(gradient)
    expected.backward(gradient)
    assert torch.equal(_bits(result), _bits(expected + 0.0)), "−0 among them"
    assert torch.equal(ours.grad, theirs.grad)


@pytest.mark.parametrize("bits", [0x7FC0, 0x7F81, -0x40, -0x7F, -0x1])
def test_what_is_not_a_number_stays_so(bits: int) -> None:
    images = torch.zeros(2, 40, 4, 4, dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last)
    images.view(torch.int16)[1, 3, 2, 1] = bits
    assert images.isnan().sum() == 1
    assert MaxPool2x2()(images).isnan().nonzero().tolist() == [[1, 3, 1, 0]]
    with torch.no_grad():
        assert ReLU()(images.clone(memory_format=torch.preserve_format)).isnan().nonzero().tolist() == [[1, 3, 2, 1]]
    gradient = torch.ones_like(images)
    leaf = images.clone(memory_format=torch.preserve_format).requires_grad_()
    ReLU()(leaf * 1).backward(gradient)
    assert leaf.grad.nonzero().tolist() == [[1, 3, 2, 1]]


@pytest.mark.parametrize(
    "images",
    [
        torch.randn(2, 8, 4, 4).contiguous(memory_format=torch.channels_last),
        torch.randn(2, 8, 4, 4).bfloat16(),
        torch.randn(2, 8, 8, 8).bfloat16().contiguous(memory_format=torch.channels_last)[:, :, ::2],
    ],
    ids=["float32", "contiguous", "every other row"],
)
def test_other_images_go_torchs_way(images: torch.Tensor) -> None:
    leaf = images.clone(memory_format=torch.preserve_format).requires_grad_()
    leaf = leaf if leaf.stride() == images.stride() else images.requires_grad_()
    assert not _is_ours(MaxPool2x2()(leaf), "_MaxPoolBackward")
    assert torch.equal(ReLU()(leaf * 1), F.relu(images))


def test_images_of_one_row_are_torchs_error() -> None:
    images = torch.zeros(1, 8, 1, 4, dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last)
    with pytest.raises(RuntimeError, match="too small"):
        MaxPool2x2()(images)


def test_without_torchs_threads_they_are_torchs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_in_parallel", lambda: None)
    images = _images((2, 8, 4, 4)).requires_grad_()
    assert not _is_ours(MaxPool2x2()(images), "_MaxPoolBackward")
    assert torch.equal(ReLU()(images * 1), F.relu(images))


@pytest.mark.parametrize("network", [CustomResNet, SpeedCNN])
def test_a_networks_step_is_the_same_to_the_bit(network: type[nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.randn(10, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    torch.manual_seed(0)
    model = network().to(memory_format=torch.channels_last)
    gradients = []
    for mine in (True, False):
        if not mine:
            monkeypatch.setattr(kernels, "_in_parallel", lambda: None)
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(images)
        logits.float().logsumexp(1).sum().backward()
        gradients.append([logits.detach(), *(parameter.grad for parameter in model.parameters())])
    for ours, theirs in zip(*gradients, strict=True):
        assert torch.equal(ours, theirs)
