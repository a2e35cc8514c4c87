"""The sampler 'balanced' draws each class equally often, from the seed and the epoch only, with every decoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fastcifar.data.create import create_loader
from fastcifar.data.loader import BetonLoader
from fastcifar.data.sampler import balanced_draws
from fastcifar.data.writer import write_beton

COUNTS = (60, 25, 9, 0, 6)
NAMES = ("a", "b", "c", "d", "e")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A .beton with a class of 60 images, rarer ones and an empty one; each image shows its position."""
    path = tmp_path_factory.mktemp("rare") / "train.beton"
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(5), COUNTS))
    images = np.zeros((100, 8, 8, 3), np.uint8) + np.arange(100, dtype=np.uint8)[:, None, None, None]
    write_beton(path, images, labels, class_names=NAMES, name="rare")
    return path


def open_balanced(file: Path, seed: int = 0, **options: object) -> BetonLoader:
    return create_loader(file, batch_size=16, train=True, seed=seed, sampler="balanced", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [1, 3, 4, 96, 1001])
def test_each_class_and_each_image_of_a_class_is_drawn_equally_often(count: int) -> None:
    labels = np.repeat(np.arange(5), COUNTS)
    drawn = balanced_draws(labels, count, np.random.default_rng(0))
    assert len(drawn) == count
    per_class = np.bincount(labels[drawn], minlength=5)
    assert per_class[3] == 0
    assert np.ptp(per_class[[0, 1, 2, 4]]) <= 1
    times = np.bincount(drawn, minlength=100)
    assert all(np.ptp(times[labels == label]) <= 1 for label in (0, 1, 2, 4))


@pytest.mark.parametrize("kind", ["ffcv", "memmap"])
@pytest.mark.parametrize("cache", [False, True])
def test_the_batches_are_those_of_the_order(file: Path, kind: str, cache: bool) -> None:
    with open_balanced(file, loader=kind, cache_on_device=cache) as loader:
        assert (len(loader), loader.samples) == (6, 96)
        for epoch in (0, 1, 3):
            images, labels = map(torch.cat, zip(*loader.batches(epoch), strict=True))
            assert images[:, 0, 0, 0].tolist() == loader.order(epoch).tolist()
            assert torch.bincount(labels).tolist() == [24, 24, 24, 0, 24]
        (first, *_), *others = zip(*loader.batches_with_indices(1, start=2), strict=True)
        assert torch.equal(first[:, 0, 0, 0].long(), others[1][0])
        assert len(others[1]) == 4


def test_the_order_depends_on_seed_and_epoch_only(file: Path) -> None:
    one, other, seeded = open_balanced(file), open_balanced(file), open_balanced(file, seed=1)
    for _ in one.batches(0):
        pass
    assert np.array_equal(one.order(5), other.order(5))
    assert not np.array_equal(one.order(5), one.order(6))
    assert not np.array_equal(one.order(5), seeded.order(5))


def test_it_draws_from_the_chosen_images_only_and_flips_copies_alike(file: Path) -> None:
    chosen = np.arange(0, 100, 3)
    loader = open_balanced(file, indices=chosen)
    order, flipped = loader.order(2), loader.flip_mask(2)
    assert set(order.tolist()) <= set(chosen.tolist())
    assert all(len(set(flipped[order == position])) == 1 for position in set(order.tolist()))
    assert np.array_equal(np.unique(flipped), [False, True])


def test_an_evaluation_gives_every_image_once(file: Path) -> None:
    loader = create_loader(file, batch_size=16, train=False, sampler="balanced")
    assert loader.order(3).tolist() == list(range(100))
