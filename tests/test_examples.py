from __future__ import annotations

import colorsys
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastcifar import get_recipe
from fastcifar.cli import main
from fastcifar.data.images import Images
from fastcifar.data.writer import write_beton
from fastcifar.training.loop import fit

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted(path.name for path in (ROOT / "examples").glob("*.py"))
NAMES = ("red", "orange", "yellow", "green", "teal", "cyan", "blue", "violet", "magenta", "pink")
Capture = pytest.CaptureFixture[str]


def draw_colors(count: int, seed: int) -> tuple[Images, np.ndarray]:
    """uint8 [count, 32, 32, 3] of one noisy color per class, which a network learns in 20 steps, and int64 labels."""
    labels = np.arange(count) % len(NAMES)
    colors = np.array([colorsys.hsv_to_rgb(label / len(NAMES), 1.0, 0.8) for label in range(len(NAMES))])
    noise = np.random.default_rng(seed).normal(0, 20, (count, 32, 32, 3))
    return np.clip(255 * colors[labels][:, None, None] + noise, 0, 255).astype(np.uint8), labels


@pytest.fixture(scope="module")
def colors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with .beton files of 320 training and 50 test images."""
    folder = tmp_path_factory.mktemp("colors")
    for seed, (split, count) in enumerate({"train": 320, "test": 50}.items()):
        write_beton(folder / f"{split}.beton", *draw_colors(count, seed), class_names=NAMES, name="colors")
    return folder


def run_example(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, f"examples/{name}", *map(str, arguments)]
    return subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["own_loop.py", "timm_model.py", "lightning_trainer.py"])
def test_an_example_trains_and_prints_the_accuracy(name: str, colors: Path) -> None:
    options = ["--model", "test_resnet"] if name == "timm_model.py" else []  # the smallest ResNet of timm
    done = run_example(name, "--data-dir", colors, "--epochs", "2", "--batch-size", "32", *options)
    assert done.returncode == 0, done.stderr
    accuracies = [float(percent) for percent in re.findall(r"test accuracy (\d+\.\d\d)%", done.stdout)]
    assert accuracies, done.stdout
    assert accuracies[-1] >= 50  # chance is 10


@pytest.mark.slow
def test_the_exported_network_classifies_pictures_as_the_checkpoint_does(
    colors: Path, tmp_path: Path, capsys: Capture
) -> None:
    run, pictures = tmp_path / "run", []
    changes = {"model": "speed_cnn", "widths": (16, 32, 64), "epochs": 3, "batch_size": 32}
    fit(get_recipe("era", data_dir=colors, run_dir=run, device="cpu", **changes))
    for image, label in zip(*draw_colors(10, seed=2), strict=True):
        pictures.append(tmp_path / f"{NAMES[label]}.png")
        Image.fromarray(image).resize((48, 40)).save(pictures[-1])
    corner = np.zeros((40, 48, 4), dtype=np.uint8)
    corner[:20, :24] = (200, 40, 40, 255)
    for name, image in {"transparent": corner, "deep": np.arange(1920, dtype=np.uint16).reshape(40, 48) * 34}.items():
        pictures.append(tmp_path / f"{name}.png")
        Image.fromarray(image).save(pictures[-1])
    done = run_example("onnx_classify.py", run, *pictures)
    assert done.returncode == 0, done.stderr
    head, *lines = done.stdout.splitlines()
    assert head.startswith(f"{run / 'export' / 'model.onnx'}: the same predictions")
    assert len(lines) == len(pictures)
    assert main(["predict", str(run), *map(str, pictures), "--json"]) == 0
    for line, text in zip(lines, capsys.readouterr().out.splitlines(), strict=True):
        prediction = json.loads(text)
        likely = ", ".join(f"{each['class']} {each['probability']:.1%}" for each in prediction["predictions"][:3])
        assert line == f"{prediction['image']}: {likely}"


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_a_missing_folder_ends_in_one_line(name: str, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    arguments = [missing, "cat.jpg"] if name == "onnx_classify.py" else ["--data-dir", missing]
    done = run_example(name, *arguments)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"error: {missing}")
    assert "Traceback" not in done.stderr


def test_the_list_of_examples_is_complete() -> None:
    text = (ROOT / "examples" / "README.md").read_text()
    for name in EXAMPLES:
        assert f"[`{name}`]({name})" in text
        assert f"python examples/{name}" in text
