"""Helpers shared by the tests: a tiny network, small data sets, a check for host-device waits."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from fastcifar import EpochResult, TrainConfig, fit
from fastcifar.data.synthetic import SHAPES, draw_synthetic
from fastcifar.data.writer import write_beton
from fastcifar.device import seed_everything
from fastcifar.training.state import TrainState, create_state


class TinyNet(nn.Sequential):
    """Images [B, 3, H, W] to logits [B, 10], in a fraction of a millisecond per image."""

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
    """Write train.beton and test.beton of synthetic images, and return their folder."""
    splits = draw_synthetic(train=train, test=test, seed=seed)
    for split, (images, labels) in zip(("train", "test"), splits, strict=True):
        write_beton(folder / f"{split}.beton", images, labels, class_names=tuple(SHAPES), name="synthetic")
    return folder


@contextmanager
def no_wait_for_the_device() -> Iterator[None]:
    """Make every call that waits for the GPU raise."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that it does not notice every such call
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


BUILT_FOR = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120")
"""The architectures in the wheels of torch 2.15."""


def imitate_gpus(
    monkeypatch: pytest.MonkeyPatch, *capabilities: tuple[int, int], built_for: tuple[str, ...] = BUILT_FOR
) -> None:
    """Make torch's queries answer as on a machine with GPUs of these compute capabilities. Nothing can run on them."""
    answers: dict[str, Any] = {
        "is_available": lambda: True,
        "device_count": lambda: len(capabilities),
        "current_device": lambda: 0,
        "get_arch_list": lambda: list(built_for),
        "get_device_capability": lambda index=0: capabilities[index],
        "get_device_name": lambda index=0: "GPU of a test",
        "get_device_properties": lambda index=0: SimpleNamespace(name="GPU of a test", total_memory=16e9),
    }
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, answer)


def tiny_state(config: TrainConfig) -> TrainState:
    """The state of a run of `TinyNet`, whose weights come from the run's seed."""
    seed_everything(config.runtime.seed)
    return create_state(config, model=TinyNet())


def train_tiny(config: TrainConfig, **options: Any) -> list[EpochResult]:
    """Train `TinyNet`, whose weights come from the run's seed, and return the results."""
    seed_everything(config.runtime.seed)
    return fit(config, model=TinyNet(), **options)
