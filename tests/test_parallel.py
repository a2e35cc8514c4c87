from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fastcifar import TrainConfig, parallel
from fastcifar.augment import create_augmentation
from fastcifar.cli import main
from fastcifar.data.create import create_loader
from fastcifar.data.synthetic import SHAPES, draw_synthetic
from fastcifar.data.writer import write_beton
from fastcifar.errors import DeviceError
from fastcifar.models.ops.sync_norm import synchronize_norms
from fastcifar.parallel import Processes
from fastcifar.runs.read import read_metrics
from fastcifar.settings import AugmentSettings
from tests.parallel_worker import RECIPES, run_config, train

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def small_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 200 training and 90 test images of 16 × 16 pixels."""
    folder = tmp_path_factory.mktemp("small")
    for split, (images, labels) in zip(("train", "test"), draw_synthetic(train=200, test=90), strict=True):
        smaller = np.ascontiguousarray(images[:, ::2, ::2])
        write_beton(folder / f"{split}.beton", smaller, labels, class_names=tuple(SHAPES), name="synthetic")
    return folder


def start_together(
    *arguments: str, processes: int = 2, restarts: int = 0, module: str = "fastcifar"
) -> subprocess.Popen[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    launcher += [f"--max-restarts={restarts}"]
    command = [sys.executable, *launcher, "-m", module, *arguments]
    environment = {**os.environ, "TORCH_CPP_LOG_LEVEL": "ERROR"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_two_processes_compute_what_one_does(small_images: Path, tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    output, errors = start_together(str(small_images), str(out), module="tests.parallel_worker").communicate()
    assert out.exists(), output + errors
    together = json.loads(out.read_text())
    assert together["orthogonalized"] == [True] * 12
    for recipe in RECIPES:
        alone = train(run_config(recipe, small_images))
        assert len(alone["losses"]) == 50
        assert together[recipe]["losses"] == pytest.approx(alone["losses"], rel=1e-5)
        for key in ("accuracies", "tta_accuracy"):
            assert together[recipe][key] == alone[key]
        for ours, expected, count in zip(together[recipe]["indices"], alone["indices"], (200, 90), strict=True):
            assert sorted(ours) == sorted(expected) == list(range(count))


@pytest.mark.slow
def test_a_run_of_two_processes_leaves_one_folder_and_goes_on_alone(
    betons: Path, tmp_path: Path, capfd: Capture
) -> None:
    run = tmp_path / "run"
    recipe = ["--recipe", "speedrun", "--data-dir", str(betons), "--batch-size", "32", "--epochs", "2", "--no-report"]
    flags = [*recipe, "--checkpoint-every", "1", "--device", "cpu", "--run-dir", str(run)]
    process = start_together("train", *flags)
    while not (run / "metrics.jsonl").exists() or not (run / "metrics.jsonl").read_text():
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)  # torchrun passes it on
    output, _ = process.communicate(timeout=60)
    assert output.count("device ") == 1  # one console
    done = len((run / "metrics.jsonl").read_text().splitlines())
    assert main(["train", "--resume", str(run), "--no-report"]) == 0
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 2 >= done


@pytest.mark.slow
def test_a_killed_process_ends_the_others_and_a_restart_goes_on(betons: Path, tmp_path: Path) -> None:
    run, epochs = tmp_path / "run", 8
    flags = ["--recipe", "speedrun", "--widths", "8", "8", "8", "--batch-size", "32", "--epochs", str(epochs)]
    flags += ["--data-dir", str(betons), "--device", "cpu", "--no-report", "--checkpoint-every", "1"]
    process = start_together("train", *flags, "--run-dir", str(run), "--auto-resume", restarts=1)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while not (run / "checkpoints" / "last.pt").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    first = children.read_text().split()
    os.kill(int(first[-1]), signal.SIGKILL)
    start = time.monotonic()
    while set(first).intersection(children.read_text().split()):
        assert time.monotonic() - start < 30
        time.sleep(0.05)
    output, errors = process.communicate(timeout=90)
    assert process.returncode == 0, errors
    assert errors.count("lost the connection to another process of this run") <= 1
    assert output.count("device ") == 2  # one console per start
    assert [result.epoch for result in read_metrics(run)] == list(range(1, epochs + 1))


PREPARE = """
import sys, time
from fastcifar import parallel
from fastcifar.errors import ProcessError
try:
    with parallel.join("cpu") as processes, processes.first_only("preparation") as is_first:
        print("preparing", flush=True)
        time.sleep(60)
except ProcessError as error:
    sys.exit(str(error))
