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


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5, 0.99])
def test_a_class_of_two_images_or_more_is_on_both_sides(fraction: float) -> None:
    labels = np.repeat(np.arange(5), [1, 2, 3, 4, 40])
    training, validation = stratified_split(labels, fraction, seed=0)
    assert np.bincount(labels[validation], minlength=5).tolist() == [
        0, *(min(max(round(fraction * count), 1), count - 1) for count in (2, 3, 4, 40))
    ]  # fmt: skip
    assert (np.bincount(labels[training]) > 0).all(), "the only image of a class is trained on"


def test_classes_of_one_image_cannot_be_split() -> None:
    with pytest.raises(ConfigError, match=r"a fraction of 0\.1 of each class cannot be held out"):
        stratified_split(np.arange(10), 0.1, seed=0)
