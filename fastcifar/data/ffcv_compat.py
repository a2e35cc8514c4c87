"""Everything that depends on FFCV's internals, written for FFCV 1.0.2: a decoder that starts fast.

FFCV's pipeline decodes into a ring of pinned buffers, in a thread. Each batch is copied out of the ring before its
buffer is used again; on CUDA, the copy to the device is that copy. The table of a file is mapped instead of read, and
the compiled code comes from numba's cache.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numba.typed
import numpy as np
import numpy.typing as npt
import torch

from fastcifar.data.beton_format import BetonIndex
from fastcifar.data.decoder import Batch, WatchedFile, to_device
from fastcifar.data.decoding_thread import SLOTS, DecodingThread
from fastcifar.numba_cache import compile_cached
from fastcifar.version import FFCV_VERSION


@contextmanager
def preserve_torch_threads() -> Iterator[None]:
    """Restore torch's number of threads, which FFCV sets: to 1 on import, and again for each loader."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def without_numba_dict() -> Iterator[None]:
    """Replace `numba.typed.Dict` with a plain dictionary in modules that are imported during the block.

    FFCV stores two constants in such a dictionary when it is imported, and numba takes over a second to compile the
    type. FFCV reads the constants from Python only, so a plain dictionary works. No subclass can change what happens
    on import, so this is a patch; it needs FFCV to be imported here first.
    """
    typed = numba.typed.Dict
    numba.typed.Dict = dict
    try:
        yield
    finally:
        numba.typed.Dict = typed


with preserve_torch_threads(), without_numba_dict():
    from ffcv.fields.basics import IntDecoder
    from ffcv.fields.rgb_image import SimpleRGBImageDecoder
    from ffcv.pipeline import Compiler, PipelineSpec
    from ffcv.pipeline.allocation_query import AllocationQuery
    from ffcv.pipeline.graph import Graph
    from ffcv.reader import Reader

if (_installed := importlib.metadata.version("ffcv")) != FFCV_VERSION:
    raise ImportError(f"FFCV {_installed} is installed, and fastcifar uses the internals of {FFCV_VERSION}")


def allocate(query: AllocationQuery, batch_size: int) -> npt.NDArray[Any]:
    """Allocate the ring's buffers for one operation: [slots, batch size, ...], pinned if CUDA is in use.

    FFCV always tries to pin them, which initialises CUDA also for a loader on the CPU.
    """
    buffers = torch.from_numpy(np.empty((SLOTS, batch_size, *query.shape), dtype=query.dtype))
    return (buffers.pin_memory() if torch.cuda.is_initialized() else buffers).numpy()


@contextmanager
def uncompiled() -> Iterator[None]:
    """Let FFCV use the functions of decoders in the block as they are, instead of compiling them."""
    Compiler.set_enabled(False)
    try:
        yield
    finally:
        Compiler.set_enabled(True)


class MappedReader(Reader):  # type: ignore[misc]  # ffcv has no types
    """FFCV's reader, which maps the table of samples, as FFCV maps the pixels, instead of reading it."""

    def read_metadata(self) -> None:
        offset, count = self.header.dtype.itemsize + self.field_descriptors.nbytes, int(self.num_samples)
        self.metadata = np.asarray(np.memmap(self.file_name, self.metadata_type, mode="r", offset=offset, shape=count))

    def read_allocation_table(self) -> None:
        """Do nothing: the sizes in this table are all the same."""


class RawImageDecoder(SimpleRGBImageDecoder):  # type: ignore[misc]
    """FFCV's decoder of images of one size, without the part for JPEG files.

    FFCV's own calls C functions by their addresses. So numba cannot keep it in its cache, and compiles it in every
    process, in about a second.
    """

    def generate_code(self) -> Any:
        return compiled_image_decoder(parallel=Compiler.num_threads > 1)


class CachedIntDecoder(IntDecoder):  # type: ignore[misc]
    """FFCV's decoder of labels, whose compiled code numba keeps in its cache."""

    def generate_code(self) -> Any:
        return compiled_label_decoder()


@functools.cache
def compiled_image_decoder(*, parallel: bool) -> Any:
    """Compile the function that copies a batch's images from the mapped file to a buffer, in several threads or one."""
    numbers = numba.prange if parallel else range

    def decode(positions: Any, buffer: Any, table: Any, file: Any) -> Any:  # pragma: no cover  # compiled
        image_bytes = buffer.shape[1] * buffer.shape[2] * buffer.shape[3]
        pixels = buffer.reshape(len(buffer), image_bytes)
        for number in numbers(len(positions)):
            start = table[positions[number]]["data_ptr"]
            for index in range(np.uint64(image_bytes)):  # a signed index would be checked, which is slow
                pixels[number, index] = file[start + index]
        return buffer[: len(positions)]

    return compile_cached(decode, numba.njit, nogil=True, parallel=parallel)


