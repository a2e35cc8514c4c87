from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastcifar.models.custom_resnet import CustomResNet
from fastcifar.models.ops import kernels
from fastcifar.models.ops.kernels import MaxPool2x2, ReLU
from fastcifar.models.speed_cnn import SpeedCNN

SHAPES = [(3, 5, 4, 4), (7, 33, 9, 6), (2, 64, 5, 7), (50, 130, 8, 8), (1, 1, 2, 3)]


@pytest.fixture(params=[1, 2, 5])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def _images(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    """Images with few values, so that many are equal, including zeros of both signs and infinities."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(-3, 4, shape, generator=generator) * torch.randint(0, 2, shape, generator=generator) * -0.37
    images[torch.rand(shape, generator=generator) < 0.02] = float("inf")
    images[torch.rand(shape, generator=generator) < 0.02] = -float("inf")
    return images.bfloat16().contiguous(memory_format=torch.channels_last)


def _bits(images: torch.Tensor) -> torch.Tensor:
    return images.detach().contiguous().view(torch.int16)


def _is_ours(result: torch.Tensor) -> bool:
    """Whether a kernel of this package computed the result: torch's own operations are not custom functions."""
    return isinstance(result.grad_fn, torch.autograd.function.BackwardCFunction)


def _with_torchs_layers(module: nn.Module) -> nn.Module:
    """Replace the layers that use the kernels with torch's."""
    if isinstance(module, MaxPool2x2):
        return nn.MaxPool2d(2)
    if isinstance(module, ReLU):
        return nn.ReLU(inplace=True)
    for name, child in module.named_children():
        setattr(module, name, _with_torchs_layers(child))
    return module


@pytest.mark.parametrize("shape", SHAPES)
def test_max_pooling_has_torchs_results_and_gradients(shape: tuple[int, ...], threads: int) -> None:
    ours, theirs = (_images(shape).requires_grad_() for _ in range(2))
    pooled, expected = MaxPool2x2()(ours), F.max_pool2d(theirs, 2)
    assert _is_ours(pooled), "torch's kernel was used"
    gradient = torch.randn(pooled.shape).bfloat16()
    pooled.backward(gradient)
    expected.backward(gradient)
    assert torch.equal(pooled, expected)
    assert torch.equal(ours.grad, theirs.grad)
    assert pooled.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("shape", SHAPES)
def test_relu_has_torchs_results_and_gradients_in_place(shape: tuple[int, ...], threads: int) -> None:
    ours, theirs = (_images(shape).requires_grad_() for _ in range(2))
    given = ours.clone()
    result, expected = ReLU()(given), F.relu(theirs)
    assert _is_ours(result), "torch's kernel was used"
    assert result.data_ptr() == given.data_ptr()
    gradient = torch.randn(shape).bfloat16()
    result.backward(gradient)
    expected.backward(gradient)
    assert torch.equal(_bits(result), _bits(expected + 0.0)), "including the sign of zeros"
    assert torch.equal(ours.grad, theirs.grad)


@pytest.mark.parametrize("bits", [0x7FC0, 0x7F81, -0x40, -0x7F, -0x1])
def test_nan_stays_nan(bits: int) -> None:
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
def test_unsupported_images_use_torchs_kernels(images: torch.Tensor) -> None:
    leaf = images.clone(memory_format=torch.preserve_format).requires_grad_()
    leaf = leaf if leaf.stride() == images.stride() else images.requires_grad_()
    assert not _is_ours(MaxPool2x2()(leaf))
    assert torch.equal(ReLU()(leaf * 1), F.relu(images))


def test_images_with_one_row_or_column_stay_as_they_are() -> None:
    for shape in ((2, 8, 1, 6), (2, 8, 6, 1), (2, 8, 1, 1)):
        images = torch.randn(shape).bfloat16().contiguous(memory_format=torch.channels_last)
        assert torch.equal(MaxPool2x2()(images), images)


def test_without_torchs_openmp_library_torchs_kernels_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "gomp_parallel", lambda: None)
    images = _images((2, 8, 4, 4)).requires_grad_()
    assert not _is_ours(MaxPool2x2()(images))
    assert torch.equal(ReLU()(images * 1), F.relu(images))


@pytest.mark.parametrize("network", [CustomResNet, SpeedCNN])
def test_a_networks_gradients_equal_those_with_torchs_layers_bit_for_bit(network: type[nn.Module]) -> None:
    images = torch.randn(10, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    torch.manual_seed(0)
    ours = network().to(memory_format=torch.channels_last)
    gradients = []
    for model in (ours, _with_torchs_layers(copy.deepcopy(ours))):
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(images)
        logits.float().logsumexp(1).sum().backward()
        gradients.append([logits.detach(), *(parameter.grad for parameter in model.parameters())])
    for mine, torchs in zip(*gradients, strict=True):
        assert torch.equal(mine, torchs)
