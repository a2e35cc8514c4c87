"""Synthetic images: even classes, drawn from a seed, and not trivial to classify."""

from __future__ import annotations

import numpy as np

from fastcifar.data.sources import open_source
from fastcifar.data.synthetic import SHAPES, draw_synthetic


def test_synthetic_images_have_ten_classes_of_equal_size_in_shuffled_order() -> None:
    opened = open_source("synthetic")
    assert opened.name == "synthetic"
    assert opened.class_names == tuple(SHAPES)
    assert opened.train.images.shape == (10_000, 32, 32, 3)
    assert opened.test.images.shape == (2_000, 32, 32, 3)
    assert np.bincount(opened.train.labels).tolist() == [1_000] * 10
    assert np.bincount(opened.test.labels).tolist() == [200] * 10
    assert (np.diff(opened.train.labels) < 0).any()
    np.testing.assert_array_equal(open_source("synthetic").train.images[:100], opened.train.images[:100])
    assert (open_source("synthetic", seed=1).train.images[:100] != opened.train.images[:100]).any()
    assert opened.train.images.dtype == np.uint8
    assert opened.train.images.flags.c_contiguous


def test_synthetic_images_depend_on_the_seed_only() -> None:
    (images, labels), (test_images, _) = draw_synthetic(train=50, test=50, seed=3)
    (again, labels_again), (test_again, _) = draw_synthetic(train=50, test=50, seed=3)
    (other, _), _ = draw_synthetic(train=50, test=50, seed=4)
    np.testing.assert_array_equal(images, again)
    np.testing.assert_array_equal(labels, labels_again)
    np.testing.assert_array_equal(test_images, test_again)
    assert (images != other).any()
    assert (images != test_images).any()


def test_the_size_of_one_synthetic_split_does_not_change_the_other() -> None:
    (train, _), (test, _) = draw_synthetic(train=30, test=20)
    (same_train, _), (longer, _) = draw_synthetic(train=30, test=40)
    (_, _), (same_test, _) = draw_synthetic(train=10, test=20)
    np.testing.assert_array_equal(train, same_train)
    np.testing.assert_array_equal(test, same_test)
    assert len(longer) == 40


def test_a_linear_classifier_cannot_solve_the_synthetic_images() -> None:
    (images, labels), (test_images, test_labels) = draw_synthetic(train=2_000, test=500)
    pixels, test_pixels = (split[:, ::2, ::2].reshape(len(split), -1) / 255 - 0.5 for split in (images, test_images))
    gram = pixels.T @ pixels + 100 * np.eye(pixels.shape[1])
    weights = np.linalg.solve(gram, pixels.T @ np.eye(10)[labels])
    assert ((test_pixels @ weights).argmax(axis=1) == test_labels).mean() < 0.4
