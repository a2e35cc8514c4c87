"""What must hold for any input: configuration, schedule, augmentation, metrics, and what a run goes on from."""

from __future__ import annotations

import itertools
import json
import math
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fastcifar.augment import create_augmentation, mirror
from fastcifar.config import TrainConfig
from fastcifar.settings import AugmentSettings, OptimSettings
from fastcifar.data.split import stratified_split
from fastcifar.errors import ConfigError
from fastcifar.data.manifest import content_sha256
from fastcifar.inference.evaluate import Predictions
from fastcifar.optim.schedule import one_cycle_lr, one_cycle_momentum
from fastcifar.runs.folder import read_metrics
from fastcifar.training.step import image_size

NUMBERS = {int: st.integers(-3, 5000), float: st.floats(width=32) | st.floats(0, 1), bool: st.booleans()}


def _values(kind: Any) -> st.SearchStrategy[Any]:
    """Values of a field's type, whether a setting may have them or not."""
    if get_origin(kind) in (Union, types.UnionType):
        return st.one_of([_values(each) for each in get_args(kind)])
    if get_origin(kind) is Literal:
        return st.sampled_from(get_args(kind))
    if get_origin(kind) is tuple:
        return st.lists(_values(get_args(kind)[0]), max_size=3).map(tuple)
    if kind is type(None):
        return st.none()
    return NUMBERS[kind] if kind in NUMBERS else st.text(st.characters(codec="utf-8"), max_size=8).map(kind)


KINDS = get_type_hints(TrainConfig)
SETTINGS = st.lists(st.sampled_from(sorted(KINDS)), max_size=3, unique=True).flatmap(
    lambda names: st.fixed_dictionaries({name: _values(KINDS[name]) for name in names})
)


@given(SETTINGS)
def test_settings_are_refused_by_name_or_survive_json(settings: dict[str, Any]) -> None:
    try:
        config = TrainConfig(**settings)
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
def test_the_rate_stays_within_its_bounds_and_moves_in_two_lines(
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
def test_images_grow_in_the_order_and_for_the_shares_that_are_set(stages: list[tuple[int, float]], total: int) -> None:
    config = TrainConfig(resize_sizes=tuple(s for s, _ in stages), resize_fractions=tuple(share for _, share in stages))
    seen = [image_size(step, total, config) for step in range(total)]
    expected = [*(size for size, share in stages for _ in [0]), None]
    order = [expected.index(size) for size in seen]
    assert order == sorted(order) or len({size for size, _ in stages}) < len(stages)
    whole = sum(size is None for size in seen)
    assert abs(whole - total * (1 - sum(share for _, share in stages))) <= 1


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
def test_crop_flip_and_cutout_move_pixels_and_make_none_up(
    images: torch.Tensor, padding: int, mode: Any, flip_p: float, cutout: int, seed: int
) -> None:
    size = images.shape[-1]
    assume(padding < size)
    settings = {"padding": padding, "padding_mode": mode, "flip_p": flip_p, "cutout": cutout, "size": size}
    augmentation = create_augmentation(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), **settings)
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
def test_mirroring_twice_is_nothing(images: torch.Tensor, data: st.DataObject) -> None:
    chosen = torch.tensor(data.draw(st.lists(st.booleans(), min_size=len(images), max_size=len(images))))
    assert torch.equal(mirror(mirror(images, chosen), chosen), images)


@given(st.integers(2, 6), st.integers(1, 60), st.data())
def test_confusion_and_loss_are_a_count_by_hand(classes: int, count: int, data: st.DataObject) -> None:
    logits = data.draw(arrays.arrays(np.float32, (count, classes), elements=st.floats(-20, 20, width=32)))
    labels = data.draw(arrays.arrays(np.int64, count, elements=st.integers(0, classes - 1)))
    predictions = Predictions(logits=torch.from_numpy(logits), labels=torch.from_numpy(labels))
    confusion = predictions.confusion()
    for truth in range(classes):
        for guess in range(classes):
            assert confusion[truth, guess] == ((labels == truth) & (logits.argmax(axis=1) == guess)).sum()
    loss = [
        -(row[label] - math.log(sum(math.exp(value) for value in row)))
        for row, label in zip(logits.astype(float), labels, strict=True)
    ]
    assert predictions.loss() == pytest.approx(sum(loss) / count, abs=1e-6)


@given(arrays.arrays(np.int64, st.integers(1, 300), elements=st.integers(0, 9)), st.floats(0, 1), st.integers(0, 2**32))
def test_a_split_is_whole_stratified_and_repeatable(labels: Any, fraction: float, seed: int) -> None:
    try:
        training, validation = stratified_split(labels, fraction, seed)
    except ConfigError:
        eval_split = sum(round(fraction * (labels == label).sum()) for label in range(10))
        assert eval_split in (0, len(labels))
        return
    assert sorted([*training, *validation]) == list(range(len(labels)))
    for label in range(10):
        assert (labels[validation] == label).sum() == round(fraction * (labels == label).sum())
    assert np.array_equal(stratified_split(labels, fraction, seed)[0], training)


@given(st.integers(0, 5), st.data())
def test_metrics_that_are_cut_off_keep_their_whole_lines(
    tmp_path_factory: pytest.TempPathFactory, epochs: int, data: st.DataObject
) -> None:
    run: Path = tmp_path_factory.mktemp("run")
    lines = [json.dumps({"epoch": epoch, "test_accuracy": 0.5}) + "\n" for epoch in range(1, epochs + 1)]
    text = "".join(lines)
    cut = data.draw(st.integers(0, len(text)))
    (run / "metrics.jsonl").write_text(text[:cut])
    whole = sum(len("".join(lines[: end + 1])) - 1 <= cut for end in range(epochs))
    assert [entry["epoch"] for entry in read_metrics(run)] == list(range(1, whole + 1))


LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | arrays.arrays(
        np.float32, arrays.array_shapes(max_dims=2, max_side=3), elements=st.floats(width=32, allow_nan=False)
    ).map(torch.from_numpy)
)
STATES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3))


@given(STATES, STATES)
def test_the_hash_of_a_checkpoint_tells_any_two_contents_apart(one: Any, other: Any) -> None:
    assert content_sha256(one) == content_sha256(one)
    assert (content_sha256(one) == content_sha256(other)) == (_plain(one) == _plain(other))


def _plain(value: Any) -> Any:
    """What a content is, in values that compare by type and bits."""
    if isinstance(value, torch.Tensor):
        return "tensor", tuple(value.shape), value.numpy().tobytes()
    if isinstance(value, dict):
        return "dict", tuple((name, _plain(item)) for name, item in value.items())
    if isinstance(value, list):
        return "list", tuple(_plain(item) for item in value)
    return type(value).__name__, repr(value)
