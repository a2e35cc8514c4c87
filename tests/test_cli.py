from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import pty
import re
import resource
import select
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastcifar.cli import COMMANDS, main
from fastcifar.commands.train import Train
from fastcifar.data import sources
from fastcifar.data.decode_all import decode_all
from fastcifar.report.console import TrainingConsole
from fastcifar.runs.checkpoint import read_checkpoint
from fastcifar.runs.read import read_metrics
from fastcifar.training.state import create_state

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def run(betons: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short run of the exercise's network."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert main(_train(betons, "--run-dir", str(folder))) == 0
    return folder


def _train(betons: Path, *more: str) -> list[str]:
    given = ["--data-dir", str(betons), "--batch-size", "100", "--epochs", "1", "--device", "cpu", "--no-report"]
    return ["train", *given, *more]


def _error(capsys: Capture) -> str:
    """The one line on the standard error stream."""
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("fastcifar: ")
    return lines[0]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["train", "--help"],
        ["evaluate", "--help"],
        ["recipes"],
        ["summary", "dilated_cnn"],
        ["inspect", "TEST.BETON"],
        ["evaluate", "RUN", "--device", "cpu"],
        ["doctor"],
    ],
    ids=" ".join,
)
def test_every_command_prints_in_an_encoding_without_arrows(
    arguments: list[str], run: Path, betons: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = {"RUN": str(run), "TEST.BETON": str(betons / "test.beton")}
    with io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True) as file:
        monkeypatch.setattr(sys, "stdout", file)
        with contextlib.suppress(SystemExit):
            main([paths.get(argument, argument) for argument in arguments])
        assert file.buffer.getvalue().isascii()  # type: ignore[attr-defined]
        assert len(file.buffer.getvalue()) > 100  # type: ignore[attr-defined]


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_lists_every_command(arguments: list[str], capsys: Capture) -> None:
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help(name: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([name, "--help"])
    assert stopped.value.code == 0
    assert f"usage: fastcifar {name}" in capsys.readouterr().out


def _imported(arguments: list[str], modules: set[str]) -> set[str]:
    """Return those of the modules that are imported when commands with these arguments, divided by ';', have run."""
    code = "import itertools, sys\nfrom fastcifar.cli import main\n"
    code += "for last, words in itertools.groupby(sys.argv[1:], ';'.__eq__):\n    assert last or not main([*words])\n"
    code += "print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True, text=True)
    return modules & {*done.stdout.splitlines()[-1].split()}


def test_help_imports_nothing_that_is_slow() -> None:
    assert (
        _imported(["--help"], {"torch", "numpy", "numba", "ffcv", "kornia", "PIL", "rich", "pyarrow", "matplotlib"})
        == set()
    )


def test_training_uncompiled_imports_neither_the_compiler_nor_what_only_reports_and_sources_need(
    betons: Path, tmp_path: Path
) -> None:
    train = ["train", "--no-report", "--epochs", "1", "--batch-size", "20", "--device", "cpu", "--no-compile"]
    train += ["--data-dir", str(betons), "--widths", "8", "16", "16"]
    commands = [
        [*train, "--recipe", "speedrun", "--optimizer", optimizer, "--run-dir", str(tmp_path / optimizer)]
        for optimizer in ("adam", "sgd", "muon")
    ]
    slow = {"torch._dynamo", "torch._inductor", "sympy", "triton", "torchvision", "matplotlib", "pyarrow"}
    assert _imported([*commands[0], ";", *commands[1], ";", *commands[2]], slow) == set()


def test_the_version_is_printed(capsys: Capture) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == "fastcifar 0.2.0\n"


def test_an_unknown_command_is_a_usage_error_with_the_nearest_name(capsys: Capture) -> None:
    assert main(["trian"]) == 2
    assert "did you mean train?" in _error(capsys)


def test_a_dry_run_prints_the_resolved_configuration(capsys: Capture) -> None:
    assert main(["train", "--recipe", "quick", "--epochs", "7", "--no-amp", "--dry-run"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["base_recipe"], shown["epochs"], shown["amp"]) == ("quick", 7, False)


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--recipe", "erra"],
        ["train", "--epochs", "0", "--dry-run"],
        ["train", "--epochs", "many"],
        ["train", "--no-such-flag"],
        ["train", "--padding-mode", "wrap"],
        ["train", "--target-accuracy", "90"],
        ["train", "--max-lr", "-1"],
        ["train", "--resume"],
        ["summary", "--batch-size", "0"],
        ["write-beton", "--resize", "3.5"],
        ["evaluate"],
        ["inspect"],
    ],
)
def test_a_wrong_flag_is_a_usage_error(arguments: list[str], capsys: Capture) -> None:
    try:
        code = main(arguments)
    except SystemExit as stopped:
        code = stopped.code
    assert code == 2
    assert re.search(r"fastcifar [\w-]+ --help|must be", _error(capsys))


