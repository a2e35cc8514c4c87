from __future__ import annotations

import errno
import fcntl
import importlib.metadata
import json
import math
import os
import stat
import subprocess
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import fastcifar
from fastcifar import TrainConfig, fit, fit_epochs
from fastcifar.cli import main
from fastcifar.errors import CheckpointError, FastCifarWarning
from fastcifar.runs.checkpoint import checkpoint_path, read_checkpoint
from fastcifar.runs.folder import RunFolder, source_commit
from fastcifar.runs.read import read_config, read_environment, read_metrics
from fastcifar.runs.results import StepProgress
from fastcifar.training.resume import restore
from tests.helpers import tiny_state, train_tiny
from tests.runs.examples import ENVIRONMENT, result, write_run


def test_a_run_folder_holds_the_whole_run(config: TrainConfig, tmp_path: Path) -> None:
    run = tmp_path / "run"
    results = train_tiny(config.replace(run_dir=run))
    assert sorted(path.name for path in run.iterdir()) == [
        "checkpoints", "config.json", "environment.json", "metrics.jsonl",
    ]  # fmt: skip
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["best.pt", "last.pt", "previous.pt"]
    assert read_config(run) == config.replace(run_dir=run)
    assert read_config(run).base_recipe == "era"
    assert read_metrics(run) == results
    environment = read_environment(run)
    assert environment["data"]["name"] == "synthetic"
    assert environment["versions"]["torch"] == torch.__version__
    assert read_checkpoint(checkpoint_path(run, "best"))["progress"]["epochs_done"] == results[-1].best_epoch
    assert read_checkpoint(checkpoint_path(run, "last"))["progress"]["epochs_done"] == 3


def test_a_clone_that_is_not_installed_knows_its_version(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    installed = importlib.metadata.Distribution.from_name

    def from_name(name: str) -> importlib.metadata.Distribution:
        if name == "fastcifar":
            raise importlib.metadata.PackageNotFoundError(name)
        return installed(name)

    monkeypatch.setattr(importlib.metadata.Distribution, "from_name", from_name)
    train_tiny(config.replace(epochs=1, run_dir=tmp_path))
    assert read_environment(tmp_path)["versions"]["fastcifar"] == fastcifar.__version__
    (tmp_path / "metrics.jsonl").write_text("[]\n")
    with pytest.raises(CheckpointError, match=f"written by {fastcifar.__version__}, read by {fastcifar.__version__}"):
        read_metrics(tmp_path)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"fastcifar {fastcifar.__version__}\n"


def _git(folder: Path, *arguments: str) -> None:
    names = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", *names, *arguments], cwd=folder, check=True, capture_output=True)


def _checkout(folder: Path, package: Path, *, tracked: bool) -> None:
    """Make a git repository in `folder`, and a package in it at `package`; commit the package if it is `tracked`."""
    (package / "runs").mkdir(parents=True)
    (package / "__init__.py").touch()
    _git(folder, "init")
    if tracked:
        _git(folder, "add", str(package))
    _git(folder, "commit", "--allow-empty", "-m", "a")


@pytest.mark.parametrize(
    ("place", "tracked", "known"),
    [
        ("fastcifar", True, True),
        ("fastcifar", False, False),
        (".venv/lib/site-packages/fastcifar", False, False),
        ("vendored/fastcifar", True, False),
    ],
)
def test_the_commit_is_known_only_in_a_checkout_of_fastcifar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, tracked: bool, known: bool
) -> None:
    project, other = tmp_path / "project", tmp_path / "other"
    _checkout(project, project / place, tracked=tracked)
    _checkout(other, other / "package", tracked=True)
    monkeypatch.setattr("fastcifar.runs.folder.__file__", str(project / place / "runs" / "folder.py"))
    for variables in ({}, {"GIT_DIR": str(other / ".git"), "GIT_WORK_TREE": str(other)}):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        commit = source_commit()
        assert (commit is not None) is known
        assert commit != _commit(other)


