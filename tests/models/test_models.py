from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastcifar import create_model
from fastcifar.errors import ConfigError
from fastcifar.models.ops import conv3x3 as conv
from fastcifar.models.ops.conv3x3 import conv3x3_as_matmul, conv3x3_packed
from fastcifar.models.ops.pooling import GlobalMaxPool
from fastcifar.models.speed_cnn import GELU_SCALE, ConvGroup


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for name, stage in model.named_children():
        stage.register_forward_hook(lambda _, __, out, name=name: shapes.update({name: tuple(out.shape[1:])}))
    model.eval()(torch.zeros(1, 3, 32, 32))
    return shapes


STAGES = {
    "prep": (64, 32, 32),
    "layer1": (128, 16, 16),
    "layer2": (256, 8, 8),
    "layer3": (512, 4, 4),
    "head": (10,),
}


def test_the_network_has_its_6_573_130_parameters_and_the_shapes_of_its_stages() -> None:
    model = create_model("custom_resnet")
    assert _parameters(model) == 6_573_130
    assert _shapes(model) == STAGES


def test_the_biased_three_block_variant_has_7_756_554_parameters_and_the_same_shapes() -> None:
    model = create_model("custom_resnet", conv_bias=True, layer2_residual=True)
    assert _parameters(model) == 7_756_554
    assert _shapes(model) == STAGES


def test_it_does_379_27_million_multiply_adds_an_image() -> None:
    counts: list[int] = []
    model = create_model("custom_resnet")
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(
                lambda conv, _, out: counts.append(out.shape[2] * out.shape[3] * conv.weight.numel())
            )
        elif isinstance(module, nn.Linear):
            counts.append(module.weight.numel())
    model.eval()(torch.zeros(1, 3, 32, 32))
    assert sum(counts) / 1e6 == pytest.approx(379.27, abs=0.02)


def test_pooling_comes_before_the_norm_and_the_residual_is_added() -> None:
    model = create_model("custom_resnet").eval()
    assert [type(layer).__name__ for layer in model.layer1[0]] == ["Conv3x3", "MaxPool2x2", "BatchNorm2d", "ReLU"]
    residual = model.layer1[1]
    x = torch.randn(2, 128, 16, 16)
    assert torch.equal(residual(x), x + residual.branch(x))


def test_dropout_follows_every_relu() -> None:
    model = create_model("custom_resnet", dropout=0.1)
    relus = [module for module in model.modules() if isinstance(module, nn.ReLU)]
    drops = [module for module in model.modules() if isinstance(module, nn.Dropout)]
    assert len(relus) == len(drops) == 8
    assert all(drop.p == 0.1 for drop in drops)
    assert not any(isinstance(module, nn.Dropout) for module in create_model("custom_resnet").modules())


def test_it_gives_logits_for_as_many_classes_as_asked_for() -> None:
    logits = create_model("custom_resnet", num_classes=7).eval()(torch.zeros(2, 3, 32, 32))
    assert logits.shape == (2, 7)
    assert not torch.allclose(logits.exp().sum(dim=1), torch.ones(2)), "no softmax"


def test_the_seed_repeats_the_weights() -> None:
    weights = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        weights.append(create_model("custom_resnet").prep.conv.weight)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_an_unknown_name_or_option_is_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean custom_resnet"):
        create_model("resnet")
    with pytest.raises(ConfigError, match="does not take these options"):
        create_model("custom_resnet", depth=3)


def test_the_small_networks_widths_can_be_chosen() -> None:
    model = create_model("speed_cnn", widths=(8, 12, 20))
    assert [getattr(model, f"group{number}").conv2.out_channels for number in (1, 2, 3)] == [8, 12, 20]
    assert model.eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    with pytest.raises(ConfigError, match="three groups"):
        create_model("speed_cnn", widths=(8, 12))
    with pytest.raises(ConfigError, match="does not take these options"):
        create_model("custom_resnet", widths=(8, 12, 20))


@pytest.mark.parametrize("side", [1, 3, 4, 8])
def test_the_largest_of_each_channel_is_torchs_and_so_is_its_gradient(side: int) -> None:
    torch.manual_seed(0)
    images = torch.randn(5, 7, side, side, requires_grad=True)
    theirs = nn.AdaptiveMaxPool2d(1)(images)
    ours = GlobalMaxPool()(images)
    assert torch.equal(ours, theirs)
    grad = torch.randn_like(theirs)
    assert torch.equal(*(torch.autograd.grad(each, images, grad)[0] for each in (ours, theirs)))


