"""Fixtures shared by the tests: small data sets, and the real one where it is available."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch

from fastcifar import TrainConfig, get_recipe
from fastcifar.data.sources import open_source
from fastcifar.data.writer import write_beton
from tests.helpers import write_pair

hypothesis.settings.register_profile("steady", deadline=None, derandomize=True)
hypothesis.settings.load_profile("steady")  # slow machines pass, and the inputs of one commit are always the same


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    no_gpu = pytest.mark.skip(reason="needs a CUDA device")
    no_data = pytest.mark.skip(reason="needs the real CIFAR-10 in FASTCIFAR_DATA")
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(no_gpu)
        if item.get_closest_marker("cifar") and not os.environ.get("FASTCIFAR_DATA"):
            item.add_marker(no_data)


@pytest.fixture(scope="session")
def betons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 200 training and 90 test images: neither number is a multiple of the batch size, 32."""
    return write_pair(tmp_path_factory.mktemp("betons"), train=200, test=90)


@pytest.fixture(scope="session")
def cifar_betons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real data set as .beton files."""
    folder = tmp_path_factory.mktemp("cifar")
    source = open_source(os.environ["FASTCIFAR_DATA"])
    for split, images in (("train", source.train), ("test", source.test)):
        write_beton(
            folder / f"{split}.beton", images.images, images.labels, class_names=source.class_names, name=source.name
        )
    return folder


@pytest.fixture
def no_ffcv(monkeypatch: pytest.MonkeyPatch) -> None:
    """Imitate an installation without FFCV and OpenCV."""
    for name in {"ffcv", "cv2", *sys.modules}:
        if name.partition(".")[0] in ("ffcv", "cv2"):
            monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "fastcifar.data.ffcv_compat", raising=False)


@pytest.fixture
def config(betons: Path) -> TrainConfig:
    """Three short epochs on the CPU."""
    return get_recipe("era", data_dir=betons, batch_size=32, epochs=3, device="cpu")


@pytest.fixture
def pictures() -> np.ndarray:
    """uint8 [64, 32, 32, 3] of noise."""
    return np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3), dtype=np.uint8)
