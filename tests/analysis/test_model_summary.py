from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fastcifar import create_model
from fastcifar.analysis.model_summary import summarize

BIASED = {"conv_bias": True, "layer2_residual": True}


def test_the_default_networks_totals_equal_the_courses() -> None:
    summary = summarize(create_model("custom_resnet"))
    assert summary.parameters == summary.trainable_parameters == 6_573_130
    assert f"{summary.multiply_adds / 1e6:.2f}" == "379.27"
    assert f"{summary.parameter_bytes / 1e6:.2f}" == "26.29", "in MB of 10**6 bytes, as torchinfo prints it"
    assert f"{summary.forward_backward_bytes / 1e6:.2f}" == "4.65"


def test_the_biased_variants_totals_equal_the_courses() -> None:
    summary = summarize(create_model("custom_resnet", **BIASED))
    assert summary.parameters == 7_756_554
    assert f"{summary.parameter_bytes / 2**20:.2f}" == "29.59", "in MiB, as torchsummary prints it"


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
    model.to("meta")  # where no faster algorithm with fewer multiplications is used
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(2, 3, 32, 32, device="meta"))
    # torch does not count biases and batch norms; torchinfo counts 1 per image for each of their parameters.
    biases_and_norms = sum(parameter.numel() for parameter in model.parameters() if parameter.dim() == 1)
    assert 2 * (summary.multiply_adds - 2 * biases_and_norms) == counter.get_total_flops()


def test_a_bias_adds_one_addition_per_output() -> None:
    conv = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        conv(torch.zeros(1, 3, 32, 32))
    assert summarize(conv).multiply_adds == counter.get_total_flops() // 2 + 8 * 16 * 16


def test_the_model_keeps_its_mode_and_its_statistics() -> None:
    model = create_model("dilated_cnn").train()
    model.block1.eval()
    before, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    summarize(model)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
