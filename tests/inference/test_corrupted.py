from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from fastcifar import TrainConfig, fit
from fastcifar.cli import main
from fastcifar.corruptions.kinds import KINDS, corrupt
from fastcifar.data.decode_all import decode_all
from fastcifar.errors import CheckpointError, ConfigError
from fastcifar.inference.corrupted import evaluate_corrupted_files, evaluate_corruptions
from fastcifar.inference.corruption_errors import EXTRA_KINDS, read_corruption_errors
from fastcifar.inference.evaluate import load_classifier
from fastcifar.progress import Progress
from tests.helpers import write_pair

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def betons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 60 training and 30 test images."""
    return write_pair(tmp_path_factory.mktemp("few"), train=60, test=30)


@pytest.fixture(scope="module")
def run(betons: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corrupted") / "run"
    config = TrainConfig(epochs=6, run_dir=folder).replace(
        data_dir=betons, batch_size=20, device="cpu", loader="memmap", model="dilated_cnn", max_lr=0.03
    )
    fit(config)
    return folder


@pytest.fixture(scope="module")
def published(betons: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as CIFAR-10-C's, with the 15 kinds and two of the extra ones, of our own corruptions."""
    folder = tmp_path_factory.mktemp("published")
    images, labels = decode_all(betons / "test.beton")
    pixels, indices = torch.from_numpy(images).permute(0, 3, 1, 2), torch.arange(len(images))
    for kind in KINDS:
        made = [corrupt(pixels, kind, severity, indices=indices, seed=3) for severity in range(1, 6)]
        np.save(folder / f"{kind}.npy", torch.cat(made).permute(0, 2, 3, 1).numpy())
    for kind in ("saturate", "spatter"):
        shutil.copy(folder / "fog.npy", folder / f"{kind}.npy")
    np.save(folder / "labels.npy", np.tile(labels, 5).astype(np.uint8))
    return folder


def test_the_error_is_the_share_of_wrong_predictions_of_corrupted_images(run: Path, betons: Path) -> None:
    seen: list[Progress] = []
    errors = evaluate_corruptions(
        run, kinds=["fog", "shot_noise"], severities=[5, 2], seed=3, device="cpu", on_progress=seen.append
    )
    images, labels = decode_all(betons / "test.beton")
    pixels, classifier = torch.from_numpy(images).permute(0, 3, 1, 2), load_classifier(run, device="cpu").classifier
    assert list(errors.errors) == ["shot_noise", "fog"]
    assert errors.severities == (2, 5)
    for kind, values in errors.errors.items():
        for severity, error in zip((2, 5), values, strict=True):
            with torch.no_grad():
                made = corrupt(pixels, kind, severity, indices=torch.arange(30), seed=3)
                predicted = classifier.logits(made).argmax(dim=1).numpy()
            assert error == pytest.approx((predicted != labels).mean())
        assert errors.mean_errors[kind] == pytest.approx(sum(values) / 2)
    assert errors.mean_corruption_error == pytest.approx(np.mean(list(errors.errors.values())))
    assert (seen[-1].done, seen[-1].total, seen[-1].detail) == (150, 150, "fog 5")


def test_the_errors_do_not_depend_on_the_batches_but_on_the_seed(run: Path) -> None:
    def errors(size: int, seed: int) -> dict[str, tuple[float, ...]]:
        kinds = ["gaussian_noise", "glass_blur", "snow", "elastic_transform"]
        options = {"kinds": kinds, "severities": [2, 5], "seed": seed, "device": "cpu", "eval_batch_size": size}
        return evaluate_corruptions(run, **options).errors

    assert errors(30, 0) == errors(13, 0)
    assert errors(30, 0) != errors(30, 1)


def test_published_files_give_the_errors_of_their_images(run: Path, published: Path) -> None:
    made = evaluate_corruptions(run, seed=3, device="cpu", severities=[2, 4])
    read = evaluate_corrupted_files(run, published, device="cpu", severities=[2, 4])
    assert read.errors == made.errors
    assert read.mean_corruption_error == made.mean_corruption_error
    assert read.clean_error == made.clean_error
    assert not read.is_complete
    assert read.extra_errors == {"spatter": made.errors["fog"], "saturate": made.errors["fog"]}
    assert set(read.extra_errors) < set(EXTRA_KINDS)


def test_published_files_need_no_test_set(run: Path, published: Path, tmp_path: Path) -> None:
    read = evaluate_corrupted_files(run, published, kinds=["spatter"], device="cpu", data_dir=tmp_path)
    assert read.clean_error is None
    assert read.mean_corruption_error is None
    assert read.errors == {}


def test_unknown_kinds_and_severities_are_refused(run: Path, published: Path) -> None:
    with pytest.raises(ConfigError, match="kinds has 'jpeg'; did you mean 'jpeg_compression'"):
        evaluate_corruptions(run, kinds=["jpeg"])
    with pytest.raises(ConfigError, match="kinds has 'spatter'"):
        evaluate_corruptions(run, kinds=["spatter"])
    for severities in ([], [0], [1, 6]):
        with pytest.raises(ConfigError, match="severities is"):
            evaluate_corrupted_files(run, published, severities=severities)


def test_the_command_prints_all_errors_and_saves_them(run: Path, published: Path, capsys: Capture) -> None:
    assert main(["evaluate", str(run), "--device", "cpu", "--corrupt"]) == 0
    shown = capsys.readouterr().out
    saved = read_corruption_errors(run)
    assert saved is not None
    assert saved.is_complete
    assert f"{100 * saved.mean_corruption_error:.2f} %" in shown
    for kind, mean in saved.mean_errors.items():
        row = next(line for line in shown.splitlines() if kind.replace("_", " ").replace("jpeg", "JPEG") in line)
        numbers = [float(cell) for cell in row.strip("│").split("│")[1:]]
        assert numbers == pytest.approx([100 * value for value in (*saved.errors[kind], mean)], abs=0.06)
    assert main(["evaluate", str(run), "--device", "cpu", "--corrupt-dir", str(published)]) == 0
    assert "not in this mean       spatter, saturate" in capsys.readouterr().out
    again = read_corruption_errors(run, "corruptions-published.json")
    assert again is not None
    assert again.folder == str(published)
    assert read_corruption_errors(run) == saved


def test_errors_of_a_part_are_printed_and_do_not_replace_those_of_all(
    run: Path, tmp_path: Path, capsys: Capture
) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    for name in ("corruptions.json", "corruptions-published.json"):
        (copy / name).unlink(missing_ok=True)
    arguments = ["evaluate", str(copy), "--device", "cpu", "--corrupt", "--kinds", "fog", "--severities", "1", "--json"]
    assert main(arguments) == 0
    printed = json.loads(capsys.readouterr().out)
    assert list(printed["errors"]) == ["fog"]
    assert printed["mean_corruption_error"] == printed["errors"]["fog"][0]
    assert read_corruption_errors(copy) is None
    (copy / "corruptions.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"corruptions.json: .*it is damaged"):
        read_corruption_errors(copy)


def test_options_of_corruptions_without_corruptions_are_wrong_usage(run: Path, tmp_path: Path, capsys: Capture) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["evaluate", str(run), "--kinds", "fog"])
    assert "add --corrupt or --corrupt-dir" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["evaluate", str(run), "--corrupt", "--corrupt-dir", str(tmp_path)])
    assert "left out with --corrupt" in capsys.readouterr().err
