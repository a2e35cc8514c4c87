"""FFCV is the version that `ffcv_compat` was written for, has the internals it uses, and stays unpatched."""

from __future__ import annotations

import importlib.metadata
import inspect
import tomllib
import tracemalloc
from pathlib import Path
from typing import Any

import ffcv.loader.epoch_iterator
import ffcv.loader.loader
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
from ffcv.pipeline import Compiler, PipelineSpec
from ffcv.pipeline.allocation_query import allocate_query
from ffcv.pipeline.graph import Graph
from ffcv.reader import Reader
from numba.core import event

from fastcifar import create_loader
from fastcifar.data.beton_format import read_index
from fastcifar.data.ffcv_compat import (
    FFCVDecoder,
    MappedReader,
    compiled_image_decoder,
    compiled_label_decoder,
    preserve_torch_threads,
)
from fastcifar.data.writer import write_beton
from fastcifar.version import FFCV_VERSION


def _decoder(path: Path, *, batch_size: int = 8, workers: int = 1) -> FFCVDecoder:
    return FFCVDecoder(read_index(path), batch_size=batch_size, workers=workers, device=torch.device("cpu"))


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
        (SimpleRGBImageDecoder.generate_code, "self"),
        (IntDecoder.generate_code, "self"),
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


def test_ffcvs_reader_has_the_attributes_that_are_set(betons: Path) -> None:
    own, mapped = Reader(str(betons / "train.beton")), MappedReader(str(betons / "train.beton"))
    assert vars(mapped).keys() | {"alloc_table"} == vars(own).keys()
    assert np.array_equal(mapped.metadata, own.metadata)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_decoder_gives_the_batches_of_ffcvs_own_loader(betons: Path, workers: int) -> None:
    own, decoder = _ffcvs_own(betons / "train.beton"), _decoder(betons / "train.beton", workers=workers)
    for (images, labels), (expected, expected_labels) in zip(decoder.batches(own.indices), own, strict=True):
        assert np.array_equal(images.permute(0, 2, 3, 1).numpy(), expected)
        assert np.array_equal(labels.numpy(), expected_labels.ravel())


def test_ffcv_and_numba_are_not_patched() -> None:
    assert ffcv.loader.loader.Reader is Reader
    for owner in (Compiler, Loader, Reader, SimpleRGBImageDecoder, IntDecoder, EpochIterator, Graph):
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


@pytest.mark.parametrize("workers", [1, 2])
def test_the_compiled_decoders_come_from_numbas_cache(betons: Path, workers: int) -> None:
    for _ in range(2):
        for function in (compiled_image_decoder, compiled_label_decoder):
            function.cache_clear()
        _decoder(betons / "train.beton", batch_size=20, workers=workers).warm_up()
    for compiled in (compiled_image_decoder(parallel=workers > 1), compiled_label_decoder()):
        assert (sum(compiled.stats.cache_hits.values()), sum(compiled.stats.cache_misses.values())) == (1, 0)


def test_numbas_number_of_threads_is_the_most_that_ffcv_uses(betons: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba.config, "NUMBA_NUM_THREADS", 1)
    decoder = _decoder(betons / "train.beton", batch_size=50, workers=64)
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
