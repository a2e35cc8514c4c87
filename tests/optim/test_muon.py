from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import nn

from fastcifar import get_recipe
from fastcifar.optim.create import create_optimizer
from fastcifar.optim.muon import Muon, can_share, orthogonalize
from fastcifar.optim.schedule import set_lr
from fastcifar.parallel import Processes
from fastcifar.settings import FreezeSettings


@pytest.mark.parametrize("shape", [(16, 4, 3, 3), (64, 4, 3, 3), (32, 100)])
def test_an_orthogonalized_matrix_has_singular_values_near_one(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalize([torch.randn(shape)])[0].flatten(1))
    assert values.min() > 0.6
    assert values.max() < 1.3


def test_matrices_orthogonalized_together_and_alone_are_equal() -> None:
    torch.manual_seed(0)
    matrices = [torch.randn(8, 2, 3, 3), torch.randn(4, 8, 3, 3), torch.randn(8, 2, 3, 3)]
    for together, matrix in zip(orthogonalize(matrices), matrices, strict=True):
        torch.testing.assert_close(together, orthogonalize([matrix])[0], atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", [(16, 4, 3, 3), (64, 24, 3, 3), (64, 4, 3, 3)])
def test_orthogonalizing_equals_the_textbook_newton_schulz_loop(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    expected = matrix.flatten(1).double()
    expected = expected / expected.norm()
    for _ in range(3):
        gram = expected @ expected.T
        expected = 3.4445 * expected + (-4.7750 * gram + 2.0315 * gram @ gram) @ expected
    error = orthogonalize([matrix], dtype)[0].flatten(1).double() - expected
    assert error.norm() < (0.04 if dtype is torch.bfloat16 else 1e-5) * expected.norm(), "rounding errors only"


def test_processes_divide_the_filter_banks_by_work(monkeypatch: pytest.MonkeyPatch) -> None:
    exchanged: list[Sequence[int]] = []
    monkeypatch.setattr(Processes, "copy_from", lambda _, __, owners: exchanged.append(owners))
    torch.manual_seed(0)
    filters = [torch.randn(shape) for shape in ((4, 3, 3, 3), (16, 8, 3, 3), (32, 16, 3, 3), (16, 8, 3, 3))]
    results = [orthogonalize(filters, torch.bfloat16, Processes(rank, 2)) for rank in (0, 1)]
    owners = exchanged[0]
    assert owners == exchanged[1] == [1, 1, 0, 1], "the largest one takes one process as long as the others together"
    for index, (owner, expected) in enumerate(zip(owners, orthogonalize(filters), strict=True)):
        assert torch.equal(results[owner][index], expected)


def test_only_processes_on_the_cpu_of_one_machine_share(monkeypatch: pytest.MonkeyPatch) -> None:
    two = Processes(0, 2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert can_share(torch.device("cpu"), two)
    assert not can_share(torch.device("cuda"), two)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    assert not can_share(torch.device("cpu"), two)
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    assert not can_share(torch.device("cpu"), two)


def _muon_step(weight: torch.Tensor, grad: torch.Tensor, average: torch.Tensor, lr: float) -> torch.Tensor:
    """One step for one matrix, as in the paper."""
    average.mul_(0.6).add_(grad)
    x = (grad + 0.6 * average).bfloat16()
    x = x / x.norm()
    for _ in range(3):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return weight * len(weight) ** 0.5 / weight.norm() - lr * x.float()


def test_muon_updates_filters_as_in_the_paper_and_other_parameters_with_nesterov_sgd() -> None:
    torch.manual_seed(0)
    config = get_recipe("speedrun", weight_decay=0.01)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 5))
    optimizer = create_optimizer(model, config.optim, config.freezing)
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
        set_lr(optimizer, 0, 10**9, config.optim)
        optimizer.step()
        sgd.step()
    error = conv.weight.detach().flatten(1) - filters
    assert error.norm() < 0.02 * filters.norm(), "bfloat16's rounding"
    for other, parameter in zip(others, (conv.bias, linear.bias, linear.weight), strict=True):
        torch.testing.assert_close(parameter, other)


class Attention(nn.Module):
    """A network with a parameter of every kind, and with two hidden matrices that are not in a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.randn(1, 16, 8))
        self.positions = nn.Parameter(torch.randn(16, 8))
        self.temperature = nn.Parameter(torch.ones(()))
        self.token = nn.Embedding(4, 8)
        self.patches = nn.Conv2d(3, 8, 8, stride=8)
        self.mix = nn.Conv1d(8, 8, 3, padding=1, groups=2)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.hidden = nn.Linear(8, 12)
        self.squeeze = nn.Linear(12, 1)
        self.head = nn.Linear(12, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(images).flatten(2)
        rows = self.mix(tokens).mT + self.pos_embed + self.positions + self.token.weight[0]
        attended, _ = self.attention(rows, rows, rows)
        hidden = self.hidden(self.norm(attended).mean(dim=1)).relu()
        return self.head(hidden) * self.temperature + self.squeeze(hidden)


def test_every_parameter_has_a_group_by_what_it_does() -> None:
    config, model = get_recipe("speedrun"), Attention()
    optimizer = create_optimizer(model, config.optim, config.freezing)
    names = {parameter: name for name, parameter in model.named_parameters()}
    matrices, others, head = ({names[weight] for weight in group["params"]} for group in optimizer.param_groups)
    assert matrices == {
        "patches.weight", "mix.weight", "attention.in_proj_weight", "attention.out_proj.weight", "hidden.weight",
    }  # fmt: skip
    assert head == {"head.weight"}
    assert others == set(names.values()) - matrices - head
    assert [group["use_muon"] for group in optimizer.param_groups] == [True, False, False]


def test_every_parameter_trains_also_in_convolutions_of_one_dimension() -> None:
    torch.manual_seed(0)
    config, model = get_recipe("speedrun", bias_lr=0.1, head_lr=0.1), Attention()
    optimizer = create_optimizer(model, config.optim, config.freezing)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    set_lr(optimizer, 0, 10, config.optim)
    model(torch.randn(4, 3, 32, 32)).square().sum().backward()
    optimizer.step()
    for name, parameter in model.named_parameters():
        assert not torch.equal(parameter, before[name]), name
        assert parameter.isfinite().all(), name


def test_muon_multiplies_in_float32_where_bfloat16_is_emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.dtype] = []

    def record(filters: list[torch.Tensor], dtype: torch.dtype, _: Processes) -> list[torch.Tensor]:
        seen.append(dtype)
        return filters

    monkeypatch.setattr("fastcifar.optim.muon.orthogonalize", record)
    for fast in (True, False):
        monkeypatch.setattr("fastcifar.device.has_fast_bfloat16", lambda fast=fast: fast)
        model, config = nn.Conv2d(3, 8, 3), get_recipe("speedrun")
        optimizer = create_optimizer(model, config.optim, FreezeSettings())
        model(torch.randn(1, 3, 8, 8)).sum().backward()
        optimizer.step()
    assert seen == [torch.bfloat16, torch.float32]
