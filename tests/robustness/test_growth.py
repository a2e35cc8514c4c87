from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks.harness import Timing
from benchmarks.results import Results
from fastcifar.inference.evaluate import predict_all
from fastcifar.machine import anonymous_bytes
from tests.robustness import growth


@pytest.mark.slow
def test_images_and_batch_sizes_are_measured_in_new_processes(betons: Path, tmp_path: Path) -> None:
    options = Timing(data_dir=betons, device="cpu", rounds=1, out=tmp_path / "out.json")
    growth.growth(options, images=(600, 1200), least=1000)
    runs = Results.read(options.out).runs
    assert [run["images"] for run in runs] == [600, 1200]
    assert all(run["anonymous_bytes"] > 1e7 for run in runs)
    growth.batches(options, sizes=(20,))
    (batch,) = Results.read(options.out).runs
    assert batch["batch_size"] == 20
    assert batch["images_per_second"] == pytest.approx(20 / batch["seconds"])
    assert batch["peak_bytes"] > 1e7


def test_an_evaluation_keeps_few_bytes_per_image_of_any_number_of_classes() -> None:
    batches, size, classes = 25, 1000, 1000
    pixels, held = torch.zeros(1, 3, 32, 32, dtype=torch.uint8), []

    def read(**_: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for _ in range(batches):
            yield pixels.repeat(size, 1, 1, 1), torch.arange(size)

    loader: Any = SimpleNamespace(batches=read, batch_size=size, samples=batches * size)
    classifier: Any = SimpleNamespace(
        train=lambda _: None, fixed_batch_logits=lambda images, *_: torch.eye(classes)[: len(images)]
    )
    predictions = predict_all(classifier, loader, lambda _: held.append(anonymous_bytes()))
    assert predictions.confusion().trace() == predictions.top5_accuracy() * batches * size == batches * size
    assert max(held) - held[4] < 20e6  # all logits would be 100 MB, and all images 77 MB
