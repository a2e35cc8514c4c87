"""Damage to each small file that the package reads: it is refused with the package's error, or read as valid values."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastcifar import TrainConfig
from fastcifar.data.manifest import Manifest, manifest_path, read_manifest
from fastcifar.data.sources import open_source
from fastcifar.errors import CheckpointError, DataError, FastCifarError
from fastcifar.runs.checkpoint import read_checkpoint, save_checkpoint
from fastcifar.runs.read import read_config, read_environment, read_metrics
from tests.data.cifar_files import (
    write_binary,
    write_cifar100_binary,
    write_kaggle,
    write_npz,
    write_parquet,
    write_python,
)
from tests.helpers import write_pair
from tests.robustness.damage import edited, mutations
from tests.runs.examples import result, write_run

EXAMPLES = settings(max_examples=100, report_multiple_bugs=False)


def read_damaged(data: st.DataObject, path: Path, read: Callable[[], Any], error: type[FastCifarError]) -> Any:
    """Damage a file, read it, and restore it. Return None if it is refused with `error`."""
    content = path.read_bytes()
    path.write_bytes(edited(content, data.draw(mutations(content))))
    try:
        return read()
    except error:
        return None
    finally:
        path.write_bytes(content)


@pytest.fixture(scope="module")
def beton(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pair(tmp_path_factory.mktemp("betons"), train=20, test=10) / "train.beton"


@EXAMPLES
@given(data=st.data())
def test_a_damaged_manifest_is_refused_or_valid(beton: Path, data: st.DataObject) -> None:
    found = read_damaged(data, manifest_path(beton), lambda: read_manifest(beton), DataError)
    assert found is None or isinstance(found, Manifest)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run"), results=[result(1), result(2)])


@EXAMPLES
@given(data=st.data(), file=st.sampled_from(["config.json", "environment.json", "metrics.jsonl"]))
def test_a_damaged_file_of_a_run_is_refused_or_valid(run: Path, data: st.DataObject, file: str) -> None:
    read: dict[str, Callable[[Path], Any]] = {
        "config.json": read_config, "environment.json": read_environment, "metrics.jsonl": read_metrics
    }  # fmt: skip
    found = read_damaged(data, run / file, lambda: read[file](run), CheckpointError)
    if isinstance(found, TrainConfig):
        assert TrainConfig.from_json(json.loads(json.dumps(found.to_json()))) == found
    elif isinstance(found, list):
        assert len(found) <= 2


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoints") / "last.pt"
    values = {"config": TrainConfig().to_json(), "model": {"weight": torch.arange(6.0)}, "class_names": ["a", "b"]}
    save_checkpoint(path, {**values, "progress": {"epochs_done": 1}, "random": torch.get_rng_state()})
    return path


@EXAMPLES
@given(data=st.data())
def test_a_damaged_checkpoint_is_refused_or_unchanged(checkpoint: Path, data: st.DataObject) -> None:
    saved = read_checkpoint(checkpoint)
    found = read_damaged(data, checkpoint, lambda: read_checkpoint(checkpoint), CheckpointError)
    assert found is None or repr(found) == repr(saved), "the hash in the file detects other values"


@EXAMPLES
@given(data=st.data())
def test_a_checkpoint_with_a_damaged_pickle_in_a_valid_archive_is_refused_or_unchanged(
    checkpoint: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    saved = read_checkpoint(checkpoint)
    path = tmp_path_factory.getbasetemp() / "mutant.pt"
    with zipfile.ZipFile(checkpoint) as before, zipfile.ZipFile(path, "w") as after:
        for name in before.namelist():
            content = before.read(name)
            after.writestr(name, edited(content, data.draw(mutations(content))) if "data.pkl" in name else content)
    try:
        found = read_checkpoint(path)
    except CheckpointError:
        return
    assert repr(found) == repr(saved), "the hash in the file detects other values"


SOURCES: dict[str, Callable[[Path], object]] = {
    "cifar10": write_python,
    "cifar10-binary": write_binary,
    "cifar100-binary": write_cifar100_binary,
    "npz": lambda folder: write_npz(folder / "a.npz"),
    "kaggle": write_kaggle,
    "parquet": lambda folder: write_parquet(folder, names=[f"class {number}" for number in range(10)]),
}


@pytest.mark.parametrize("name", SOURCES)
@EXAMPLES
@given(data=st.data())
def test_a_damaged_source_is_refused_or_has_well_formed_images(
    name: str, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    if name == "parquet":
        pytest.importorskip("pyarrow")
    folder = tmp_path_factory.getbasetemp() / name
    if not folder.exists():
        SOURCES[name](folder)
    path = data.draw(st.sampled_from(sorted(path for path in folder.iterdir() if path.is_file())))
    source_format = name.removesuffix("-binary")
    found = read_damaged(data, path, lambda: open_source(folder, source_format=source_format), FastCifarError)
    for split in (found.train, found.test) if found else ():
        assert split.images.dtype == np.uint8
        assert split.images.shape == (len(split.labels), *found.train.images.shape[1:])
        assert set(split.labels.tolist()) <= set(range(len(found.class_names)))
