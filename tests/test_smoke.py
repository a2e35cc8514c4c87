"""A short test of each part, from data to prediction: `pytest -m smoke`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from fastcifar import create_augmentation, create_loader, create_model, fit, get_recipe, load_checkpoint
from fastcifar.cli import main
from fastcifar.recipes import RECIPES
from fastcifar.training.resume import restore
from fastcifar.training.state import create_state

pytestmark = pytest.mark.smoke

TINY = ["--model", "dilated_cnn", "--batch-size", "50", "--device", "cpu"]


@pytest.fixture(scope="module")
def run(betons: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of one short epoch."""
    folder = tmp_path_factory.mktemp("smoke") / "run"
    arguments = ["train", "--epochs", "1", "--data-dir", str(betons), "--run-dir", str(folder), "--no-report", *TINY]
    assert main(arguments) == 0
    return folder


def test_help_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "train" in capsys.readouterr().out


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_valid(name: str) -> None:
    config = get_recipe(name)
    assert type(config).from_json(config.to_json()) == config


def test_a_batch_goes_from_disk_to_a_loss(betons: Path) -> None:
    with create_loader(betons / "train.beton", batch_size=20, train=True) as loader:
        images, labels = next(loader.batches(0))
    logits = create_model("speed_cnn")(create_augmentation()(images))
    torch.nn.functional.cross_entropy(logits, labels).backward()
    assert logits.shape == (20, 10)


def test_a_run_leaves_its_folder(run: Path) -> None:
    assert {path.name for path in run.iterdir()} >= {"config.json", "environment.json", "metrics.jsonl", "checkpoints"}
    (line,) = (run / "metrics.jsonl").read_text().splitlines()
    assert 0 <= json.loads(line)["test_accuracy"] <= 1


def test_a_run_is_evaluated(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run), "--json"]) == 0
    (line,) = (run / "metrics.jsonl").read_text().splitlines()
    assert json.loads(capsys.readouterr().out)["accuracy"] == pytest.approx(json.loads(line)["test_accuracy"])


def test_a_picture_is_classified(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (40, 30), "red").save(tmp_path / "red.png")
    assert main(["predict", str(run), str(tmp_path / "red.png"), "--json", "--top", "1"]) == 0
    assert len(json.loads(capsys.readouterr().out)["predictions"]) == 1


def test_a_checkpoint_is_loaded_and_resumed(run: Path, betons: Path) -> None:
    model, config = load_checkpoint(run)
    with create_state(config) as state:
        assert restore(run, state) is None
        assert state.epochs_done == 1
        assert torch.equal(next(iter(model.parameters())), next(iter(state.classifier.model.parameters())))


def test_fit_trains_to_the_end(betons: Path) -> None:
    results = fit(get_recipe("era", model="dilated_cnn", data_dir=betons, batch_size=100, epochs=2, device="cpu"))
    assert [result.epoch for result in results] == [1, 2]
