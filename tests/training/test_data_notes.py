"""Data with a channel without variance, or with a class that the validation split lacks, is trained on, with a note."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fastcifar import get_recipe, write_beton
from fastcifar.data.synthetic import SHAPES, draw_synthetic
from fastcifar.inference.export import ExportedNetwork
from fastcifar.training.loop import fit
from fastcifar.training.state import create_state

TINY = {"batch_size": 32, "epochs": 1, "device": "cpu", "amp": False}


def write_constant(folder: Path, channel: int, value: int) -> Path:
    """Write synthetic images whose channel has one value in training, and one other pixel in the test set."""
    for split, (images, labels) in zip(("train", "test"), draw_synthetic(train=64, test=32), strict=True):
        images[..., channel] = value
        if split == "test":
            images[0, 16, 16, channel] = 255 - value
        write_beton(folder / f"{split}.beton", images, labels, class_names=tuple(SHAPES), name="flat")
    return folder


def test_lengths_that_follow_the_size_of_the_images_are_named(tmp_path: Path) -> None:
    for split, (images, labels) in zip(("train", "test"), draw_synthetic(train=64, test=32), strict=True):
        smaller = np.ascontiguousarray(images[:, ::2, ::2])
        write_beton(tmp_path / f"{split}.beton", smaller, labels, class_names=tuple(SHAPES), name="small")
    with create_state(get_recipe("era", data_dir=tmp_path, model="speed_cnn", widths=(8, 16, 16), **TINY)) as state:
        assert state.notes == ["Images of 16 pixels per side: padding, cutout and reduced sizes are multiplied by 0.5"]


@pytest.mark.parametrize("value", [0, 128, 255, 7, 55])
def test_a_constant_channel_is_trained_on_and_named(value: int, tmp_path: Path) -> None:
    folder = write_constant(tmp_path, 1, value)
    note = f"warning: channels without variance, which are centred and not scaled: green ({value})"
    recipes = {"speedrun": {"widths": (8, 16, 16)}, "era": {"model": "speed_cnn", "widths": (8, 16, 16)}}
    for recipe, settings in recipes.items():
        state = create_state(get_recipe(recipe, data_dir=folder, **settings, **TINY))
        with state:
            assert note in state.notes
            images, _ = next(state.train_loader.batches(0))
            assert state.classifier.augmentation(images).abs().max() < 10
            (result,) = fit(state)
        assert 0 < result.train_loss < 10
        assert 0 < result.test_loss < 10
        assert all(weight.isfinite().all() for weight in state.classifier.model.parameters())


def test_an_exported_network_normalises_a_constant_channel_as_the_training_does(tmp_path: Path) -> None:
    with create_state(get_recipe("era", data_dir=write_constant(tmp_path, 2, 7), **TINY)) as state:
        images, _ = next(state.test_loader.batches(0))
        exported = ExportedNetwork(nn.Identity(), state.manifest.mean, state.manifest.std)(images)
        state.classifier.train(False)
        assert torch.equal(exported, state.classifier.augmentation(images))


def test_classes_without_an_image_to_validate_on_are_named(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(10), [1, 1, 1, 1, 1, 1, 1, 4, 40, 40])
    images = generator.integers(0, 256, (len(labels), 32, 32, 3), dtype=np.uint8)
    for split in ("train", "test"):
        write_beton(tmp_path / f"{split}.beton", images, labels, class_names=tuple("abcdefghij"), name="few")
    with create_state(get_recipe("era", data_dir=tmp_path, **TINY, val_fraction=0.1)) as state:
        assert state.notes[-1] == "warning: classes without an image to validate on: a, b, c, d, e and 2 more"
        assert np.bincount(state.test_loader.labels).tolist() == [0] * 7 + [1, 4, 4]
        assert len(state.train_loader.labels) == len(labels) - 9
    with create_state(get_recipe("era", data_dir=tmp_path, **TINY)) as state:
        assert not any("validate" in note for note in state.notes)
