"""What the tests share: small data sets that they make, the real one where it is, a small network."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch
from torch import nn

from fastcifar import TrainConfig, get_recipe
from fastcifar.data.writer import write_beton
from fastcifar.data.sources import open_source
from fastcifar.data.synthetic import SHAPES, draw_synthetic

hypothesis.settings.register_profile("steady", deadline=None, derandomize=True)
hypothesis.settings.load_profile("steady")  # a slow machine is no failure, and the same commit tries the same inputs


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    no_gpu = pytest.mark.skip(reason="needs a CUDA device")
    no_data = pytest.mark.skip(reason="needs the real CIFAR-10 in FASTCIFAR_DATA")
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(no_gpu)
        if item.get_closest_marker("cifar") and not os.environ.get("FASTCIFAR_DATA"):
            item.add_marker(no_data)


class TinyNet(nn.Sequential):
    """Images [B, 3, H, W] to logits [B, 10], in a fraction of a millisecond an image."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 3, stride=2, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(32, 10),
        )


def write_pair(folder: Path, *, train: int, test: int, seed: int = 0) -> Path:
    """train.beton and test.beton of made-up shapes."""
    splits = draw_synthetic(train=train, test=test, seed=seed)
    for split, (images, labels) in zip(("train", "test"), splits, strict=True):
        write_beton(folder / f"{split}.beton", images, labels, class_names=tuple(SHAPES), name="synthetic")
    return folder


@contextmanager
def no_wait_for_the_device() -> Iterator[None]:
    """Let each call that waits for the GPU raise."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that not every such call is noticed
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.fixture(scope="session")
def betons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 200 images to train on and 90 to test on: neither fills its last batch of 32."""
    return write_pair(tmp_path_factory.mktemp("betons"), train=200, test=90)


@pytest.fixture(scope="session")
def cifar_betons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real data set as .betons."""
    folder = tmp_path_factory.mktemp("cifar")
    source = open_source(os.environ["FASTCIFAR_DATA"])
    for split, images in (("train", source.train), ("test", source.test)):
        write_beton(
            folder / f"{split}.beton", images.images, images.labels, class_names=source.class_names, name=source.name
        )
    return folder


@pytest.fixture
def config(betons: Path) -> TrainConfig:
    """Three short epochs on the CPU."""
    return get_recipe("era", betons=betons, batch_size=32, epochs=3, device="cpu")


@pytest.fixture
def pictures() -> np.ndarray:
    """uint8 [64, 32, 32, 3] of noise."""
    return np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3), dtype=np.uint8)
