from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fastcifar import TrainConfig, fit, fit_epochs
from fastcifar.data.writer import write_beton
from fastcifar.errors import ConfigError
from fastcifar.training.state import create_state
from tests.helpers import TinyNet


class Returns(nn.Module):
    """A network whose output is a function of the logits."""

    def __init__(self, change: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.net, self.change = TinyNet(), change

    def forward(self, images: torch.Tensor) -> Any:
        return self.change(self.net(images))


def noise(folder: Path, size: int) -> Path:
    """Write .betons of two classes."""
    images, labels = np.random.default_rng(0).integers(0, 256, (40, size, size, 3), dtype=np.uint8), np.arange(40) % 2
    folder.mkdir()
    for split in ("train", "test"):
        write_beton(folder / f"{split}.beton", images, labels, class_names=("a", "b"), name="noise")
    return folder


@pytest.mark.parametrize(
    ("change", "returned"),
    [
        (lambda logits: logits[:, :1], r"float32 \[2, 1\]"),
        (lambda logits: logits[:, :, None, None], r"float32 \[2, 10, 1, 1\]"),
        (lambda logits: logits.sum(), r"float32 \[\]"),
        (lambda logits: logits.argmax(dim=1), r"int64 \[2\]"),
        (lambda logits: (logits * 1000).long(), r"int64 \[2, 10\]"),
        (lambda logits: (logits, None), "a tuple"),
        (lambda logits: {"logits": logits}, "a dict"),
    ],
)
def test_a_network_that_returns_no_logits_is_refused_before_the_clock_starts(
    config: TrainConfig, change: Callable[[torch.Tensor], Any], returned: str
) -> None:
    with pytest.raises(ConfigError, match=rf"returns {returned} for 2 images; it must return logits, .*\[B, 10\]"):
        create_state(config, model=Returns(change))


def test_a_network_with_one_logit_for_two_classes_is_refused(config: TrainConfig, tmp_path: Path) -> None:
    run = config.replace(data_dir=noise(tmp_path / "two", 8), epochs=1)
    one, two = (nn.Sequential(nn.Flatten(), nn.Linear(192, logits)) for logits in (1, 2))
    with pytest.raises(ConfigError, match=r"returns float32 \[2, 1\] for 2 images; .*\[B, 2\] for .* of 2 classes"):
        fit(run, model=one)
    assert fit(run, model=two)[0].train_loss > 0


def test_images_of_a_size_that_the_network_cannot_take_are_refused(config: TrainConfig, tmp_path: Path) -> None:
    small = config.replace(data_dir=noise(tmp_path / "4", 4), padding=0, cutout=0)
    with pytest.raises(ConfigError, match=r"cannot take images of 4 × 4 pixels \(.*mat1 and mat2.*--resize 32"):
        next(fit_epochs(small, model=nn.Sequential(nn.Flatten(), nn.Linear(3072, 2))))
    large = config.replace(data_dir=noise(tmp_path / "64", 64), model="dilated_cnn", epochs=1)
    assert next(fit_epochs(large)).epoch == 1, "a network that ends in a mean takes any size"


def test_batches_of_one_image_are_refused_where_a_batch_norm_needs_more(config: TrainConfig, tmp_path: Path) -> None:
    tiny = config.replace(data_dir=noise(tmp_path / "8", 8), batch_size=1, epochs=0.05)
    with pytest.raises(ConfigError, match=r"batch_size is 1, .*Expected more than 1 value per channel.*larger one"):
        create_state(tiny)
    assert fit(tiny.replace(batch_size=2, epochs=0.1))[0].train_loss > 0
    without_norm = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    assert fit(tiny, model=without_norm)[0].train_loss > 0
    resized = config.replace(batch_size=1, resize_sizes=(8,), resize_fractions=(0.5,))
    with pytest.raises(ConfigError, match="batch_size is 1"):
        create_state(resized)
    create_state(config.replace(batch_size=1)).close()


def test_the_check_changes_nothing(config: TrainConfig) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(TinyNet(), nn.Dropout(0.5))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with create_state(config.replace(batch_size=1), model=model):
        drawn = torch.rand(3)
    torch.manual_seed(config.runtime.seed)
    assert torch.equal(drawn, torch.rand(3)), "the random numbers of the run are those that its seed gives"
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_weights_of_another_precision_need_amp(config: TrainConfig) -> None:
    create_state(config.replace(amp=True, amp_dtype="bfloat16"), model=TinyNet().bfloat16()).close()
    with pytest.raises(ConfigError, match=r"cannot take .*BFloat16"):
        create_state(config, model=TinyNet().bfloat16())
