from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from fastcifar import get_recipe
from fastcifar.data.split import stratified_split
from fastcifar.errors import ConfigError
from fastcifar.optim.muon import Muon, orthogonalize
from fastcifar.report.figures import schedule
from fastcifar.optim.create import add_l1_gradient, create_optimizer
from fastcifar.optim.schedule import one_cycle_lr, one_cycle_momentum


@pytest.mark.parametrize(("total", "final_div"), [(24 * 97, 1.0), (100, 20.0), (7, 1.0)])
def test_the_schedule_is_torchs_one_cycle(total: int, final_div: float) -> None:
    config = get_recipe("era", final_div_factor=final_div)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.optim.max_lr, total_steps=total, pct_start=config.optim.pct_start, anneal_strategy="linear",
        div_factor=config.optim.div_factor, final_div_factor=final_div, cycle_momentum=False,
    )  # fmt: skip
    for step in range(total):
        assert one_cycle_lr(step, total, config) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        if step + 1 < total:
            schedule.step()


def test_the_rate_peaks_at_the_end_of_epoch_five_and_falls_back_to_where_it_began() -> None:
    config = get_recipe("era")
    rates = [one_cycle_lr(step, 24 * 97, config) for step in range(24 * 97)]
    assert rates.index(max(rates)) == 5 * 97 - 1
    assert max(rates) == pytest.approx(config.optim.max_lr)
    assert rates[0] == pytest.approx(config.optim.max_lr / 10)
    assert rates[-1] == pytest.approx(config.optim.max_lr / 10)
    assert min(rates) == pytest.approx(config.optim.max_lr / 10)


@pytest.mark.parametrize("pct_start", [0.01, 0.2, 5 / 24, 0.25, 0.5, 0.99])
@pytest.mark.parametrize("total", [1, 2, 3, 4, 5])
def test_the_shortest_runs_have_finite_rates(total: int, pct_start: float) -> None:
    config = get_recipe("era", pct_start=pct_start)
    for step in range(total):
        assert 0 < one_cycle_lr(step, total, config) <= config.optim.max_lr * (1 + 1e-12)


def test_adam_takes_its_weight_decay() -> None:
    optimizer = create_optimizer(nn.Linear(2, 2), get_recipe("era", weight_decay=0.5))
    assert isinstance(optimizer, torch.optim.Adam)
    assert optimizer.param_groups[0]["weight_decay"] == 0.5


def test_the_momentum_cycles_as_torchs_one_cycle_does() -> None:
    config = get_recipe("course-e")
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0, momentum=0.9)
    reference = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.optim.max_lr, total_steps=100, pct_start=config.optim.pct_start, anneal_strategy="linear",
        base_momentum=0.85, max_momentum=0.95,
    )  # fmt: skip
    for step in range(100):
        assert one_cycle_momentum(step, 100, config) == pytest.approx(optimizer.param_groups[0]["momentum"])
        optimizer.step()
        if step < 99:
            reference.step()
    assert {one_cycle_momentum(step, 100, get_recipe("era", momentum=0.7)) for step in range(100)} == {0.7}


def test_sgd_takes_its_rate_and_momentum_from_the_schedule() -> None:
    config = get_recipe("course-e")
    optimizer = create_optimizer(nn.Linear(2, 2), config)
    assert isinstance(optimizer, torch.optim.SGD)
    assert schedule(optimizer, 50, 100, config) == optimizer.param_groups[0]["lr"] == one_cycle_lr(50, 100, config)
    assert optimizer.param_groups[0]["momentum"] == one_cycle_momentum(50, 100, config)


@pytest.mark.parametrize("scale", [None, 256.0])
def test_the_l1_gradient_is_that_of_the_penalty_scaled_as_the_loss_is(scale: float | None) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=scale or 1.0, enabled=scale is not None)
    layer = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    penalized = layer(torch.ones(1, 3)).sum() + 0.01 * sum(p.abs().sum() for p in layer.parameters())
    scaler.scale(penalized).backward()
    expected = [parameter.grad.clone() for parameter in layer.parameters() if parameter.grad is not None]
    optimizer.zero_grad()
    scaler.scale(layer(torch.ones(1, 3)).sum()).backward()
    add_l1_gradient(optimizer, scaler, 0.01)
    for parameter, gradient in zip(layer.parameters(), expected, strict=True):
        assert torch.allclose(parameter.grad, gradient)


def test_the_split_is_stratified_seeded_and_whole() -> None:
    labels = np.repeat(np.arange(10), 50)
    training, validation = stratified_split(labels, 0.1, seed=0)
    assert np.array_equal(np.sort(np.concatenate((training, validation))), np.arange(500))
    assert (np.bincount(labels[validation]) == 5).all()
    assert np.array_equal(stratified_split(labels, 0.1, seed=0)[1], validation)
    assert not np.array_equal(stratified_split(labels, 0.1, seed=1)[1], validation)


def test_the_split_stays_what_it_was_when_settings_were_chosen_on_it() -> None:
    validation = stratified_split(np.arange(40) % 2, 0.25, seed=0)[1]
    assert validation.tolist() == [4, 14, 15, 19, 20, 23, 25, 29, 32, 38]


@pytest.mark.parametrize(("fraction", "left"), [(0.01, (20, 0)), (0.99, (0, 20))])
def test_a_split_that_leaves_one_side_empty_is_refused(fraction: float, left: tuple[int, int]) -> None:
    with pytest.raises(ConfigError) as caught:
        stratified_split(np.repeat(np.arange(10), 2), fraction, seed=0)
    assert str(caught.value) == (
        f"val_fraction is {fraction}, which leaves {left[0]} images to train on and {left[1]} to validate on: choose "
        "another"
    )


