from __future__ import annotations

import pytest
import torch

from fastcifar import TrainConfig
from fastcifar.errors import TrainingError
from fastcifar.inference.model import ImageClassifier
from tests.helpers import train_tiny


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("not enough memory")])
def test_without_memory_the_batch_size_that_fits_is_named(
    config: TrainConfig, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = ImageClassifier.logits

    def limited(network: ImageClassifier, images: torch.Tensor, size: int | None = None) -> torch.Tensor:
        if len(images) > 10:
            raise error
        return logits(network, images, size)

    monkeypatch.setattr(ImageClassifier, "logits", limited)
    with pytest.raises(TrainingError, match=r"out of memory on cpu with --batch-size 32; .* use --batch-size 8$"):
        train_tiny(config)


def test_another_error_is_not_taken_for_want_of_memory(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("something else")

    monkeypatch.setattr(ImageClassifier, "logits", broken)
    with pytest.raises(RuntimeError, match="something else"):
        train_tiny(config)
