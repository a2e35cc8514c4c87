from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from fastcifar import create_model
from fastcifar.models.ops import conv3x3
from fastcifar.models.ops.conv3x3 import MAX_PACK, Conv3x3, conv3x3_as_matmul, conv3x3_packed, conv3x3_winograd

ALGORITHMS = {
    "conv3x3_packed": conv3x3_packed,
    "conv3x3_as_matmul": conv3x3_as_matmul,
    "conv3x3_winograd": conv3x3_winograd,
}


@pytest.mark.parametrize(
    ("algorithm", "size"),
    [
        *((conv3x3_packed, size) for size in ((4, 3), (1, 1))),
        *((conv3x3_as_matmul, size) for size in ((2, 2), (1, 2), (2, 1), (1, 1))),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_algorithm_has_the_outputs_and_gradients_of_torchs_convolution(
    dtype: torch.dtype, algorithm: Callable[..., torch.Tensor], size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    batch = 2 * MAX_PACK
    images = torch.randn(batch, 5, *size).to(memory_format=torch.channels_last)
    weight, grad = torch.randn(7, 5, 3, 3), torch.randn(batch, 7, *size)
    results = []
    # torch's in float32: where it emulates bfloat16, it sums the weight gradient in bfloat16, image by image
    for convolve, precision in ((algorithm, dtype), (lambda x, w: F.conv2d(x, w, padding=1), torch.float32)):
        x, w = (tensor.to(dtype).to(precision).requires_grad_() for tensor in (images, weight))
        outputs = convolve(x, w)
        outputs.backward(grad.to(dtype).to(precision))
        results.append((outputs, x.grad, w.grad))
    for ours, theirs in zip(*results, strict=True):
        rtol, atol = (2e-2, 1e-1) if dtype is torch.bfloat16 else (1e-5, 1e-5)
        torch.testing.assert_close(ours, theirs.to(dtype), rtol=rtol, atol=atol)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("dtype", "size", "bfloat16_unit", "algorithm"),
    [
        (torch.bfloat16, 9, "amx_bf16", None),
        (torch.bfloat16, 8, "amx_bf16", "conv3x3_packed"),
        (torch.bfloat16, 4, "amx_bf16", "conv3x3_packed"),
        (torch.bfloat16, 9, "avx512_bf16", "conv3x3_winograd"),
        (torch.bfloat16, 4, "avx512_bf16", "conv3x3_winograd"),
        (torch.bfloat16, 4, "", None),  # emulated
        (torch.bfloat16, 2, "amx_bf16", "conv3x3_as_matmul"),
        (torch.bfloat16, 2, "avx512_bf16", "conv3x3_as_matmul"),
        (torch.float32, 9, "amx_bf16", "conv3x3_winograd"),
        (torch.float32, 3, "", "conv3x3_winograd"),
        (torch.float32, 2, "", "conv3x3_as_matmul"),
        (torch.float16, 4, "amx_bf16", None),
    ],
)
def test_each_precision_and_size_uses_the_fastest_algorithm(
    dtype: torch.dtype,
    bias: bool,
    size: int,
    bfloat16_unit: str,
    algorithm: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    used = []
    for name, function in ALGORITHMS.items():
        monkeypatch.setattr(
            conv3x3, name, lambda x, w, name=name, function=function: used.append(name) or function(x, w)
        )
    torch.manual_seed(0)
    layer = Conv3x3(64, 96, bias=bias)
    layer.bfloat16_unit = bfloat16_unit
    images = torch.randn(128, 64, size, size)
    expected = F.conv2d(images, layer.weight, layer.bias, padding=1)
    with torch.autocast("cpu", dtype, enabled=dtype is not torch.float32):
        output = layer(images)
    assert used == ([algorithm] if algorithm else [])
    assert output.dtype is dtype
    tolerance = 1e-3 if dtype is torch.float32 else 0.1
    torch.testing.assert_close(output.float(), expected, rtol=tolerance, atol=tolerance)


def test_few_images_use_torchs_convolution_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ALGORITHMS:
        monkeypatch.setattr(conv3x3, name, lambda *_: pytest.fail("slower than torch's"))
    for size in (2, 7):
        Conv3x3(96, 96)(torch.randn(1, 96, size, size))


@pytest.mark.parametrize("size", [33, 47, 96])
def test_a_network_has_the_results_and_gradients_of_torchs_convolutions_for_images_of_other_sizes(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = create_model("speed_cnn", widths=(64, 96, 96)).eval()
    images = torch.randn(16, 3, size, size).contiguous(memory_format=torch.channels_last)
    used, select = set(), conv3x3.select_algorithm
    results = []
    for ours in (True, False):
        monkeypatch.setattr(conv3x3, "select_algorithm", lambda *args, ours=ours: select(*args) if ours else None)
        monkeypatch.setattr(conv3x3, "conv3x3_winograd", lambda x, w: used.add(x.shape[2:]) or conv3x3_winograd(x, w))
        model.zero_grad()
        logits = model(images)
        F.cross_entropy(logits, torch.arange(16) % 10).backward()
        results.append({name: weight.grad for name, weight in model.named_parameters()} | {"logits": logits})
    assert len(used) >= 2, "Winograd's algorithm was used"
    for name, expected in results[1].items():
        if expected is not None:
            # of the norms: where two values of a pooling window are nearly equal, rounding moves a gradient
            assert (results[0][name] - expected).norm() <= 1e-2 * expected.norm(), name
