"""Properties that hold for any input: of configuration, schedule, augmentation, predictions and splits."""

from __future__ import annotations

import itertools
import json
import math
import types
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fastcifar.augment import create_augmentation, hflip
from fastcifar.config import SETTINGS, TrainConfig
from fastcifar.data.split import stratified_split
from fastcifar.errors import ConfigError
from fastcifar.inference.metrics import Predictions
from fastcifar.optim.schedule import one_cycle_lr, one_cycle_momentum
from fastcifar.settings import AugmentSettings, OptimSettings, ResizeSettings
from fastcifar.training.step import image_size

NUMBERS = {int: st.integers(-3, 5000), float: st.floats(width=32) | st.floats(0, 1), bool: st.booleans()}


def _values(kind: Any) -> st.SearchStrategy[Any]:
    """Return values of a field's type, whether they are allowed or not."""
    if get_origin(kind) in (Union, types.UnionType):
        return st.one_of([_values(each) for each in get_args(kind)])
    if get_origin(kind) is Literal:
        return st.sampled_from(get_args(kind))
    if get_origin(kind) is tuple:
        return st.lists(_values(get_args(kind)[0]), max_size=3).map(tuple)
    if kind is type(None):
        return st.none()
    return NUMBERS[kind] if kind in NUMBERS else st.text(st.characters(codec="utf-8"), max_size=8).map(kind)


KINDS = {name: kind for name, (_, kind) in SETTINGS.items()}
VALUES = st.lists(st.sampled_from(sorted(KINDS)), max_size=3, unique=True).flatmap(
    lambda names: st.fixed_dictionaries({name: _values(KINDS[name]) for name in names})
)


@given(VALUES)
def test_settings_are_refused_by_name_or_survive_json(settings: dict[str, Any]) -> None:
    try:
        config = TrainConfig().replace(**settings)
    except ConfigError as error:
        name, rest = str(error).split(" is ", 1)
        assert name in KINDS
        assert "must be" in rest
        return
    assert TrainConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


OPTIM = st.builds(
    OptimSettings,
    max_lr=st.floats(1e-6, 1e3),
    div_factor=st.floats(1, 1e4),
    final_div_factor=st.floats(1, 1e4),
    pct_start=st.floats(0, 0.99),
    momentum=st.floats(0, 0.99),
    peak_momentum=st.none() | st.floats(0, 0.99),
)


@given(OPTIM, st.integers(2, 3000), st.data())
def test_the_learning_rate_stays_within_its_bounds_on_two_lines(
    settings: OptimSettings, total: int, data: st.DataObject
) -> None:
    rates = [one_cycle_lr(step, total, settings) for step in range(total)]
    first = settings.max_lr / settings.div_factor
    slack = 1e-9 * settings.max_lr
    assert all(first / settings.final_div_factor - slack <= rate <= settings.max_lr + slack for rate in rates)
    assert rates[-1] == pytest.approx(first / settings.final_div_factor)
    peak = int(np.argmax(rates))
    assert all(before <= after + slack for before, after in itertools.pairwise(rates[: peak + 1]))
    assert all(before >= after - slack for before, after in itertools.pairwise(rates[peak:]))
    step = data.draw(st.integers(0, total - 1))
    momentum = one_cycle_momentum(step, total, settings)
    ends = (settings.momentum, settings.momentum if settings.peak_momentum is None else settings.peak_momentum)
    assert min(ends) - 1e-9 <= momentum <= max(ends) + 1e-9


@given(st.lists(st.tuples(st.integers(8, 31), st.floats(0, 0.3)), max_size=3), st.integers(1, 500))
def test_image_sizes_have_the_order_and_the_fractions_of_the_settings(
    stages: list[tuple[int, float]], total: int
) -> None:
    sizes, fractions = tuple(size for size, _ in stages), tuple(fraction for _, fraction in stages)
    settings = ResizeSettings(resize_sizes=sizes, resize_fractions=fractions)
    seen = [image_size(step, total, settings) for step in range(total)]
    expected = [*(size for size, fraction in stages for _ in [0]), None]
    order = [expected.index(size) for size in seen]
    assert order == sorted(order) or len({size for size, _ in stages}) < len(stages)
    whole = sum(size is None for size in seen)
    assert abs(whole - total * (1 - sum(fraction for _, fraction in stages))) <= 1


