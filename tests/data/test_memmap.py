"""The memory map gives the batches of FFCV, and everything runs on it where FFCV is not installed."""

from __future__ import annotations

import importlib.abc
import importlib.metadata
import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastcifar import TrainConfig, create_loader, fit
from fastcifar.cli import main
from fastcifar.data import memmap
from fastcifar.data.beton_format import PAGE_SIZE, read_index
from fastcifar.data.decode_all import decode_all
from fastcifar.data.memmap import MemmapDecoder
from fastcifar.data.writer import write_beton
from fastcifar.errors import ConfigError
from fastcifar.settings import LoaderKind
from tests.data.conftest import NAMES
from tests.helpers import tiny_state


def _noise(path: Path, count: int, height: int, width: int) -> Path:
    generator = np.random.default_rng(count)
    images = generator.integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    labels = generator.integers(0, len(NAMES), count)
    write_beton(path, images, labels, class_names=NAMES, name="noise")
    return path


@pytest.mark.parametrize(("count", "height", "width", "pages"), [(3000, 32, 32, 2), (5, 7, 3, 1), (4, 1000, 900, 2)])
def test_the_batches_are_those_of_ffcv(tmp_path: Path, count: int, height: int, width: int, pages: int) -> None:
    pytest.importorskip("ffcv")
    path = _noise(tmp_path / "train.beton", count, height, width)
    assert len(np.unique(read_index(path).offsets // PAGE_SIZE)) == pages
    chosen = np.random.default_rng(0).permutation(count)[: count * 3 // 4]
    options: dict[str, Any] = {"batch_size": max(2, count // 10), "seed": 1, "indices": chosen, "workers": 1}
    for train, cached in itertools.product([True, False], repeat=2):
        kinds: Sequence[LoaderKind] = ("ffcv", "memmap")
        loaders = [create_loader(path, train=train, loader=kind, cache_on_device=cached, **options) for kind in kinds]
        for epoch in range(2):
            for ffcv, mapped in zip(*(loader.batches(epoch) for loader in loaders), strict=True):
                assert torch.equal(mapped[0], ffcv[0])
                assert torch.equal(mapped[1], ffcv[1])
                assert mapped[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("cache_on_device", [True, False])
def test_training_gives_the_weights_of_ffcv(config: TrainConfig, cache_on_device: bool) -> None:
    pytest.importorskip("ffcv")
    weights = []
    for kind in ("ffcv", "memmap"):
        with tiny_state(config.replace(loader=kind, workers=1, epochs=2, cache_on_device=cache_on_device)) as state:
            fit(state)
            weights.append(state.classifier.model.state_dict())
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name


def test_the_batches_do_not_depend_on_the_number_of_threads(betons: Path) -> None:
    index, order = read_index(betons / "train.beton"), np.random.default_rng(0).permutation(200).astype(np.uint64)
    for workers in (1, 2, 64):
        decoder = MemmapDecoder(index, batch_size=7, workers=workers, device=torch.device("cpu"))
        images, labels = zip(*decoder.batches(order), strict=True)
        assert np.array_equal(torch.cat(images).permute(0, 2, 3, 1), index.images()[order])
        assert np.array_equal(torch.cat(labels), index.labels[order])


def test_an_error_in_a_thread_reaches_the_caller(betons: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: MemmapDecoder, positions: Any) -> Any:
        raise MemoryError("no memory for a batch")

    monkeypatch.setattr(MemmapDecoder, "read", broken)
    with pytest.raises(MemoryError, match="no memory for a batch"):
        list(create_loader(betons / "train.beton", batch_size=8, train=True, loader="memmap").batches())


def test_batches_for_a_gpu_are_copied_from_pinned_memory(betons: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[torch.Tensor] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor)
    monkeypatch.setattr(memmap, "to_device", lambda batches, device: batches)
    index = read_index(betons / "test.beton")
    decoder = MemmapDecoder(index, batch_size=50, workers=1, device=torch.device("cuda:0"))
    batches = list(decoder.batches(np.arange(90, dtype=np.uint64)))
    assert [tensor.shape[0] for tensor in pinned] == [50, 50, 40, 40]
    assert np.array_equal(torch.cat([labels for _, labels in batches]).numpy(), index.labels)


def test_auto_is_the_memory_map_where_ffcv_is_not_installed(no_ffcv: None, file: Path, pictures: np.ndarray) -> None:
    with create_loader(file, batch_size=16, train=False) as loader:
        assert isinstance(loader._decoder, MemmapDecoder)
        assert np.array_equal(torch.cat([images for images, _ in loader.batches()]).permute(0, 2, 3, 1), pictures)
    assert np.array_equal(decode_all(file).images, pictures)


def test_the_file_is_unmapped_when_it_has_been_decoded(no_ffcv: None, file: Path) -> None:
    """Windows refuses to rename a file that is mapped, which the writer does after it has verified the file."""
    decode_all(file)
    assert str(file) not in Path("/proc/self/maps").read_text()


class _Broken(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name == "ffcv":
            raise OSError("libc.so.6: cannot open shared object file")


def test_auto_is_the_memory_map_where_ffcv_cannot_be_loaded(
    no_ffcv: None, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "ffcv"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [_Broken(), *sys.meta_path])
    assert isinstance(create_loader(file, batch_size=16, train=False)._decoder, MemmapDecoder)
    with pytest.raises(ConfigError, match=r"FFCV cannot be imported \(libc\.so\.6: cannot open shared object file\)"):
        create_loader(file, batch_size=16, train=False, loader="ffcv")


def test_auto_is_the_memory_map_where_ffcv_has_another_version(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ffcv")
    monkeypatch.delitem(sys.modules, "fastcifar.data.ffcv_compat", raising=False)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.0.3")
    assert isinstance(create_loader(file, batch_size=16, train=False)._decoder, MemmapDecoder)
    with pytest.raises(ConfigError, match=r"FFCV 0\.0\.3 is installed, and fastcifar uses the internals of 1\.0\.2"):
        create_loader(file, batch_size=16, train=False, loader="ffcv")


def test_ffcv_that_is_asked_for_and_not_installed_is_one_line_with_the_command(
    no_ffcv: None, betons: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--data-dir", str(betons), "--run-dir", str(tmp_path / "run"), "--device", "cpu", "--loader", "ffcv"]
    assert main(["train", "--batch-size", "50", *arguments]) != 0
    (line,) = capsys.readouterr().err.splitlines()
    assert "loader is 'ffcv', but FFCV cannot be imported" in line
    assert "pip install 'fastcifar[ffcv]'" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("trained_with", ["ffcv", "auto"])
def test_a_run_is_evaluated_without_ffcv_whatever_it_was_trained_with(
    trained_with: str, betons: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    run = tmp_path / "run"
    arguments = ["--data-dir", str(betons), "--run-dir", str(run), "--device", "cpu", "--loader", trained_with]
    if trained_with == "ffcv":
        pytest.importorskip("ffcv")
    else:
        request.getfixturevalue("no_ffcv")
    tiny = ["--model", "dilated_cnn", "--batch-size", "50", "--epochs", "1", "--no-report"]
    assert main(["train", *arguments, *tiny]) == 0
    request.getfixturevalue("no_ffcv")
    capsys.readouterr()
    assert main(["evaluate", str(run), "--json"]) == 0
    (line,) = (run / "metrics.jsonl").read_text().splitlines()
    assert json.loads(capsys.readouterr().out)["accuracy"] == pytest.approx(json.loads(line)["test_accuracy"])
    assert sys.modules["ffcv"] is None
