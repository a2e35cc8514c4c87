from __future__ import annotations

import pytest
import torch
from torch import nn

from fastcifar.models.ops.pooling import GlobalMaxPool


@pytest.mark.parametrize("side", [1, 3, 4, 8])
def test_global_max_pooling_has_the_results_and_gradients_of_torchs(side: int) -> None:
    torch.manual_seed(0)
    images = torch.randn(5, 7, side, side, requires_grad=True)
    theirs = nn.AdaptiveMaxPool2d(1)(images)
    ours = GlobalMaxPool()(images)
    assert torch.equal(ours, theirs)
    grad = torch.randn_like(theirs)
    assert torch.equal(*(torch.autograd.grad(each, images, grad)[0] for each in (ours, theirs)))