def test_without_a_rise_the_rate_falls_in_a_line_from_the_first_step() -> None:
    config = get_recipe("speedrun")
    rates = [one_cycle_lr(step, 50, config) for step in range(50)]
    falls = np.diff(rates)
    assert np.allclose(falls, falls[0])
    assert config.optim.max_lr * 0.97 < rates[0] < config.optim.max_lr
    assert rates[-1] == pytest.approx(config.optim.max_lr / config.optim.final_div_factor)


@pytest.mark.parametrize("shape", [(16, 4, 3, 3), (64, 4, 3, 3), (32, 100)])
def test_an_orthogonalized_matrix_has_singular_values_near_one(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalize([torch.randn(shape)])[0].flatten(1))
    assert values.min() > 0.6
    assert values.max() < 1.3


def test_matrices_of_one_shape_are_orthogonalized_together_as_they_are_alone() -> None:
    torch.manual_seed(0)
    matrices = [torch.randn(8, 2, 3, 3), torch.randn(4, 8, 3, 3), torch.randn(8, 2, 3, 3)]
    for together, matrix in zip(orthogonalize(matrices), matrices, strict=True):
        torch.testing.assert_close(together, orthogonalize([matrix])[0], atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("shape", [(16, 4, 3, 3), (64, 24, 3, 3), (64, 4, 3, 3)])
def test_orthogonalizing_takes_the_steps_of_the_quintic(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    expected = matrix.flatten(1).double()
    expected = expected / expected.norm()
    for _ in range(3):
        gram = expected @ expected.T
        expected = 3.4445 * expected + (-4.7750 * gram + 2.0315 * gram @ gram) @ expected
    error = orthogonalize([matrix])[0].flatten(1).double() - expected
    assert error.norm() < 0.04 * expected.norm(), "bfloat16's rounding"


def _muon_step(weight: torch.Tensor, grad: torch.Tensor, average: torch.Tensor, lr: float) -> torch.Tensor:
    """One step as its paper writes it, for one matrix."""
    average.mul_(0.6).add_(grad)
    x = (grad + 0.6 * average).bfloat16()
    x = x / x.norm()
    for _ in range(3):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return weight * len(weight) ** 0.5 / weight.norm() - lr * x.float()


def test_muon_turns_filters_and_takes_nesterov_steps_with_the_rest() -> None:
    torch.manual_seed(0)
    config = get_recipe("speedrun", weight_decay=0.01)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 5))
    optimizer = create_optimizer(model, config)
    assert isinstance(optimizer, Muon)
    conv, linear = model[0], model[2]
    filters, average = conv.weight.detach().flatten(1).clone(), torch.zeros(8, 27)
    others = [parameter.detach().clone().requires_grad_() for parameter in (conv.bias, linear.bias, linear.weight)]
    sgd = torch.optim.SGD(
        [{"params": others[:2], "lr": config.optim.bias_lr}, {"params": others[2:], "lr": config.optim.head_lr}],
        momentum=0.85, nesterov=True, weight_decay=0.01,
    )  # fmt: skip
    for _ in range(3):
        for parameter in model.parameters():
            parameter.grad = 1e-3 * torch.randn_like(parameter)
        for other, parameter in zip(others, (conv.bias, linear.bias, linear.weight), strict=True):
            other.grad = parameter.grad.clone()
        filters = _muon_step(filters, conv.weight.grad.flatten(1), average, config.optim.max_lr)
        schedule(optimizer, 0, 10**9, config)
        optimizer.step()
        sgd.step()
    error = conv.weight.detach().flatten(1) - filters
    assert error.norm() < 0.02 * filters.norm(), "bfloat16's rounding"
    for other, parameter in zip(others, (conv.bias, linear.bias, linear.weight), strict=True):
        torch.testing.assert_close(parameter, other)


def test_the_schedule_keeps_the_ratios_between_groups() -> None:
    config = get_recipe("era-fast")
    optimizer = create_optimizer(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 5)), config)
    schedule(optimizer, 30, 60, config)
    rates = [group["lr"] for group in optimizer.param_groups]
    assert [rate / rates[0] for rate in rates] == pytest.approx([1, config.optim.bias_lr / 0.24, config.optim.head_lr / 0.24])
    assert optimizer.param_groups[0]["momentum"] == config.optim.muon_momentum


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "muon"])
def test_a_part_that_is_to_be_frozen_goes_through_the_whole_schedule_before(optimizer: str) -> None:
    changes = {"optimizer": optimizer, "pct_start": 0.25, "momentum": 0.9, "peak_momentum": 0.8, "max_lr": 1.0}
    config = get_recipe("era", **changes, bias_lr=2.0, freeze=("0",), freeze_at=(0.41,))
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    groups = create_optimizer(model, config)
    for step in range(100):
        schedule(groups, step, 100, config)
        for group in groups.param_groups:
            names = {name.split(".")[0] for name, value in model.named_parameters() if _is_in(value, group["params"])}
            assert len(names) == 1
            length = 41 if names == {"0"} else 100
            if step < length:
                rate = group.get("lr_ratio", 1.0) * one_cycle_lr(step, length, config)
                assert group["lr"] == pytest.approx(rate), f"{names} in step {step}"
                if optimizer == "sgd":
                    assert group["momentum"] == one_cycle_momentum(step, length, config)


def _is_in(value: torch.Tensor, values: list[torch.Tensor]) -> bool:
    return any(value is other for other in values)


def test_parameters_that_are_kept_are_not_the_optimizers() -> None:
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    for optimizer in ("adam", "sgd"):
        groups = create_optimizer(model, get_recipe("era", optimizer=optimizer)).param_groups
        assert [len(group["params"]) for group in groups] == [1]
