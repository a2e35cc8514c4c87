"""`--source` and the .betons that are there must hold the same data, which is checked without reading if possible."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from fastcifar.cli import main
from fastcifar.commands.shared import ensure_betons
from fastcifar.commands.write_beton import WriteBeton
from fastcifar.data import source_check
from fastcifar.data.source_check import check_source, note_unused_source
from fastcifar.errors import DataError
from tests.data.cifar_files import write_image_folder, write_npz, write_picture
from tests.helpers import write_pair

pytestmark = pytest.mark.usefixtures("no_source_variable")


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """An image folder."""
    return write_image_folder(tmp_path / "pets")


@pytest.fixture
def folder(tmp_path: Path, pets: Path) -> Path:
    """A folder with the .betons of `pets`."""
    WriteBeton(source=str(pets), out=tmp_path / "betons").run()
    return tmp_path / "betons"


def test_the_same_source_passes_without_being_read(pets: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_check, "open_source", None)
    check_source(folder, str(pets))
    monkeypatch.chdir(pets.parent)
    check_source(folder, "pets")
    pets.rename(pets.with_name("moved"))
    check_source(folder, "moved")


def test_a_copy_of_the_source_passes_by_its_content(pets: Path, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(pets, tmp_path / "copy", copy_function=shutil.copyfile)
    os.utime(next((tmp_path / "copy").rglob("*.png")), (0, 0))
    check_source(folder, str(tmp_path / "copy"))


@pytest.mark.parametrize("change", ["more pictures", "another folder", "another format"])
def test_another_source_is_refused_and_both_are_named(
    pets: Path, folder: Path, tmp_path: Path, change: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = pets
    if change == "more pictures":
        write_picture(pets / "train" / "ant" / "new.png", 99)
    elif change == "another folder":
        source = write_image_folder(tmp_path / "pets3")
        write_picture(source / "test" / "ant" / "new.png", 99)
    else:
        source = write_npz(tmp_path / "other" / "a.npz")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    capsys.readouterr()
    assert main(["train", "--source", str(source), "--data-dir", str(folder), "--run-dir", str(tmp_path / "run")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{folder}: holds image-folder, written from {pets}, and not what the source {source} has now" in line
    assert f"write-beton --source {source} --out {folder}" in line
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    assert not (tmp_path / "run").exists()


def test_a_source_that_does_not_exist_is_refused_although_there_are_files(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("train", "lr-find"):
        assert main([command, "--source", "/nowhere", "--data-dir", str(folder)]) == 1
        assert "/nowhere: there is no such file or folder" in capsys.readouterr().err


def test_synthetic_images_and_downloads_are_known_by_name(folder: Path, tmp_path: Path) -> None:
    synthetic = write_pair(tmp_path / "synthetic", train=20, test=10)
    check_source(synthetic, "synthetic")
    for wrong in ((synthetic, "download"), (folder, "synthetic"), (folder, "download")):
        with pytest.raises(DataError, match=f"and not what the source {wrong[1]} has now"):
            check_source(*wrong)


def test_files_of_version_1_are_compared_by_their_content(pets: Path, folder: Path, tmp_path: Path) -> None:
    for split in ("train", "test"):
        path = folder / f"{split}.beton.json"
        values = json.loads(path.read_text())
        path.write_text(json.dumps({key: value for key, value in values.items() if not key.startswith("source")}))
    check_source(folder, str(pets))
    with pytest.raises(DataError, match=r"holds image-folder, and not what"):
        check_source(folder, str(write_npz(tmp_path / "a.npz")))


def test_synthetic_images_in_the_default_folder_are_named_if_real_data_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_pair(Path("data/betons"), train=20, test=10)
    ensure_betons(Path("data/betons"), "auto")
    assert note_unused_source(Path("data/betons")) is None
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("FASTCIFAR_DATA", "/data/cifar")
    ensure_betons(Path("data/betons"), "auto")
    (line,) = capsys.readouterr().err.splitlines()
    assert "data/betons holds synthetic images, not the data of FASTCIFAR_DATA, /data/cifar; " in line
    write_pair(Path("mine"), train=20, test=10)
    ensure_betons(Path("mine"), "auto")
    assert capsys.readouterr().err == "", "a folder that was named on purpose"
