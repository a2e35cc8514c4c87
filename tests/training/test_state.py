from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fastcifar import TrainConfig, fit_epochs
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