"""


def test_a_first_process_that_is_killed_while_it_prepares_data_ends_the_others() -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    launcher = {"WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    environment = {**os.environ, **launcher, "TORCH_CPP_LOG_LEVEL": "ERROR"}
    first, second = (
        subprocess.Popen(
            [sys.executable, "-c", PREPARE],
            env={**environment, "RANK": str(rank), "GROUP_RANK": str(rank)},  # as on two machines
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    )
    with first, second:
        assert first.stdout is not None
        assert first.stdout.readline() == "preparing\n"
        first.kill()
        output, error = second.communicate(timeout=20)
    assert (second.returncode, output) == (1, "")
    assert error.startswith("lost the connection to the first process of this run")
    assert len(error.splitlines()) == 1


def test_nproc_starts_the_processes_and_returns_their_exit_code(betons: Path, tmp_path: Path, capfd: Capture) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.pt").touch()
    flags = ["--data-dir", str(betons), "--batch-size", "32", "--device", "cpu", "--run-dir", str(tmp_path)]
    assert main(["train", "--nproc", "2", *flags]) == 1
    error = capfd.readouterr().err
    assert error.count("fastcifar: ") == error.count("already holds a run") == 1
    assert "Traceback" not in error


def test_nproc_that_cannot_divide_a_batch_is_refused_at_once(capsys: Capture) -> None:
    assert main(["train", "--nproc", "100", "--batch-size", "512"]) == 2
    error = "batch_size is 512; it must be a multiple of the 100 processes: choose 500"
    assert error in capsys.readouterr().err


@pytest.mark.parametrize("count", [1, 2, 4])
def test_processes_share_each_batch_and_each_evaluation(betons: Path, count: int) -> None:
    parts = []
    for rank in range(count):
        options: dict[str, Any] = {"batch_size": 32, "processes": Processes(rank, count), "verify": False}
        with (
            create_loader(betons / "train.beton", train=True, seed=3, **options) as trained,
            create_loader(betons / "test.beton", train=False, **options) as tested,
        ):
            assert len(trained) == 6
            parts.append(
                [[indices.numpy() for *_, indices in loader.batches_with_indices(1)] for loader in (trained, tested)]
            )
    whole = [np.concatenate(shares) for shares in zip(*(part[0] for part in parts), strict=True)]
    with create_loader(betons / "train.beton", batch_size=32, train=True, seed=3) as loader:
        assert [list(batch) for batch in whole] == [list(indices) for *_, indices in loader.batches_with_indices(1)]
    evaluated = np.concatenate([batch for part in parts for batch in part[1]])
    assert sorted(evaluated) == list(range(90))


@pytest.mark.parametrize("stock_kornia", [False, True])
def test_processes_augment_a_batch_as_one_does(pictures: np.ndarray, stock_kornia: bool) -> None:
    settings = AugmentSettings(cutout=8, shift_scale_rotate_p=0.5, rotate_p=0.3, stock_kornia=stock_kornia)
    images = torch.from_numpy(pictures).permute(0, 3, 1, 2)
    parts = []
    for rank in range(2):
        torch.manual_seed(1)
        processes = Processes(rank, 2)
        parts.append(create_augmentation(settings, processes=processes)(images[processes.share(len(images))]))
    torch.manual_seed(1)
    assert torch.equal(torch.cat(parts), create_augmentation(settings)(images))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_shared_batch_norm_of_one_process_is_torchs(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.BatchNorm2d(5, momentum=0.3)).to(dtype)
    nn.init.uniform_(plain[0].weight)  # type: ignore[arg-type]
    shared = nn.Sequential(nn.BatchNorm2d(5, momentum=0.3)).to(dtype)
    shared.load_state_dict(plain.state_dict())
    synchronize_norms(shared, torch.device("cpu"))
    gradient = torch.randn(8, 5, 6, 6, dtype=dtype)
    results = []
    for norm in (plain, shared):
        images = torch.linspace(-1, 2, 8 * 5 * 36, dtype=dtype).view(8, 5, 6, 6).sin().requires_grad_()
        output = norm(images)
        output.backward(gradient)
        weight = norm[0].weight
        results.append([output, images.grad, weight.grad, *norm.buffers(), norm.eval()(images)])
    for ours, torchs in zip(*results, strict=True):
        torch.testing.assert_close(ours, torchs, rtol=1e-5, atol=1e-5)


def test_more_processes_than_gpus_are_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(DeviceError, match="this machine has 1 GPUs, for process 2 of it"):
        parallel._choose_gpu()


def test_scale_batch_multiplies_batch_and_learning_rates(config: TrainConfig) -> None:
    from fastcifar.commands.train_lrs import scale_batch

    scaled = scale_batch(config, 4)
    assert scaled.data.batch_size == 4 * config.data.batch_size
    assert scaled.optim.max_lr == 4 * config.optim.max_lr