@pytest.mark.parametrize("arguments", [["report", ""], ["report", "run", "--out", ""], ["report", "run", "--out="]])
def test_an_empty_argument_is_not_the_current_folder(arguments: list[str], capsys: Capture) -> None:
    assert main(arguments) == 2
    assert "is empty: give it a value, or leave it out" in _error(capsys)


@pytest.mark.parametrize("flag", ["--run-dir", "--data-dir", "--betons"])
def test_a_tilde_is_expanded_in_every_way_to_give_a_path(
    flag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    setting = {"--betons": "data_dir"}.get(flag, flag[2:].replace("-", "_"))
    for arguments in ([f"{flag}=~/x"], [flag, "~/x"], [f"{flag}={tmp_path}/x"]):
        assert main(["train", *arguments, "--dry-run"]) == 0
        assert json.loads(capsys.readouterr().out)[setting] == str(tmp_path / "x")
    for command in (["evaluate", "~/none"], ["train", "--resume=~/none"], ["export", "~/none"]):
        assert main(command) == 1
        assert _error(capsys).startswith(f"fastcifar: {tmp_path / 'none'}")


def test_more_workers_than_cores_are_one_line_and_no_error(
    betons: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(Train, "run", lambda self: len(create_state(self.config).train_loader))
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert main(_train(betons, "--workers", "64", "--model", "dilated_cnn")) == 2
    assert re.fullmatch(
        r"fastcifar: warning: workers is 64, and this process may use \d+: decoding with \d+", _error(capsys)
    )


def test_an_image_folder_becomes_betons_that_can_be_inspected(tmp_path: Path, capsys: Capture) -> None:
    generator = np.random.default_rng(0)
    for split, count in (("train", 3), ("test", 2)):
        for name in ("ant", "bee"):
            folder = tmp_path / "pictures" / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = generator.integers(0, 256, (40 + index, 50, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")
    source, out = str(tmp_path / "pictures"), tmp_path / "out"
    assert main(["write-beton", "--source", source, "--out", str(out)]) == 1
    assert "--resize 32" in _error(capsys)
    assert main(["write-beton", "--source", source, "--out", str(out), "--resize", "32", "--workers", "64"]) == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "test.beton", "test.beton.json", "train.beton", "train.beton.json",
    ]  # fmt: skip
    capsys.readouterr()
    png = tmp_path / "sheet.png"
    assert main(["inspect", str(out / "train.beton"), "--png", str(png)]) == 0
    shown = capsys.readouterr().out
    assert "ant" in shown
    assert "6 images of 32 × 32 × 3" in shown
    with Image.open(png) as sheet:
        pixels = np.asarray(sheet)
    first = decode_all(out / "train.beton")[0][0]
    assert np.array_equal(pixels[4:68:2, 4:68:2], first), "the first picture, each pixel 2 by 2"


def test_train_writes_missing_betons_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    draw = sources.draw_synthetic
    monkeypatch.setattr(sources, "draw_synthetic", lambda seed: draw(train=100, test=50, seed=seed))
    run = tmp_path / "run"
    assert main(_train(tmp_path / "betons", "--source", "synthetic", "--run-dir", str(run))) == 0
    assert (run / "checkpoints" / "last.pt").exists()
    assert "100 images of synthetic" in capsys.readouterr().out


def test_a_run_is_named_by_time_and_recipe(
    betons: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(_train(betons)) == 0
    (run,) = (tmp_path / "runs").iterdir()
    assert run.name.endswith("-era")
    shown = capsys.readouterr().out
    assert "6,573,130" in shown
    assert str(Path("runs") / run.name) in shown


def test_a_training_leaves_its_report_unless_it_kept_the_test_set_out(betons: Path, tmp_path: Path) -> None:
    for name, more, expected in (("plain", (), True), ("tuning", ("--val-fraction", "0.2"), False)):
        run = tmp_path / name
        assert main(_train(betons, "--report", "--run-dir", str(run), *more)) == 0
        assert (run / "report" / "report.html").exists() is expected


def test_evaluate_repeats_the_test_accuracy_of_the_run(run: Path, capsys: Capture) -> None:
    (metrics,) = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for checkpoint in ("best", "last"):
        assert main(["evaluate", str(run), "--checkpoint", checkpoint, "--json"]) == 0
        evaluation = json.loads(capsys.readouterr().out)
        assert evaluation["accuracy"] == pytest.approx(metrics["test_accuracy"])
        assert evaluation["loss"] == pytest.approx(metrics["test_loss"], rel=1e-6)
        assert evaluation["samples"] == 90
        counts = [9] * 10  # the synthetic test set is balanced
        weighted = sum(a * n for a, n in zip(evaluation["class_accuracy"].values(), counts, strict=True)) / 90
        assert weighted == pytest.approx(evaluation["accuracy"])
    assert main(["evaluate", str(run)]) == 0
    assert f"{100 * metrics['test_accuracy']:.2f} %" in capsys.readouterr().out


def test_resume_continues_with_the_runs_own_settings(betons: Path, tmp_path: Path, capsys: Capture) -> None:
    run = tmp_path / "run"
    assert main(_train(betons, "--epochs", "2", "--target-accuracy", "0.000001", "--run-dir", str(run))) == 0
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 1
    assert main(["train", "--resume", str(run), "--epochs", "3"]) == 1
    assert "--epochs" in _error(capsys)
    assert main(["train", "--resume", str(run), "--target-accuracy", "None", "--no-report"]) == 0
    assert re.search(r"^Training takes about \d+ (s|min) on this machine$", capsys.readouterr().out, re.MULTILINE)
    assert [json.loads(line)["epoch"] for line in (run / "metrics.jsonl").read_text().splitlines()] == [1, 2]
    capsys.readouterr()
    assert main(["train", "--resume", str(tmp_path / "none")]) == 1
    assert "is not a run folder" in _error(capsys)


def test_bad_input_ends_in_one_line_and_exit_code_1(betons: Path, tmp_path: Path, run: Path, capsys: Capture) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("not a folder")
    broken = tmp_path / "broken" / "train.beton"
    broken.parent.mkdir()
    for name in ("train.beton", "train.beton.json", "test.beton", "test.beton.json"):
        (broken.parent / name).write_bytes((betons / name).read_bytes())
    os.truncate(broken, 10_000)
    cases = {
        ("write-beton", "--source", str(tmp_path / "none")): "there is no such file or folder",
        ("write-beton", "--source", str(tmp_path / "empty")): "there is no data set in this folder",
        ("write-beton", "--source", "synthetic", "--out", str(tmp_path / "file" / "x")): "a folder is needed",
        ("inspect", str(tmp_path / "none.beton")): "there is no such file",
        ("inspect", str(broken)): "does not fit",
        tuple(_train(broken.parent)): "does not fit",
        tuple(_train(betons, "--run-dir", str(tmp_path / "file"))): "file",
        tuple(_train(betons, "--run-dir", str(run))): "already holds a run",
        ("evaluate", str(tmp_path / "empty")): "no such checkpoint",
    }
    if not torch.cuda.is_available():
        cases[tuple(_train(betons, "--device", "cuda"))] = "sees 0 CUDA devices"
    for arguments, message in cases.items():
        assert main(list(arguments)) == 1, arguments
        assert message in _error(capsys), arguments


def test_settings_that_do_not_fit_machine_or_data_are_usage_errors(betons: Path, capsys: Capture) -> None:
    assert main(_train(betons, "--batch-size", "5000")) == 2
    assert "has 200 images" in _error(capsys)


def test_a_full_disk_is_one_line_and_leaves_no_half_written_file(betons: Path, tmp_path: Path) -> None:
    """No file may grow over 10 MB: writing fails in the middle, as on a full disk."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000_000, 10_000_000))

    out, run = tmp_path / "betons", tmp_path / "run"
    commands = {
        out / "train.beton": ["write-beton", "--source", "synthetic", "--out", str(out)],
        run / "checkpoints" / "last.pt": _train(betons, "--run-dir", str(run)),
    }
    for path, arguments in commands.items():
        command = [sys.executable, "-m", "fastcifar", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit, timeout=300, check=False)
        assert done.returncode == 1
        assert done.stderr.startswith(f"fastcifar: {path}: ")
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert list(path.parent.glob("*")) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGUSR1, 85)])
def test_ctrl_c_and_the_warning_of_a_batch_system_end_a_training_after_a_batch(
    betons: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    more = ["--epochs", "500", "--model", "dilated_cnn", "--requeue-exit-code", "85", "--run-dir", str(tmp_path / "r")]
    command = [sys.executable, "-m", "fastcifar", *_train(betons, *more)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (tmp_path / "r" / "checkpoints" / "last.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(number)
    try:
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == code
    assert re.fullmatch(r"fastcifar: stopped after epoch \d+.*; resume with `fastcifar train --resume .*/r`\n", errors)


def test_a_terminal_that_goes_away_ends_a_training_after_a_batch(betons: Path, tmp_path: Path) -> None:
    run = tmp_path / "r"
    command = [sys.executable, "-m", "fastcifar", *_train(betons, "--epochs", "500", "--run-dir", str(run))]
    process, terminal = pty.fork()
    if not process:
        os.execv(sys.executable, command)
    deadline = time.monotonic() + 120
    while not (run / "checkpoints" / "last.pt").exists() and time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.2)[0]:
            os.read(terminal, 1 << 16)
    os.close(terminal)
    _, status = os.waitpid(process, 0)
    assert os.waitstatus_to_exitcode(status) == 129
    epoch = read_checkpoint(run / "checkpoints" / "last.pt")["progress"]["epochs_done"]
    assert epoch >= len(read_metrics(run)) >= 1


def test_a_write_to_a_closed_terminal_stops_a_run_as_the_signal_does(
    betons: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def gone(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(TrainingConsole, "epoch", gone)
    run = tmp_path / "r"
    assert main(_train(betons, "--epochs", "3", "--run-dir", str(run))) == 129
    assert (
        capsys.readouterr().err == f"fastcifar: stopped after epoch 1; resume with `fastcifar train --resume {run}`\n"
    )
    assert read_checkpoint(run / "checkpoints" / "last.pt")["progress"]["epochs_done"] == 1


def test_a_folder_that_cannot_be_written_to_is_one_line(betons: Path, capsys: Capture) -> None:
    folder = "/proc/self/nothing"  # for root, too
    for arguments in (["write-beton", "--source", "synthetic", "--out", folder], _train(betons, "--run-dir", folder)):
        assert main(arguments) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"fastcifar: {folder}: ")


def test_output_into_a_closed_pipe_gives_no_traceback(betons: Path) -> None:
    command = f"{sys.executable} -m fastcifar inspect {betons / 'train.beton'} | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=120, check=True)
    assert "Traceback" not in done.stderr
    assert "train.beton" in done.stdout


@pytest.mark.parametrize(("arguments", "code"), [("recipes", 0), ("--help", 0), ("train --wrong", 2)])
def test_a_stream_that_was_closed_before_the_start_changes_no_exit_code(arguments: str, code: int) -> None:
    command = [sys.executable, "-c", "import sys; sys.stdout = None; from fastcifar.cli import main; sys.exit(main())"]
    done = subprocess.run([*command, *arguments.split()], check=False, stderr=subprocess.PIPE, text=True)
    assert done.returncode == code
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("open_output", [os.pipe, pty.openpty])
def test_python_does_not_write_to_a_closed_pipe_or_terminal_at_exit(open_output: Callable[[], tuple[int, int]]) -> None:
    reader, writer = open_output()
    os.close(reader)
    command, buffered = [sys.executable, "-m", "fastcifar", "--version"], {**os.environ, "PYTHONUNBUFFERED": ""}
    done = subprocess.run(command, env=buffered, check=False, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert done.returncode in (0, 1)
    assert "Exception ignored" not in done.stderr


def test_doctor_finds_nothing_missing_where_the_tests_run(capsys: Capture) -> None:
    assert main(["doctor"]) == 0
    assert "ffcv" in capsys.readouterr().out
