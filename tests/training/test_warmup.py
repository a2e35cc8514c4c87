from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from fastcifar import TrainConfig, fit
from fastcifar.errors import TrainingError
from fastcifar.inference.model import predict
from fastcifar.training import warmup
from fastcifar.training.freezing import freeze
from fastcifar.training.loop import run_epoch
from fastcifar.training.step import train_step
from fastcifar.training.warmup import preserve_state, warm_up
from tests.helpers import tiny_state


def test_the_warm_up_does_not_change_the_state(config: TrainConfig) -> None:
    state = tiny_state(config)
    before = {name: value.clone() for name, value in state.classifier.model.state_dict().items()}
    random = torch.get_rng_state()
    assert warm_up(state).seconds > 0
    assert torch.equal(torch.get_rng_state(), random)
    for name, value in state.classifier.model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_each_of_several_processes_captures_steps_of_its_share(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    captured: list[int] = []

    def capture(_: object, images: Tensor, *__: object) -> None:
        captured.append(len(images))

    monkeypatch.setattr(warmup, "capture_train_steps", capture)
    monkeypatch.setattr(warmup, "capture_evaluations", lambda *_: None)
    state = tiny_state(config.replace(batch_size=32))
    state.classifier.runtime = dataclasses.replace(state.runtime, cuda_graphs=True)
    state.train_loader.own_batch_size = 16  # as with two processes
    warm_up(state)
    assert captured == [16]


@pytest.mark.parametrize(
    ("amp_dtype", "expected"), [(None, [torch.float32]), ("bfloat16", [torch.bfloat16]), ("float16", [])]
)
def test_the_transforms_of_convolutions_are_compiled_for_the_precision_of_the_run(
    amp_dtype: str | None, expected: list[torch.dtype], config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[torch.dtype] = []
    monkeypatch.setattr(warmup, "compiled_kernel", compiled.append)
    warm_up(tiny_state(config.replace(amp=amp_dtype is not None, amp_dtype=amp_dtype or "auto")))
    assert compiled == expected


@pytest.mark.slow
def test_compiled_training_equals_eager_training(config: TrainConfig) -> None:
    accuracies = {}
    for compile_it in (False, True):
        run = config.replace(compile=compile_it, epochs=2, padding=0, flip_p=0.0, cutout=0)
        state = tiny_state(run)
        results = fit(state)
        accuracies[compile_it] = [result.train_loss for result in results]
        assert not any("_orig_mod" in name for name in state.classifier.model.state_dict())
    assert accuracies[True] == pytest.approx(accuracies[False], rel=1e-3)


@pytest.mark.slow
def test_everything_is_compiled_before_the_clock_starts(config: TrainConfig) -> None:
    stages = {"resize_sizes": (16, 24), "resize_fractions": (0.25, 0.5), "freeze": ("0", "1"), "freeze_at": (0.3, 0.8)}
    torch.compiler.reset()  # as in a process of its own: other shapes before would make these dynamic
    state = tiny_state(config.replace(compile=True, epochs=2, tta="flip", whiten=True, **stages))
    warmed_up = warm_up(state)
    assert all(parameter.requires_grad for parameter in state.classifier.model.parameters())
    with torch.compiler.set_stance("fail_on_recompile"):
        run_epoch(state, warmed_up)
        run_epoch(state, warmed_up)
    trained = {name for name, parameter in state.classifier.model.named_parameters() if parameter.requires_grad}
    assert trained == {"5.weight", "5.bias"}


@pytest.mark.slow
def test_compiled_in_bfloat16_every_image_is_evaluated(config: TrainConfig) -> None:
    state = tiny_state(config.replace(compile=True, amp=True, epochs=1))
    fit(state)
    assert sum(len(labels) for _, labels in predict(state.classifier, state.test_loader)) == 90


def test_an_error_of_the_compiler_is_one_line(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastcifar.device.compiler_problem", lambda device_type: None)

    def fail(graph: object, inputs: object) -> None:
        raise OSError("the disk is full\nand more")

    compile_with = torch.compile
    state = tiny_state(config.replace(compile=True))
    state.classifier.model.compile(backend=fail)
    monkeypatch.setattr(torch, "compile", lambda function, **_: compile_with(function, backend=fail))
    with pytest.raises(TrainingError, match=r"^torch.compile fails \(OSError: the disk is full\); .*--no-compile$"):
        warm_up(state)


def test_the_state_is_restored_after_an_error_in_the_warm_up(config: TrainConfig) -> None:
    state = tiny_state(config)
    before = {name: value.clone() for name, value in state.classifier.model.state_dict().items()}
    random = torch.get_rng_state()

    def fail_in_warm_up() -> None:
        with preserve_state(state):
            freeze(state.classifier.model, ("0", "1"))
            state.classifier.train()
            images = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8)
            train_step(state, images, torch.zeros(8, dtype=torch.int64))
            raise RuntimeError("the compiler failed")

    with pytest.raises(RuntimeError, match="the compiler failed"):
        fail_in_warm_up()
    assert torch.equal(torch.get_rng_state(), random)
    assert all(parameter.requires_grad for parameter in state.classifier.model.parameters())
    for name, value in state.classifier.model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert state.nonfinite.exceeded() is None
