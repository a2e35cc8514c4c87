"""FFCV is the version that `ffcv_compat` was written for, has the internals it uses, and stays unpatched."""

from __future__ import annotations

import importlib.metadata
import inspect
import threading
import time
import tomllib
import tracemalloc
from pathlib import Path
from typing import Any

import ffcv.loader.epoch_iterator
import ffcv.loader.loader
import ffcv.memory_managers.os_cache
import ffcv.pipeline.graph
import ffcv.reader
import numba.typed
import numpy as np
import pytest
import torch
from ffcv.fields.basics import IntDecoder
from ffcv.fields.rgb_image import SimpleRGBImageDecoder
from ffcv.loader import Loader, OrderOption
from ffcv.loader.epoch_iterator import EpochIterator
from ffcv.memory_managers.os_cache import OSCacheContext, OSCacheManager
from ffcv.pipeline import Compiler, PipelineSpec
from ffcv.pipeline.allocation_query import allocate_query
from ffcv.pipeline.graph import Graph
from ffcv.reader import Reader
from numba.core import event

from fastcifar import create_loader
from fastcifar.data import ffcv_compat
from fastcifar.data.beton_format import read_index
from fastcifar.data.ffcv_compat import MappedLoader, SafeEpochIterator, preserve_torch_threads
from fastcifar.data.writer import write_beton
from fastcifar.errors import DataError
from fastcifar.machine import usable_cores
from fastcifar.version import FFCV_VERSION


def _mapped(path: Path, *, batch_size: int = 8, workers: int = 1) -> MappedLoader:
    return MappedLoader(path, batch_size=batch_size, workers=workers)


def _ffcvs_own(path: Path) -> Loader:
    pipelines = {"image": [SimpleRGBImageDecoder()], "label": [IntDecoder()]}
    with preserve_torch_threads():
        return Loader(
            str(path), batch_size=8, num_workers=1, os_cache=True, order=OrderOption.SEQUENTIAL, pipelines=pipelines
        )


def test_ffcv_has_the_version_that_this_project_was_written_for() -> None:
    assert importlib.metadata.version("ffcv") == FFCV_VERSION, "read what changed in FFCV, and update ffcv_compat.py"
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert f"ffcv=={FFCV_VERSION}" in project["optional-dependencies"]["ffcv"]


@pytest.mark.parametrize(
    ("function", "parameters"),
    [
        (Reader.__init__, "self fname custom_handlers"),
        (Reader.read_metadata, "self"),
        (Reader.read_allocation_table, "self"),
        (OSCacheContext.__init__, "self manager"),
        (OSCacheManager.__init__, "self reader"),
        (OSCacheManager.compile_reader, "self"),
        (Loader.generate_code, "self"),
        (PipelineSpec.__init__, "self source decoder transforms"),
        (Graph.__init__, "self pipeline_specs handlers fieldname_to_fix metadata memory_read"),
        (Graph.collect_requirements, "self state current_node allocations code source_field"),
        (Graph.codegen_all, "self code"),
        (Compiler.set_num_threads, "n"),
        (EpochIterator.run_pipeline, "self b_ix batch_indices batch_slot cuda_event"),  # as `decode`
    ],
    ids=lambda value: value.__qualname__ if callable(value) else "",
)
def test_the_methods_of_ffcv_that_are_overridden_or_called_have_the_same_parameters(
    function: Any, parameters: str
) -> None:
    assert list(inspect.signature(function).parameters) == parameters.split()


def test_the_objects_of_ffcv_have_the_attributes_that_are_set_or_read(betons: Path) -> None:
    own, mapped = _ffcvs_own(betons / "train.beton"), _mapped(betons / "train.beton")
    assert vars(mapped).keys() - {"_file"} <= vars(own).keys()
    assert vars(mapped.reader).keys() == vars(own.reader).keys()
    assert vars(mapped.memory_manager).keys() <= vars(own.memory_manager).keys()
    assert {"nodes", "id_to_node", "node_to_id"} <= vars(own.graph).keys()
    assert all(node.id == number for number, node in mapped.graph.id_to_node.items())


def test_a_mapped_loader_gives_the_batches_of_ffcvs_own(betons: Path) -> None:
    own, mapped = _ffcvs_own(betons / "train.beton"), _mapped(betons / "train.beton")
    assert np.array_equal(mapped.reader.metadata, own.reader.metadata)
    assert np.array_equal(mapped.reader.alloc_table, own.reader.alloc_table)
    batches = SafeEpochIterator(mapped, own.indices)
    for (images, labels), (expected, expected_labels) in zip(batches, own, strict=True):
        assert np.array_equal(images.permute(0, 2, 3, 1).numpy(), expected)
        assert np.array_equal(labels.numpy(), expected_labels.ravel())
    batches.close()


