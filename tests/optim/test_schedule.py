from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from fastcifar import get_recipe
from fastcifar.optim.create import create_optimizer
from fastcifar.optim.schedule import lr_table, one_cycle_lr, one_cycle_momentum, set_lr


@pytest.mark.parametrize(("total", "final_div"), [(24 * 97, 1.0), (100, 20.0), (7, 1.0)])
def test_the_schedule_is_torchs_one_cycle(total: int, final_div: float) -> None:
    settings = get_recipe("era", final_div_factor=final_div).optim
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.max_lr, total_steps=total, pct_start=settings.pct_start, anneal_strategy="linear",
        div_factor=settings.div_factor, final_div_factor=final_div, cycle_momentum=False,
    )  # fmt: skip
    for step in range(total):
        assert one_cycle_lr(step, total, settings) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        if step + 1 < total:
            schedule.step()


def test_the_learning_rate_peaks_at_the_end_of_epoch_five_and_returns_to_its_first_value() -> None:
    settings = get_recipe("era").optim
    lrs = [one_cycle_lr(step, 24 * 97, settings) for step in range(24 * 97)]
    assert lrs.index(max(lrs)) == 5 * 97 - 1
    assert max(lrs) == pytest.approx(settings.max_lr)
    assert lrs[0] == pytest.approx(settings.max_lr / settings.div_factor)
    assert lrs[-1] == pytest.approx(settings.max_lr / settings.div_factor)
    assert min(lrs) == pytest.approx(settings.max_lr / settings.div_factor)


@pytest.mark.parametrize("pct_start", [0.01, 0.2, 5 / 24, 0.25, 0.5, 0.99])
@pytest.mark.parametrize("total", [1, 2, 3, 4, 5])
def test_the_shortest_runs_have_finite_learning_rates(total: int, pct_start: float) -> None:
    settings = get_recipe("era", pct_start=pct_start).optim
    for step in range(total):
        assert 0 < one_cycle_lr(step, total, settings) <= settings.max_lr * (1 + 1e-12)


def test_without_a_rise_the_learning_rate_falls_linearly_from_the_first_step() -> None:
    settings = get_recipe("speedrun").optim
    lrs = [one_cycle_lr(step, 50, settings) for step in range(50)]
    falls = np.diff(lrs)
    assert np.allclose(falls, falls[0])
    assert settings.max_lr * 0.97 < lrs[0] < settings.max_lr
    assert lrs[-1] == pytest.approx(settings.max_lr / settings.final_div_factor)


def test_the_momentum_cycles_as_torchs_one_cycle_does() -> None:
    settings = get_recipe("course-e").optim
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0, momentum=0.9)
    reference = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.max_lr, total_steps=100, pct_start=settings.pct_start, anneal_strategy="linear",
        base_momentum=0.85, max_momentum=0.95,
    )  # fmt: skip
    for step in range(100):
        assert one_cycle_momentum(step, 100, settings) == pytest.approx(optimizer.param_groups[0]["momentum"])
        optimizer.step()
        if step < 99:
            reference.step()
    assert {one_cycle_momentum(step, 100, get_recipe("era", momentum=0.7).optim) for step in range(100)} == {0.7}


def test_sgd_gets_its_learning_rate_and_momentum_from_the_schedule() -> None:
    config = get_recipe("course-e")
    optimizer = create_optimizer(nn.Linear(2, 2), config.optim, config.freezing)
    assert isinstance(optimizer, torch.optim.SGD)
    set_lr(optimizer, 50, 100, config.optim)
    assert optimizer.param_groups[0]["lr"] == one_cycle_lr(50, 100, config.optim)
    assert optimizer.param_groups[0]["momentum"] == one_cycle_momentum(50, 100, config.optim)


def test_the_ratios_between_groups_stay_constant() -> None:
    config = get_recipe("era-fast")
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 5))
    optimizer = create_optimizer(model, config.optim, config.freezing)
    set_lr(optimizer, 30, 60, config.optim)
    lrs = [group["lr"] for group in optimizer.param_groups]
    assert [lr / lrs[0] for lr in lrs] == pytest.approx([1, config.optim.bias_lr / 0.24, config.optim.head_lr / 0.24])
    assert optimizer.param_groups[0]["momentum"] == config.optim.muon_momentum


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "muon"])
def test_a_module_goes_through_the_whole_schedule_before_it_is_frozen(optimizer: str) -> None:
    changes = {"optimizer": optimizer, "pct_start": 0.25, "momentum": 0.9, "peak_momentum": 0.8, "max_lr": 1.0}
    config = get_recipe("era", **changes, bias_lr=2.0, freeze=("0",), freeze_at=(0.41,))
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    groups = create_optimizer(model, config.optim, config.freezing)
    for step in range(100):
        set_lr(groups, step, 100, config.optim)
        for group in groups.param_groups:
            names = {name.split(".")[0] for name, value in model.named_parameters() if _is_in(value, group["params"])}
            assert len(names) == 1
            steps = 41 if names == {"0"} else 100
            if step < steps:
                lr = group.get("lr_scale", 1.0) * one_cycle_lr(step, steps, config.optim)
                assert group["lr"] == pytest.approx(lr), f"{names} in step {step}"
                if optimizer == "sgd":
                    assert group["momentum"] == one_cycle_momentum(step, steps, config.optim)


def test_the_table_has_the_learning_rates_of_every_step() -> None:
    config = get_recipe("era-fast", freeze=("0",), freeze_at=(0.5,))
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 5))
    table, optimizer = (create_optimizer(model, config.optim, config.freezing) for _ in range(2))
    rows = lr_table(table, 20, config.optim)
    assert rows.dtype is torch.float32
    for step, row in enumerate(rows.tolist()):
        set_lr(optimizer, step, 20, config.optim)
        assert row == pytest.approx([step, *(group["lr"] for group in optimizer.param_groups)])


def _is_in(value: torch.Tensor, values: list[torch.Tensor]) -> bool:
    return any(value is other for other in values)