@st.composite
def _images(draw: st.DrawFn) -> torch.Tensor:
    batch, side = draw(st.integers(1, 4)), draw(st.integers(10, 20))
    pixels = draw(arrays.arrays(np.uint8, (batch, side, side, 3)))
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


@given(
    _images(),
    st.integers(0, 8),
    st.sampled_from(get_args(get_type_hints(AugmentSettings)["padding_mode"])),
    st.floats(0, 1),
    st.integers(0, 10),
    st.integers(0, 2**32),
)
def test_crop_flip_and_cutout_move_pixels_and_create_no_new_values(
    images: torch.Tensor, padding: int, mode: Any, flip_p: float, cutout: int, seed: int
) -> None:
    size = images.shape[-1]
    settings = AugmentSettings(padding=padding, padding_mode=mode, flip_p=flip_p, cutout=cutout)
    augmentation = create_augmentation(settings, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), size=size)
    torch.manual_seed(seed)
    result = augmentation(images)
    assert result.shape == images.shape
    assert result.dtype == torch.float32
    for before, after in zip(images, result, strict=True):
        colours = {tuple(pixel) for pixel in before.flatten(1).t().tolist()} | {(0, 0, 0)}
        after = (after * 255).round().to(torch.uint8).flatten(1).t().tolist()
        assert {tuple(pixel) for pixel in after} <= colours
    torch.manual_seed(seed)
    assert torch.equal(augmentation(images), result)
    assert torch.equal(augmentation.eval()(images), images.float() / 255)


@given(_images(), st.data())
def test_flipping_twice_restores_the_images(images: torch.Tensor, data: st.DataObject) -> None:
    chosen = torch.tensor(data.draw(st.lists(st.booleans(), min_size=len(images), max_size=len(images))))
    assert torch.equal(hflip(hflip(images, chosen), chosen), images)


@given(st.integers(2, 6), st.integers(1, 60), st.data())
def test_confusion_and_loss_are_equal_to_direct_counts(classes: int, count: int, data: st.DataObject) -> None:
    logits = data.draw(arrays.arrays(np.float32, (count, classes), elements=st.floats(-20, 20, width=32)))
    labels = data.draw(arrays.arrays(np.int64, count, elements=st.integers(0, classes - 1)))
    predictions = Predictions.of(torch.from_numpy(logits), torch.from_numpy(labels))
    confusion = predictions.confusion()
    for truth in range(classes):
        for guess in range(classes):
            assert confusion[truth, guess] == ((labels == truth) & (logits.argmax(axis=1) == guess)).sum()
    loss = [
        -(row[label] - math.log(sum(math.exp(value) for value in row)))
        for row, label in zip(logits.astype(float), labels, strict=True)
    ]
    assert predictions.loss() == pytest.approx(sum(loss) / count, abs=1e-6)


FRACTIONS = st.floats(0, 1, exclude_min=True, exclude_max=True)


@given(arrays.arrays(np.int64, st.integers(1, 300), elements=st.integers(0, 9)), FRACTIONS, st.integers(0, 2**32))
def test_a_split_is_complete_stratified_and_repeatable(labels: Any, fraction: float, seed: int) -> None:
    try:
        training, validation = stratified_split(labels, fraction, seed)
    except ConfigError:
        assert np.bincount(labels).max() == 1
        return
    assert sorted([*training, *validation]) == list(range(len(labels)))
    for label in range(10):
        count = (labels == label).sum()
        validated = (labels[validation] == label).sum()
        assert validated == (min(max(round(fraction * count), 1), count - 1) if count > 1 else 0)
    assert np.array_equal(stratified_split(labels, fraction, seed)[0], training)