def _commit(folder: Path) -> str:
    return subprocess.check_output(["git", f"--git-dir={folder / '.git'}", "rev-parse", "HEAD"], text=True).strip()


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP])
def test_a_run_is_whole_on_a_file_system_without_links_folder_flushes_and_locks(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    fsync = os.fsync

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    def flush(file: int) -> None:
        if stat.S_ISDIR(os.fstat(file).st_mode):
            fail()
        fsync(file)

    monkeypatch.setattr(os, "link", fail)
    monkeypatch.setattr(os, "fsync", flush)
    if number != errno.EPERM:
        monkeypatch.setattr(fcntl, "flock", fail)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FastCifarWarning)
        results = train_tiny(config.replace(epochs=2, run_dir=tmp_path))
    assert read_metrics(tmp_path) == results
    epochs = {name: read_checkpoint(checkpoint_path(tmp_path, name))["progress"]["epochs_done"]
              for name in ("best", "previous", "last")}  # fmt: skip
    assert epochs == {"best": results[-1].best_epoch, "previous": 1, "last": 2}
    assert not list(tmp_path.rglob(".*"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FastCifarWarning)
        state = tiny_state(config.replace(epochs=2, run_dir=tmp_path))
        restore(tmp_path, state)
        assert fit(state) == []


def test_a_folder_that_already_holds_a_run_is_not_overwritten(config: TrainConfig, tmp_path: Path) -> None:
    run = config.replace(epochs=1, run_dir=tmp_path / "run")
    train_tiny(run)
    with pytest.raises(CheckpointError, match="already holds a run"):
        train_tiny(run)


def test_checkpoints_within_an_epoch_are_saved_if_wanted(config: TrainConfig, tmp_path: Path) -> None:
    run = config.replace(run_dir=tmp_path, checkpoint_every=2)
    steps: list[int] = []

    def on_step(progress: StepProgress) -> None:
        steps.append(progress.step)
        if len(steps) == 6 + 5:
            raise KeyboardInterrupt  # the process may die at any moment

    with pytest.raises(KeyboardInterrupt):
        fit(tiny_state(run), on_step=on_step)
    last, previous = (read_checkpoint(checkpoint_path(tmp_path, name))["progress"] for name in ("last", "previous"))
    assert (last["epochs_done"], last["epoch_steps_done"], last["step"]) == (1, 4, 10)
    assert (previous["epochs_done"], previous["epoch_steps_done"]) == (1, 2)


def test_two_processes_cannot_train_in_one_folder(config: TrainConfig, tmp_path: Path) -> None:
    run = config.replace(run_dir=tmp_path)
    first = fit_epochs(tiny_state(run))
    next(first)
    state = tiny_state(run)
    restore(tmp_path, state)
    with pytest.raises(CheckpointError, match="another process trains in this folder"):
        next(fit_epochs(state))
    first.close()
    state = tiny_state(run)
    restore(tmp_path, state)
    assert next(fit_epochs(state)).epoch == 2, "the end of the first run released the folder"


def test_each_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    results = [result(1, train_loss=float("nan")), result(2, tta_accuracy=0.75, tta_seconds=1.5)]
    run = write_run(tmp_path / "run", results=results)
    assert repr(read_metrics(run)) == repr(results), "NaN is not equal to itself"
    assert read_environment(run) == ENVIRONMENT
    assert read_config(run) == TrainConfig(epochs=2)


@pytest.mark.parametrize(
    ("file", "key", "value", "message"),
    [
        ("config.json", "max_lr", "high", r"config\.json: max_lr is 'high'"),
        ("config.json", "betas", 1, r"config\.json: there is no setting .betas."),
        ("environment.json", "device", 5, r"environment\.json: Expected `str`, got `int` - at `\$\.device`"),
        ("environment.json", "versions", {"torch": 2}, r"environment\.json: Expected `str`, got `int` - at `\$\.vers"),
        ("environment.json", "data", {"name": "a"}, r"environment\.json: .* missing required field `content_sha256`"),
        ("environment.json", "gpu", "none", r"environment\.json: unknown key gpu"),
        ("metrics.jsonl", "test_loss", "low", r"metrics\.jsonl, line 1: Expected `float`, got `str` - at `\$\.test_l"),
        ("metrics.jsonl", "epoch", None, r"metrics\.jsonl, line 1: Expected `int`, got `null` - at `\$\.epoch"),
        ("metrics.jsonl", "epoch", True, r"metrics\.jsonl, line 1: Expected `int`, got `bool` - at `\$\.epoch`"),
        ("metrics.jsonl", "eval_split", "dev", r"metrics\.jsonl, line 1: Invalid enum value 'dev' - at `\$\.eval_sp"),
        ("metrics.jsonl", "test_f1", 0.5, r"metrics\.jsonl, line 1: unknown key test_f1"),
    ],
)
def test_an_unknown_key_or_a_wrong_type_is_an_error_that_names_file_and_key(
    tmp_path: Path, file: str, key: str, value: Any, message: str
) -> None:
    run = write_run(tmp_path, results=[result(1)])
    (tmp_path / file).write_text(json.dumps({**json.loads((run / file).read_text()), key: value}) + "\n")
    read: dict[str, Any] = {
        "config.json": read_config, "environment.json": read_environment, "metrics.jsonl": read_metrics,
    }  # fmt: skip
    with pytest.raises(CheckpointError, match=message) as caught:
        read[file](run)
    assert "or of another version of fastcifar (written by 9.9.9, read by " in str(caught.value) or (
        file == "environment.json"
    )


@pytest.mark.parametrize("key", ["epoch", "train_loss", "eval_split", "peak_memory_bytes"])
def test_a_missing_metric_is_an_error_that_names_it(tmp_path: Path, key: str) -> None:
    run = write_run(tmp_path, results=[result(1), result(2)])
    first, second = (run / "metrics.jsonl").read_text().splitlines()
    values = json.loads(second)
    del values[key]
    (run / "metrics.jsonl").write_text(f"{first}\n{json.dumps(values)}\n")
    with pytest.raises(CheckpointError, match=rf"metrics\.jsonl, line 2: Object missing required field `{key}`"):
        read_metrics(run)


def test_a_missing_part_of_the_environment_is_an_error_that_names_it(tmp_path: Path) -> None:
    run = write_run(tmp_path, results=[result(1)])
    (run / "environment.json").write_text(json.dumps({"device": "cpu"}))
    with pytest.raises(CheckpointError, match=r"environment\.json: Object missing required field `precision`"):
        read_environment(run)


@pytest.mark.parametrize("content", ["", "[]", "5", "{", "[" * 100_000, "\0\0", "\x80"])
@pytest.mark.parametrize("file", ["config.json", "environment.json"])
def test_a_file_without_a_json_object_is_an_error_that_names_it(tmp_path: Path, file: str, content: str) -> None:
    run = write_run(tmp_path, results=[result(1)])
    (run / file).write_bytes(content.encode("latin-1"))
    with pytest.raises(CheckpointError, match=rf"{file}: .*; it is damaged, or of another version of fastcifar"):
        (read_config if file == "config.json" else read_environment)(run)


def test_only_the_last_line_of_the_metrics_may_be_incomplete(tmp_path: Path) -> None:
    run = write_run(tmp_path, results=[result(1), result(2)])
    first, second = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text(f"{first}\n{second[:50]}")
    assert read_metrics(run) == [result(1)]
    (run / "metrics.jsonl").write_text(f"{first[:50]}\n{second}\n")
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl, line 1: "):
        read_metrics(run)


@given(epochs=st.integers(0, 5), data=st.data())
def test_metrics_that_are_cut_off_anywhere_keep_their_complete_lines(
    tmp_path_factory: pytest.TempPathFactory, epochs: int, data: st.DataObject
) -> None:
    run: Path = tmp_path_factory.mktemp("run")
    lines = [json.dumps(result(epoch).to_json()) + "\n" for epoch in range(1, epochs + 1)]
    text = "".join(lines)
    cut = data.draw(st.integers(0, len(text)))
    (run / "metrics.jsonl").write_text(text[:cut])
    complete = sum(len("".join(lines[: end + 1])) - 1 <= cut for end in range(epochs))
    assert [entry.epoch for entry in read_metrics(run)] == list(range(1, complete + 1))


def test_a_folder_without_the_files_is_not_a_run_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "none", tmp_path / "file"):
        for read in (read_config, read_environment, read_metrics):
            with pytest.raises(CheckpointError, match=f"^{path}: is not a run folder, since it has no "):
                read(path)
    (tmp_path / "config.json").mkdir()
    with pytest.raises(CheckpointError, match=r"config\.json: cannot be read \(Is a directory\)"):
        read_config(tmp_path)


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_a_number_that_is_not_finite_is_null_in_the_file_and_nan_when_it_is_read(tmp_path: Path, number: float) -> None:
    run = write_run(tmp_path, results=[result(1, train_loss=number, test_loss=number)])
    with RunFolder(run).open(TrainConfig(epochs=2), ENVIRONMENT, 1, False):  # writes the lines of finished epochs again
        values = json.loads((run / "metrics.jsonl").read_text(), parse_constant=pytest.fail)
    assert values["train_loss"] is values["test_loss"] is None
    (read,) = read_metrics(run)
    assert math.isnan(read.train_loss)
    assert read.tta_accuracy is None


def test_numbers_of_older_versions_that_are_not_json_are_read(tmp_path: Path) -> None:
    run = write_run(tmp_path, results=[result(1)])
    line = json.loads((run / "metrics.jsonl").read_text()) | {"train_loss": math.nan, "test_loss": math.inf}
    (run / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    (read,) = read_metrics(run)
    assert math.isnan(read.train_loss)
    assert read.test_loss == math.inf
