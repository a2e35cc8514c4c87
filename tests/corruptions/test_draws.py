from __future__ import annotations

import math

import pytest
import torch

from fastcifar.corruptions.draws import Draws


def test_an_image_gets_the_same_numbers_in_any_batch() -> None:
    whole = Draws(torch.arange(100), "fog 1 seed 0")
    part = Draws(torch.tensor([70, 3]), "fog 1 seed 0")
    assert torch.equal(whole.uniform(3, 5)[[70, 3]], part.uniform(3, 5))
    assert torch.equal(whole.normal(7)[[70, 3]], part.normal(7))


def test_other_keys_names_and_images_give_other_numbers() -> None:
    draws, other = Draws(torch.arange(3), "fog 1 seed 0"), Draws(torch.arange(3), "fog 1 seed 1")
    numbers = torch.cat((draws.uniform(50), draws.uniform(50, name="angle"), other.uniform(50)))
    assert len(numbers.flatten().unique()) == numbers.numel()


def test_the_numbers_have_the_moments_of_their_distributions() -> None:
    draws, count = Draws(torch.arange(400), "moments"), 400 * 1001
    uniform = draws.uniform(1001).double()
    assert uniform.min() >= 0
    assert uniform.max() < 1
    for power in (1, 2, 3, 4):
        assert uniform.pow(power).mean().item() == pytest.approx(1 / (power + 1), abs=3 / math.sqrt(count))
    normal = draws.normal(1001).double()
    for power, moment in ((1, 0), (2, 1), (3, 0), (4, 3)):
        assert normal.pow(power).mean().item() == pytest.approx(moment, abs=40 / math.sqrt(count))
    between = draws.between(-135, -45)
    assert between.shape == (400,)
    assert -135 <= between.min() < -125 < -55 < between.max() < -45


def test_the_numbers_of_neighbors_are_not_correlated() -> None:
    normal = Draws(torch.arange(400), "correlation").normal(1000)
    bound = 5 / math.sqrt(normal.numel())
    assert abs((normal[1:] * normal[:-1]).mean()) < bound
    assert abs((normal[:, 1:] * normal[:, :-1]).mean()) < bound
    assert abs((normal[:, 500:] * normal[:, :500]).mean()) < 2 * bound  # from the same hashes