@functools.cache
def compiled_label_decoder() -> Any:
    """Compile FFCV's function that copies a batch's labels."""
    return compile_cached(IntDecoder().generate_code(), numba.njit, nogil=True)


class MappedPipeline:
    """FFCV's pipeline from a mapped file to raw images and integer labels, without its loader.

    FFCV's `Loader` also creates a memory manager, with two dictionaries of 600 bytes per image.
    """

    def __init__(self, path: Path, *, batch_size: int, workers: int) -> None:
        self.batch_size, self.workers = batch_size, workers
        reader = MappedReader(os.fspath(path))
        self._table, self._file = reader.metadata, np.memmap(path, np.uint8, mode="r")
        decoders = dict(zip(reader.field_names, (RawImageDecoder(), CachedIntDecoder()), strict=True))
        graph = Graph(
            {field: PipelineSpec(field, decoder=decoder) for field, decoder in decoders.items()},
            reader.handlers,
            {field: number for number, field in enumerate(decoders)},
            self._table,
            memory_read=None,  # `RawImageDecoder` reads by itself
        )
        with preserve_torch_threads(), uncompiled():
            Compiler.set_num_threads(workers)
            needed, code = graph.collect_requirements()
            self._stages, self._outputs = graph.codegen_all(code)
        self._needed: dict[int, AllocationQuery] = needed["operation"]

    def allocate(self) -> dict[str, npt.NDArray[Any]]:
        """Return the ring's buffers of each decoder, by the names that FFCV's generated code gives them."""
        return {f"memory_{node}": allocate(query, self.batch_size) for node, query in self._needed.items()}

    def decode(self, indices: npt.NDArray[np.uint64], buffers: dict[str, npt.NDArray[Any]], slot: int) -> Batch:
        """Decode a batch into the ring's buffers `slot`: images [B, 3, H, W], channels-last, and labels [B]."""
        numba.set_num_threads(self.workers)
        values = {name: buffer[slot][: len(indices)] for name, buffer in buffers.items()}
        values |= {f"shared_{name}": None for name in buffers}
        values |= {"batch_indices": indices, "storage_state": self._file, "metadata": self._table}
        for decode_stage, nodes in self._stages:
            results = decode_stage(**values)
            values |= {f"result_{node}": result for node, result in zip(nodes, results, strict=True)}
        images, labels = (torch.from_numpy(values[f"result_{node}"]) for node in self._outputs)
        return images.permute(0, 3, 1, 2), labels.view(-1)


class FFCVDecoder:
    """Decodes a .beton with FFCV's compiled code; see `Decoder`. Its threads share each batch."""

    def __init__(self, index: BetonIndex, *, batch_size: int, workers: int, device: torch.device) -> None:
        workers = min(workers, numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
        self._file = WatchedFile(index.path)
        self._pipeline = MappedPipeline(index.path, batch_size=batch_size, workers=workers)
        self._device = device

    def warm_up(self) -> None:
        """Compile the decoders without reading an image."""
        self.decode(np.empty(0, dtype=np.uint64), self._pipeline.allocate(), slot=0)

    def batches(self, order: npt.NDArray[np.uint64]) -> Generator[Batch, None, None]:
        """Yield the images at these positions in the file, as `Decoder.batches` does."""
        size, buffers = self._pipeline.batch_size, self._pipeline.allocate()
        parts = [order[start : start + size] for start in range(0, len(order), size)]
        thread = DecodingThread(self._file.path, parts, lambda part, slot: self.decode(part, buffers, slot))
        try:
            yield from to_device(thread, self._device) if self._device.type == "cuda" else _clone(thread)
            self._file.check_unchanged()
        finally:
            thread.close()

    def decode(self, positions: npt.NDArray[np.uint64], buffers: dict[str, npt.NDArray[Any]], slot: int) -> Batch:
        """Decode one batch, unless the file was changed, as `MappedPipeline.decode` does.

        Raises:
            DataError: the file was changed while it was in use.
        """
        self._file.check_unchanged()
        return self._pipeline.decode(positions, buffers, slot)


def _clone(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Yield copies of the batches, so that they stay valid when the ring's buffers are used again."""
    for images, labels in batches:
        yield images.clone(), labels.clone()
