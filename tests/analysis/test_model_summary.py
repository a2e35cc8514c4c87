from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fastcifar import create_model
from fastcifar.cli import main
from fastcifar.analysis.receptive_field import receptive_fields
from fastcifar.analysis.model_summary import summarize

Capture = pytest.CaptureFixture[str]
BIASED = {"conv_bias": True, "layer2_residual": True}


def test_the_plain_networks_totals_are_the_courses() -> None:
    summary = summarize(create_model("custom_resnet"))
    assert summary.parameters == summary.trainable_parameters == 6_573_130
    assert f"{summary.multiply_adds / 1e6:.2f}" == "379.27"
    assert f"{summary.parameter_bytes / 1e6:.2f}" == "26.29", "MB of 10**6 bytes, torchinfo's"
    assert f"{summary.forward_backward_bytes / 1e6:.2f}" == "4.65"


def test_the_biased_variants_totals_are_the_courses() -> None:
    summary = summarize(create_model("custom_resnet", **BIASED))
    assert summary.parameters == 7_756_554
    assert f"{summary.parameter_bytes / 2**20:.2f}" == "29.59", "MiB, torchsummary's"


def test_the_stages_have_their_shapes_and_sum_to_the_totals() -> None:
    summary = summarize(create_model("custom_resnet"), batch_size=4)
    shapes = {stage.name: stage.output_shape for stage in summary.stages}
    assert shapes == {
        "prep": (64, 32, 32), "layer1": (128, 16, 16), "layer2": (256, 8, 8), "layer3": (512, 4, 4), "head": (10,),
    }  # fmt: skip
    assert sum(stage.parameters for stage in summary.stages) == summary.parameters
    assert sum(stage.multiply_adds for stage in summary.stages) == summary.multiply_adds


def test_multiply_adds_and_memory_grow_with_the_batch_and_parameters_do_not() -> None:
    model = create_model("dilated_cnn")
    one, four = summarize(model), summarize(model, batch_size=4)
    assert four.multiply_adds == 4 * one.multiply_adds
    assert four.forward_backward_bytes == 4 * one.forward_backward_bytes
    assert four.parameter_bytes == one.parameter_bytes


@pytest.mark.parametrize("name", ["custom_resnet", "dilated_cnn"])
def test_multiply_adds_agree_with_torchs_flop_counter(name: str) -> None:
    model = create_model(name).eval()
    summary = summarize(model, batch_size=2)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(2, 3, 32, 32))
    # The counter has no biases and no batch norms: torchinfo has 1 an image for each of their parameters.
    beside = sum(parameter.numel() for parameter in model.parameters() if parameter.dim() == 1)
    assert 2 * (summary.multiply_adds - 2 * beside) == counter.get_total_flops()


def test_biased_convolutions_have_one_addition_an_output_more() -> None:
    conv = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        conv(torch.zeros(1, 3, 32, 32))
    assert summarize(conv).multiply_adds == counter.get_total_flops() // 2 + 8 * 16 * 16


def test_what_is_summarized_keeps_its_mode_and_its_statistics() -> None:
    model = create_model("dilated_cnn").train()
    model.block1.eval()
    before, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    summarize(model)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def _conv(*arguments: int, **options: object) -> nn.Conv2d:
    return nn.Conv2d(*arguments, bias=False, **options)  # type: ignore[arg-type]


