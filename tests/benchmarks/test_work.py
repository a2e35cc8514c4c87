from __future__ import annotations

import pytest

from benchmarks import work
from fastcifar import TrainConfig
from fastcifar.training.state import create_state


def test_the_compute_of_a_training_is_counted_step_by_step(config: TrainConfig) -> None:
    image = 3 * 379.27e6 / work.ERA_EPOCH
    whole = work.era_epoch_equivalents(create_state(config))
    assert whole == pytest.approx(18 * 32 * image, rel=2e-3), "the first convolution passes no gradient on"
    small = config.replace(resize_sizes=(16, 64), resize_fractions=(0.25, 0.25))
    assert work.era_epoch_equivalents(create_state(small)) == pytest.approx((5 / 4 + 13) * 32 * image, rel=3e-3)
    parts = {"freeze": ("prep", "layer1"), "freeze_at": (0.0, 0.5)}
    prep, first = 64 * 27 * 32**2, 128 * 64 * 9 * 32**2
    block, second = 2 * 128 * 128 * 9 * 16**2, 256 * 128 * 9 * 16**2
    spared_first = 2 * prep + first  # the gradient of prep's weights and inputs, and of the next layer's inputs
    spared_then = 2 * (prep + first + block) + second
    expected = 18 * 3 * 379.27e6 - 9 * (spared_first + spared_then)
    frozen = work.era_epoch_equivalents(create_state(config.replace(**parts)))
    assert frozen == pytest.approx(32 * expected / work.ERA_EPOCH, rel=1e-3)
