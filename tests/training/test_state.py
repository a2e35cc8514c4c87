from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fastcifar import TrainConfig, fit_epochs
from fastcifar.data.writer import write_beton
from fastcifar.errors import ConfigError, DataError, DeviceError


def test_bad_input_is_refused(config: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="write-beton"):
        next(fit_epochs(config.replace(data_dir=tmp_path)))
    with pytest.raises(ConfigError, match="batch_size is 512"):
        next(fit_epochs(config.replace(batch_size=512)))
    with pytest.raises(ConfigError, match="device is 'tpu9'"):
        next(fit_epochs(config.replace(device="tpu9")))
    if not torch.cuda.is_available():
        with pytest.raises(DeviceError, match="sees 0 CUDA devices; use --device cpu"):
            next(fit_epochs(config.replace(device="cuda")))


def _noise(folder: Path, size: int) -> Path:
    images, labels = np.random.default_rng(0).integers(0, 256, (40, size, size, 3), dtype=np.uint8), np.arange(40) % 2
    folder.mkdir()
    for split in ("train", "test"):
        write_beton(folder / f"{split}.beton", images, labels, class_names=("a", "b"), name="noise")
    return folder


def test_images_of_a_size_that_the_network_cannot_take_are_refused(config: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot take images of 4 × 4 pixels; .*--resize 32"):
        next(fit_epochs(config.replace(data_dir=_noise(tmp_path / "4", 4))))
    large = config.replace(data_dir=_noise(tmp_path / "64", 64), model="dilated_cnn", epochs=1)
    assert next(fit_epochs(large)).epoch == 1, "a network that ends in a mean takes any size"