class Branches(nn.Module):
    """Two branches of different lengths, added and set side by side, then functional pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.first = _conv(3, 4, 3, padding=1)
        self.short = _conv(4, 4, 1)
        self.long = nn.Sequential(_conv(4, 4, 3, padding=2, dilation=2), _conv(4, 4, 5, padding=2))
        self.last = _conv(8, 4, 3, padding=1, stride=2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.first(images))
        x = torch.cat((self.short(x) + self.long(x), x), dim=1)
        return self.last(F.avg_pool2d(x, 3, 2))  # type: ignore[no-any-return]


SMALL = {
    "one": nn.Sequential(_conv(3, 4, 3)),
    "strides": nn.Sequential(_conv(3, 4, 5, stride=2, padding=1), _conv(4, 4, 3, stride=3), _conv(4, 4, 2)),
    "dilations": nn.Sequential(_conv(3, 4, 3, dilation=3), _conv(4, 4, 3, dilation=2, stride=2), _conv(4, 4, 3)),
    "oblong": nn.Sequential(
        _conv(3, 4, (1, 7), padding=(0, 3)), _conv(4, 4, (3, 1), stride=(2, 1)), nn.AvgPool2d((2, 3), stride=(1, 2))
    ),
    "pools": nn.Sequential(nn.AvgPool2d(3, 2, padding=1), _conv(3, 6, 3, groups=3), nn.AvgPool2d(2), _conv(6, 4, 1)),
    "branches": Branches(),
    "adaptive": nn.Sequential(_conv(3, 4, 3, padding=1), nn.AdaptiveAvgPool2d(9), _conv(4, 4, 3)),
}


@pytest.mark.parametrize("name", SMALL)
def test_receptive_fields_of_small_networks_agree_with_gradients(name: str) -> None:
    assert receptive_fields(SMALL[name], (3, 72, 72))[""] == _gradient_extent(SMALL[name], 72)


@pytest.mark.parametrize(
    ("name", "side", "expected"), [("custom_resnet", 104, 64), ("dilated_cnn", 168, 99)], ids=["resnet", "dilated"]
)
def test_receptive_fields_of_the_networks_features_agree_with_gradients(name: str, side: int, expected: int) -> None:
    features = nn.Sequential(*list(create_model(name).children())[:-1])
    assert receptive_fields(features)[""] == _gradient_extent(features, side) == (expected, expected)


def test_receptive_fields_of_the_stages() -> None:
    fields = receptive_fields(create_model("custom_resnet"))
    stages = {name: fields[name][0] for name in ("prep", "layer1.0", "layer1", "layer2", "layer3", "head")}
    assert stages == {"prep": 3, "layer1.0": 6, "layer1": 14, "layer2": 20, "layer3": 64, "head": 88}
    assert receptive_fields(create_model("custom_resnet", **BIASED))["layer3"] == (80, 80)


def test_what_gives_up_height_and_width_reads_every_position() -> None:
    def mean_of(network: nn.Module) -> nn.Module:
        class Mean(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.classifier = network

            def forward(self, images: torch.Tensor) -> torch.Tensor:
                return self.classifier(images).mean(dim=(2, 3))  # type: ignore[no-any-return]

        return Mean()

    convolution = _conv(3, 4, 5, stride=2, padding=2)
    flat = nn.Sequential(convolution, nn.Flatten(), nn.Linear(4 * 16 * 16, 10))
    assert receptive_fields(flat)[""] == receptive_fields(mean_of(convolution))[""] == (35, 35)


def test_a_gate_that_reads_every_position_widens_the_field_to_the_image_and_its_padding() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = _conv(3, 4, 3, padding=1)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            x = self.conv(images)
            return x * x.mean(dim=(2, 3), keepdim=True).sigmoid()

    assert receptive_fields(Gated(), (3, 8, 8))[""] == (10, 10)


def _gradient_extent(network: nn.Module, side: int) -> tuple[int, int]:
    """Rows and columns of the pixels from the first to the last that a change of moves the centre of the output.

    Weights are positive and nothing else acts, so that no two paths cancel: averages stand in place of maxima.
    """
    linear = _linear(copy.deepcopy(network)).double()
    for parameter in linear.parameters():
        nn.init.constant_(parameter, 1 / parameter[0].numel())
    images = torch.ones(1, 3, side, side, dtype=torch.float64, requires_grad=True)
    output = linear(images)
    output[0, 0, output.shape[2] // 2, output.shape[3] // 2].backward()
    assert images.grad is not None
    touched = images.grad[0].sum(dim=0).nonzero()
    assert touched.min() > 0
    assert touched.max() < side - 1, "the field is wholly inside the image"
    height, width = (touched.amax(dim=0) - touched.amin(dim=0) + 1).tolist()
    return height, width


def _linear(module: nn.Module) -> nn.Module:
    if isinstance(module, nn.MaxPool2d):
        return nn.AvgPool2d(module.kernel_size, module.stride, module.padding)
    if isinstance(module, nn.BatchNorm2d | nn.ReLU):
        return nn.Identity()
    for name, child in module.named_children():
        setattr(module, name, _linear(child))
    return module


def test_the_command_shows_layers_shapes_and_totals(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["summary"]) == 0
    shown = capsys.readouterr().out
    for text in (
        "6,573,130",
        "379.27 M",
        "26.29 MB",
        "4.65 MB",
        "512 × 4 × 4",
        "layer1: Sequential",
        "receptive field",
    ):
        assert text in shown
    assert "prep 64 × 32 × 32 → layer1 128 × 16 × 16 → layer2 256 × 8 × 8 → layer3 512 × 4 × 4 → head 10" in shown
    assert main(["summary", "custom_resnet", "--conv-bias", "--layer2-residual"]) == 0
    shown = capsys.readouterr().out
    assert "7,756,554" in shown
    assert "29.59 MiB" in shown


def test_the_command_gives_json(capsys: Capture) -> None:
    assert main(["summary", "dilated_cnn", "--num-classes", "7", "--batch-size", "3", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["input_shape"] == [3, 3, 32, 32]
    assert shown["layers"][-1]["output_shape"] == [7]
    assert {layer["name"]: layer["receptive_field"] for layer in shown["layers"]}["block4"] == [99, 99]


def test_the_command_takes_a_runs_network(betons: Path, tmp_path: Path, capsys: Capture) -> None:
    run = str(tmp_path / "run")
    arguments = ["train", "--betons", str(betons), "--model", "dilated_cnn", "--batch-size", "100", "--epochs", "1"]
    assert main([*arguments, "--device", "cpu", "--run-dir", run]) == 0
    capsys.readouterr()
    assert main(["summary", "--run", run]) == 0
    shown = capsys.readouterr().out
    assert f"dilated_cnn, as trained in {run}" in shown
    assert "196,586" in shown
    assert main(["summary", "--run", run, "--dropout", "0.1"]) == 2
    assert "--run names a network, and so does dropout" in capsys.readouterr().err


def test_bad_input_is_one_clear_line(tmp_path: Path, capsys: Capture) -> None:
    cases = {
        ("summary", "custom_resne"): (2, "did you mean custom_resnet?"),
        ("summary", "--run", str(tmp_path)): (1, "there is no such checkpoint"),
    }
    for arguments, (code, message) in cases.items():
        assert main(list(arguments)) == code
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line


@pytest.mark.parametrize("flag", ["--num-classes", "--batch-size"])
def test_a_count_below_one_is_a_usage_error(flag: str, capsys: Capture) -> None:
    try:
        code = main(["summary", flag, "0"])
    except SystemExit as stopped:
        code = stopped.code  # type: ignore[assignment]
    assert code == 2
    assert "must be at least 1" in capsys.readouterr().err