def test_ffcv_and_numba_are_not_patched() -> None:
    assert ffcv.loader.loader.Reader is Reader
    assert ffcv.loader.loader.OSCacheManager is OSCacheManager
    for owner in (Compiler, Loader, Reader, OSCacheManager, EpochIterator, Graph):
        for name, value in vars(owner).items():
            function = getattr(value, "__func__", value)
            assert not inspect.isfunction(function) or function.__module__.startswith("ffcv."), f"{owner}.{name}"
    assert ffcv.pipeline.graph.allocate_query is allocate_query
    assert torch.cuda.is_available() == ffcv.loader.epoch_iterator.IS_CUDA
    assert numba.typed.Dict is not dict


def test_a_second_loader_compiles_nothing(betons: Path) -> None:
    def read(name: str) -> None:
        with create_loader(betons / name, batch_size=8, train=True, workers=1) as loader:
            list(loader.batches())

    read("train.beton")
    with event.install_recorder("numba:compile") as compilations:
        read("test.beton")
    assert compilations.buffer == []


@pytest.mark.skipif(usable_cores() < 2, reason="needs two cores")
def _double(number: int) -> int:
    return 2 * number


def test_ffcvs_reader_comes_from_numbas_cache(betons: Path) -> None:
    MappedLoader(betons / "train.beton", batch_size=20, workers=1)
    assert ffcv_compat._compiled["reader"].stats.cache_path
    for _ in range(2):
        again = ffcv_compat.compile_cached(_double, numba.int64(numba.int64))
    assert again.stats.cache_hits
    assert again(4) == 8


def test_without_a_folder_for_the_cache_functions_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    njit = numba.njit

    def without_folder(*signature: object, cache: bool = False, **options: object) -> Any:
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return njit(*signature, **options)

    monkeypatch.setattr(numba, "njit", without_folder)
    assert ffcv_compat.compile_cached(_double, numba.int64(numba.int64))(4) == 8


def test_loaders_with_one_thread_and_with_several_have_their_own_code(betons: Path) -> None:
    codes = [_mapped(betons / "train.beton", workers=workers).code for workers in (1, 2, 1, 2)]
    assert codes[0] is codes[2]
    assert codes[1] is codes[3]
    assert codes[0] is not codes[1]


def test_numbas_number_of_threads_is_the_most_that_ffcv_uses(betons: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba.config, "NUMBA_NUM_THREADS", 1)
    decoder = ffcv_compat.FFCVDecoder(
        read_index(betons / "train.beton"), batch_size=50, workers=64, device=torch.device("cpu")
    )
    order = np.arange(100, dtype=np.uint64)
    assert sum(len(labels) for _, labels in decoder.batches(order)) == 100


def test_a_loader_takes_a_few_bytes_of_memory_per_image(tmp_path: Path) -> None:
    count = 100_000
    path = tmp_path / "train.beton"
    write_beton(path, np.zeros((count, 2, 2, 3), np.uint8), np.zeros(count, np.int64), class_names=("a",), name="many")
    with create_loader(path, batch_size=512, train=True):  # imports and compiles
        pass
    tracemalloc.start()
    try:
        with create_loader(path, batch_size=512, train=True) as loader:
            assert len(next(loader.batches())[1]) == 512
            held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 80 * count, "its position, its size and its place in the order"


def test_an_error_in_the_decoding_thread_reaches_the_caller(betons: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: object, indices: object, slot: int) -> object:
        if slot == 2:
            raise RuntimeError("the disk is gone")
        return decode(self, indices, slot)

    decode = SafeEpochIterator.decode
    monkeypatch.setattr(SafeEpochIterator, "decode", broken)
    loader = create_loader(betons / "train.beton", batch_size=8, train=True)
    with pytest.raises(DataError, match=r"train\.beton: FFCV could not decode a batch: .*the disk is gone"):
        list(loader.batches())


def test_a_decoding_thread_that_dies_silently_is_an_error(betons: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SafeEpochIterator, "run", lambda self: None)
    start = time.perf_counter()
    with pytest.raises(DataError, match="ended without an error"):
        list(create_loader(betons / "train.beton", batch_size=8, train=True).batches())
    assert time.perf_counter() - start < 10


def test_a_decoding_thread_that_hangs_is_an_error_after_a_timeout(
    betons: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = threading.Event()
    monkeypatch.setattr(SafeEpochIterator, "run", lambda self: held.wait(60))
    monkeypatch.setattr(ffcv_compat, "BATCH_TIMEOUT_SECONDS", 2)
    with pytest.raises(DataError, match="no batch for 2 s"):
        list(create_loader(betons / "train.beton", batch_size=8, train=True).batches())
    held.set()