def test_the_small_networks_activations_are_gelu_times_a_factor() -> None:
    torch.manual_seed(0)
    group = ConvGroup(8, 16)
    images = torch.randn(4, 8, 12, 12)
    expected = F.gelu(F.batch_norm(group.pool(group.conv1(images)), None, None, training=True))
    expected = F.gelu(F.batch_norm(group.conv2(expected), None, None, training=True))
    torch.testing.assert_close(group(images) / GELU_SCALE, expected, atol=0.06, rtol=0)


def test_the_dilated_network_is_under_200_000_parameters_and_halves_three_times_without_pooling() -> None:
    model = create_model("dilated_cnn")
    assert _parameters(model) == 196_586
    assert _shapes(model) == {
        "block1": (32, 16, 16), "block2": (48, 8, 8), "block3": (56, 4, 4), "block4": (64, 4, 4), "head": (10,),
    }  # fmt: skip
    assert not any(isinstance(module, nn.MaxPool2d | nn.AvgPool2d) for module in model.modules())
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert sum(module.dilation == (2, 2) for module in convolutions) == 1
    assert sum(module.groups > 1 for module in convolutions) == 1
    assert len(convolutions) == 4 * 3 + 1, "the depthwise-separable one counts twice"


def test_the_dilated_networks_last_features_see_99_pixels() -> None:
    model = create_model("dilated_cnn").eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.fill_(1e-2)
    images = torch.zeros(1, 3, 256, 256, requires_grad=True)
    features = model.block4(model.block3(model.block2(model.block1(images + 1))))
    features[0, 0, 16, 16].backward()
    assert images.grad is not None
    seen = images.grad[0].abs().sum(dim=0) > 0
    assert (int(seen.any(dim=0).sum()), int(seen.any(dim=1).sum())) == (99, 99)


@pytest.mark.parametrize(
    ("way", "size"),
    [
        *((conv3x3_packed, size) for size in ((4, 3), (1, 1))),
        *((conv3x3_as_matmul, size) for size in ((2, 2), (1, 2), (2, 1), (1, 1))),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_convolution_of_small_images_has_the_outputs_and_gradients_of_torchs_own(
    dtype: torch.dtype, way: Callable[..., torch.Tensor], size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    batch = 2 * conv.MAX_PACK
    images = torch.randn(batch, 5, *size).to(memory_format=torch.channels_last)
    weight, grad = torch.randn(7, 5, 3, 3), torch.randn(batch, 7, *size)
    results = []
    for convolve in (way, lambda x, w: F.conv2d(x, w, padding=1)):
        x, w = (tensor.to(dtype).requires_grad_() for tensor in (images, weight))
        outputs = convolve(x, w)
        outputs.backward(grad.to(dtype))
        results.append((outputs, x.grad, w.grad))
    for ours, own in zip(*results, strict=True):
        torch.testing.assert_close(
            ours, own, rtol=2e-2 if dtype is torch.bfloat16 else 1e-5, atol=1e-1 if dtype is torch.bfloat16 else 1e-5
        )


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("size", "amx", "way"),
    [
        (9, True, None),
        (8, True, "convolve_side_by_side"),
        (4, True, "convolve_side_by_side"),
        (4, False, None),
        (2, True, "convolve_densely"),
        (2, False, "convolve_densely"),
    ],
)
def test_small_bfloat16_images_are_convolved_another_way_only_where_it_is_faster(
    bias: bool, size: int, amx: bool, way: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = []
    monkeypatch.setattr(conv, "_has_amx", lambda: amx)
    for name, function in (("convolve_side_by_side", conv3x3_packed), ("convolve_densely", conv3x3_as_matmul)):
        monkeypatch.setattr(conv, name, lambda x, w, name=name, function=function: taken.append(name) or function(x, w))
    torch.manual_seed(0)
    layer = conv.Conv3x3(8, 6, bias=bias)
    images = torch.randn(3, 8, size, size)
    expected = F.conv2d(images, layer.weight, layer.bias, padding=1)
    torch.testing.assert_close(layer(images), expected)
    assert taken == []
    with torch.autocast("cpu", torch.bfloat16):
        output = layer(images)
    assert taken == ([way] if way else [])
    assert output.dtype is torch.bfloat16
    torch.testing.assert_close(output.float(), expected, rtol=2e-2, atol=2e-2)
