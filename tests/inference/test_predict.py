from __future__ import annotations

import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastcifar.cli import main
from fastcifar.commands.predict import Predict
from fastcifar.data.decode_all import decode_all
from fastcifar.errors import DataError
from fastcifar.inference.evaluate import load_classifier, open_test_loader
from fastcifar.inference.model import predict
from fastcifar.inference.predict import BATCH, classify, find_pictures, predict_pictures

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def run(betons: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short run of a small network, trained under AMP."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    arguments = ["train", "--model", "dilated_cnn", "--data-dir", str(betons), "--batch-size", "50", "--epochs", "3"]
    arguments += ["--no-report"]
    assert main([*arguments, "--amp", "--device", "cpu", "--run-dir", str(folder)]) == 0
    return folder


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A PNG of 50 × 40 pixels."""
    path = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(path)
    return path


def _predictions(capsys: Capture, *arguments: object) -> list[dict]:
    """The JSON lines that the command prints."""
    capsys.readouterr()
    assert main(["predict", *map(str, arguments), "--json", "--device", "cpu"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def _error(capsys: Capture, *arguments: object, code: int = 1) -> str:
    """The one line on the standard error stream."""
    capsys.readouterr()
    assert main(["predict", *map(str, arguments)]) == code
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_pictures_of_the_test_set_get_the_predictions_of_the_evaluation(
    run: Path, betons: Path, tmp_path: Path, capsys: Capture
) -> None:
    images, _ = decode_all(betons / "test.beton")
    for index, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{index:03}.png")
    loaded = load_classifier(run, device="cpu", amp=False)
    with open_test_loader(loaded) as loader:
        expected = torch.cat([logits for logits, _ in predict(loaded.classifier, loader)]).softmax(dim=1)
    shown = _predictions(capsys, run, tmp_path, "--top", "10")
    assert [entry["image"] for entry in shown] == [str(tmp_path / f"{index:03}.png") for index in range(90)]
    for probabilities, entry in zip(expected, shown, strict=True):
        given = {each["class"]: each["probability"] for each in entry["predictions"]}
        wanted = dict(zip(loaded.class_names, probabilities.tolist(), strict=True))
        assert given == pytest.approx(wanted, abs=1e-5)
        assert list(given.values()) == sorted(given.values(), reverse=True)
        assert math.fsum(given.values()) == pytest.approx(1, abs=1e-5)


def test_pictures_of_any_size_and_mode_are_resized(run: Path, picture: Path, tmp_path: Path, capsys: Capture) -> None:
    with Image.open(picture) as image:
        small = np.array(image.resize((32, 32), Image.Resampling.BICUBIC))
        image.convert("L").save(tmp_path / "grey.jpg")
        image.convert("RGBA").save(tmp_path / "transparent.webp", lossless=True)
        image.resize((3000, 20)).save(tmp_path / "long.bmp")
        image.quantize(16).save(tmp_path / "palette.png")
        turned = image.transpose(Image.Transpose.ROTATE_90)
        exif = Image.Exif()
        exif[0x0112] = 6  # the camera was held upright: turn by 270°
        turned.save(tmp_path / "turned.png", exif=exif)
    (expected,) = classify(load_classifier(run, device="cpu", amp=False), small[None], top=3)
    others = ("grey.jpg", "transparent.webp", "long.bmp", "palette.png", "turned.png")
    shown = _predictions(capsys, run, picture, *(tmp_path / name for name in others), "--top", 3)
    assert all(len(entry["predictions"]) == 3 for entry in shown)
    for index in (0, 2, 5):
        given = {each["class"]: each["probability"] for each in shown[index]["predictions"]}
        assert given == pytest.approx({each.class_name: each.probability for each in expected}, abs=1e-6)


def test_a_folder_stands_for_its_sorted_pictures(run: Path, picture: Path, tmp_path: Path, capsys: Capture) -> None:
    folder = tmp_path / "folder"
    (folder / "b").mkdir(parents=True)
    names = ["a.PNG", "b/deep.jpeg", "c.webp"]
    with Image.open(picture) as image:
        for name in [*names, ".hidden.png"]:
            image.save(folder / name)
    (folder / "notes.txt").write_text("no picture, and not read")
    shown = _predictions(capsys, run, picture, folder)
    assert [entry["image"] for entry in shown] == [str(picture), *(str(folder / name) for name in names)]
    assert len(shown[0]["predictions"]) == 5, "five classes by default"


def test_a_picture_comes_from_the_standard_input(
    run: Path, picture: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(picture.read_bytes())))
    from_input, from_file = _predictions(capsys, run, "-", picture)
    assert from_input == {"image": "-", "predictions": from_file["predictions"]}


def test_each_picture_is_shown_with_its_classes(run: Path, picture: Path, capsys: Capture) -> None:
    (entry,) = _predictions(capsys, run, picture, "--checkpoint", "best")
    assert main(["predict", str(run), str(picture), "--checkpoint", "best", "--device", "cpu"]) == 0
    shown = capsys.readouterr().out
    for each in entry["predictions"]:
        assert each["class"] in shown
        assert f"{100 * each['probability']:.2f} %" in shown


@pytest.mark.parametrize("json_lines", [True, False])
def test_unreadable_pictures_are_named_after_the_rows_of_all_others(
    json_lines: bool, run: Path, picture: Path, tmp_path: Path, capsys: Capture
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for number in range(200):
        (folder / f"{number:03}.png").write_bytes(picture.read_bytes())
    (folder / "042b.png").write_bytes(picture.read_bytes()[:100])
    (folder / "zzz.png").symlink_to(tmp_path / "missing.png")
    capsys.readouterr()
    assert main(["predict", str(run), str(folder), "--device", "cpu", *(["--json"] if json_lines else [])]) == 1
    out, err = capsys.readouterr()
    names = [json.loads(line)["image"] for line in out.splitlines()] if json_lines else out.splitlines()[::6]
    assert names == [str(folder / f"{number:03}.png") for number in range(200)]
    first, second = err.splitlines()
    assert first.startswith(f"fastcifar: {folder / '042b.png'}: is not a picture that can be read (")
    assert second.startswith(f"fastcifar: {folder / 'zzz.png'}: is not a picture that can be read (")


def test_rows_come_before_later_pictures_are_read(run: Path, picture: Path, tmp_path: Path) -> None:
    loaded = load_classifier(run, device="cpu", amp=False)
    predictions = predict_pictures(loaded, [picture] * BATCH + [tmp_path / "missing.png"])
    assert [next(predictions).image for _ in range(BATCH)] == [str(picture)] * BATCH
    with pytest.raises(DataError, match=r"missing\.png"):
        next(predictions)


def test_numbered_pictures_become_a_submission_in_the_order_of_their_numbers(
    run: Path, betons: Path, tmp_path: Path, capsys: Capture
) -> None:
    folder, table = tmp_path / "test", tmp_path / "submission.csv"
    folder.mkdir()
    for number, image in enumerate(decode_all(betons / "test.beton")[0][:12], start=1):
        Image.fromarray(image).save(folder / f"{number}.png")
    shown = {Path(entry["image"]).stem: entry["predictions"][0] for entry in _predictions(capsys, run, folder)}
    assert main(["predict", str(run), str(folder), "--out", str(table), "--device", "cpu"]) == 0
    assert capsys.readouterr().out == f"{table}: 12 rows with the columns id, label\n"
    assert table.read_text().splitlines() == [
        "id,label", *(f"{number},{shown[str(number)]['class']}" for number in range(1, 13))
    ]  # fmt: skip


def test_a_table_of_other_pictures_has_their_paths_and_says_which_rows_are_missing(
    run: Path, picture: Path, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "2.png").write_bytes(b"")
    table = tmp_path / "table.csv"
    (entry,) = _predictions(capsys, run, picture)
    assert main(["predict", str(run), str(tmp_path), "--out", str(table), "--device", "cpu"]) == 1
    best = entry["predictions"][0]
    rows = ["path,label,confidence", f"{picture},{best['class']},{best['probability']:.6f}"]
    assert table.read_text().splitlines() == rows
    unreadable, missing = capsys.readouterr().err.splitlines()
    assert unreadable.startswith(f"fastcifar: {tmp_path / '2.png'}: is not a picture")
    assert missing == f"{table}: 1 of 2 images have no row"


def test_progress_is_reported_for_all_pictures_unless_the_rows_are_on_a_terminal(
    run: Path, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, reports = load_classifier(run, device="cpu", amp=False), []
    rows = list(predict_pictures(loaded, [picture] * (BATCH + 1), on_progress=reports.append))
    assert [(report.done, report.total) for report in reports] == [(0, BATCH + 1), (BATCH, BATCH + 1)]
    assert len(rows) == BATCH + 1
    assert Predict(folder=run, images=(picture,)).shows_progress
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert not Predict(folder=run, images=(picture,)).shows_progress
    assert Predict(folder=run, images=(picture,), out=run / "a.csv").shows_progress


def test_hidden_files_and_those_of_systems_are_passed_over(run: Path, picture: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    for name in ("good", ".ipynb_checkpoints", "__MACOSX", "@eaDir", "good/$RECYCLE.BIN", "good/lost+found"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "a.png").write_bytes(picture.read_bytes())
    (folder / "Thumbs.db").touch()
    (folder / "photo.heic").touch()
    found = find_pictures([folder])
    assert found.pictures == [folder / "good" / "a.png"]
    assert found.others == [folder / "photo.heic"]
    assert find_pictures([folder / "__MACOSX" / "a.png"]).pictures == [folder / "__MACOSX" / "a.png"]


def test_names_that_are_not_utf_8_are_shown(run: Path, picture: Path, tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "caf\udce9.png"
    file.write_bytes(picture.read_bytes())
    (entry,) = _predictions(capsys, run, file)
    assert entry["image"] == f"{tmp_path}/caf\\xe9.png"
    assert main(["predict", str(run), str(file), "--device", "cpu"]) == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path}/caf\\xe9.png\n")


def test_bad_input_is_one_line_that_names_it(
    run: Path, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    text, cut, empty = tmp_path / "text.png", tmp_path / "cut.png", tmp_path / "empty"
    text.write_text("no picture")
    cut.write_bytes(picture.read_bytes()[:500])
    empty.mkdir()
    for bad in (text, cut):
        assert f"{bad}: is not a picture that can be read" in _error(capsys, run, picture, bad, "--device", "cpu")
    assert f"{tmp_path / 'none.png'}: no such file" in _error(capsys, run, tmp_path / "none.png")
    assert f"{empty}: the folder has no picture that can be read" in _error(capsys, run, empty)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"")))
    assert "standard input: is not a picture that can be read (unknown format)" in _error(capsys, run, "-")
    assert "no such checkpoint" in _error(capsys, empty, picture)
    assert "predictions are written as .csv" in _error(capsys, run, picture, "--out", "a.txt", code=2)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--top", "0", "picture.png"],
        [],
        ["--checkpoint", "first", "picture.png"],
        ["--json", "--out", "a.csv", "picture.png"],
    ],
)
def test_a_wrong_flag_is_a_usage_error(arguments: list[str], run: Path, capsys: Capture) -> None:
    try:
        code = main(["predict", str(run), *arguments])
    except SystemExit as stopped:
        code = stopped.code  # type: ignore[assignment]
    assert code == 2
    assert capsys.readouterr().err


def test_no_more_classes_are_returned_than_there_are(run: Path, pictures: np.ndarray) -> None:
    loaded = load_classifier(run, device="cpu", amp=False)
    likely = classify(loaded, pictures, top=99)
    assert len(likely) == len(pictures)
    assert {each.class_name for each in likely[0]} == set(loaded.class_names)
