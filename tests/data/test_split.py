from __future__ import annotations

import numpy as np
import pytest

from fastcifar.data.split import stratified_split
from fastcifar.errors import ConfigError


def test_the_split_is_stratified_seeded_and_complete() -> None:
    labels = np.repeat(np.arange(10), 50)
    training, validation = stratified_split(labels, 0.1, seed=0)
    assert np.array_equal(np.sort(np.concatenate((training, validation))), np.arange(500))
    assert (np.bincount(labels[validation]) == 5).all()
    assert np.array_equal(stratified_split(labels, 0.1, seed=0)[1], validation)
    assert not np.array_equal(stratified_split(labels, 0.1, seed=1)[1], validation)


def test_the_split_is_the_one_that_settings_were_chosen_on() -> None:
    validation = stratified_split(np.arange(40) % 2, 0.25, seed=0)[1]
    assert validation.tolist() == [4, 14, 15, 19, 20, 23, 25, 29, 32, 38]


@pytest.mark.parametrize(("fraction", "left"), [(0.01, (20, 0)), (0.99, (0, 20))])
def test_a_split_with_an_empty_side_is_an_error(fraction: float, left: tuple[int, int]) -> None:
    with pytest.raises(ConfigError) as caught:
        stratified_split(np.repeat(np.arange(10), 2), fraction, seed=0)
    assert str(caught.value) == (
        f"val_fraction is {fraction}, which leaves {left[0]} images to train on and {left[1]} to validate on: choose "
        "another fraction"
    )
