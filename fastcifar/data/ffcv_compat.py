"""Everything that depends on FFCV's internals, written for FFCV 1.0.2: loaders that start fast and end safely.

FFCV decodes into a ring of pinned buffers in its own thread. This module adds what FFCV leaves to its caller: each
batch is copied out of the ring before its buffer is used again (on CUDA, the copy to the device is that copy), an error
in the thread is raised in the caller, and leaving an epoch early ends the thread (libffcv/ffcv#345, #372). Loaders map
the tables of a file instead of reading them, and share their compiled decoders.
"""

from __future__ import annotations

import importlib.metadata
import os
import queue
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numba.typed
import numpy as np
import numpy.typing as npt
import torch

from fastcifar.data.beton_format import ALLOCATION, BetonIndex
from fastcifar.data.decoder import BATCHES_AHEAD, Batch, WatchedFile, to_device
from fastcifar.errors import DataError
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
    from ffcv.loader import Loader
    from ffcv.memory_managers.os_cache import OSCacheContext, OSCacheManager
    from ffcv.pipeline import Compiler, PipelineSpec
    from ffcv.pipeline.allocation_query import AllocationQuery
    from ffcv.pipeline.graph import Graph
    from ffcv.reader import Reader

if (_installed := importlib.metadata.version("ffcv")) != FFCV_VERSION:
    raise ImportError(f"FFCV {_installed} is installed, and fastcifar uses the internals of {FFCV_VERSION}")


BATCH_TIMEOUT_SECONDS = 300
"""Seconds to wait for a batch, which takes milliseconds, or for the thread to end."""

_compiled: dict[str, Any] = {}
"""Compiled code that all loaders share. FFCV compiles it for each loader, in most of a second, and numba never frees
the 8 MB of each."""


def allocate(query: AllocationQuery, batch_size: int, slots: int) -> npt.NDArray[Any]:
    """Allocate the ring's buffers for one operation: [slots, batch size, ...], pinned if CUDA is in use.

    FFCV always tries to pin them, which initialises CUDA also for a loader on the CPU.
    """
    buffers = torch.from_numpy(np.empty((slots, batch_size, *query.shape), dtype=query.dtype))
    return (buffers.pin_memory() if torch.cuda.is_initialized() else buffers).numpy()


@contextmanager
def uncompiled() -> Iterator[None]:
    """Let FFCV return its functions in the block as they are, instead of compiling them."""
    Compiler.set_enabled(False)
    try:
        yield
    finally:
        Compiler.set_enabled(True)


def compile_cached(function: Any, signature: Any) -> Any:
    """Compile a function with FFCV's options, or take it from numba's cache on the disk."""
    options: dict[str, Any] = {"nogil": True, "fastmath": True, "error_model": "numpy"}
    try:
        return numba.njit(signature, cache=True, **options)(function)
    except RuntimeError:  # numba found no writable folder for its cache
        return numba.njit(signature, **options)(function)


class MappedReader(Reader):  # type: ignore[misc]  # ffcv has no types
    """FFCV's reader, which maps the tables of a file, as FFCV maps the pixels, instead of reading them."""

    def read_metadata(self) -> None:
        offset = self.header.dtype.itemsize + self.field_descriptors.nbytes
        self.metadata = self._map(self.metadata_type, offset, self.num_samples)

    def read_allocation_table(self) -> None:
        self.alloc_table = self._map(ALLOCATION, self.header["alloc_table_ptr"], self.num_samples)

    def _map(self, dtype: npt.DTypeLike, offset: int, count: int) -> npt.NDArray[np.void]:
        return np.asarray(np.memmap(self.file_name, dtype=dtype, mode="r", offset=int(offset), shape=int(count)))


class MappedManager(OSCacheManager):  # type: ignore[misc]
    """FFCV's access to a mapped file, without the dictionaries from samples to pages and from pages to samples.

    Nothing here uses them. They take 600 bytes per image and most of the time to open a large file.
    """

    def __init__(self, reader: MappedReader) -> None:
        self.reader = reader
        order = np.argsort(reader.alloc_table["ptr"])
        self.ptrs, self.sizes = reader.alloc_table["ptr"][order], reader.alloc_table["size"][order]
        self.context = OSCacheContext(self)

    def compile_reader(self) -> Any:
        """Return the compiled function from an image's offset to its bytes.

        FFCV compiles it in every process, which takes longer than all its other functions; numba's cache keeps it.
        """
        if "reader" not in _compiled:
            with uncompiled():
                read = super().compile_reader()
            _compiled["reader"] = compile_cached(read, numba.uint8[::1](numba.uint64, self.state_type))
        return _compiled["reader"]


class MappedLoader(Loader):  # type: ignore[misc]
    """FFCV's loader of raw images and integer labels from a mapped file, for `SafeEpochIterator`.

    `Loader.__init__` is not called, because it creates FFCV's own reader and memory manager. The attributes set here
    are those that `generate_code` and `SafeEpochIterator` use.
    """

    def __init__(self, path: Path, *, batch_size: int, workers: int) -> None:
        self.fname, self._file = os.fspath(path), WatchedFile(path)
        self.batch_size, self.num_workers = batch_size, workers
        self.code: Any = None
        self.reader = MappedReader(self.fname)
        self.memory_manager = MappedManager(self.reader)
        decoders = dict(zip(self.reader.field_names, (SimpleRGBImageDecoder(), IntDecoder()), strict=True))
        self.graph = Graph(
            {field: PipelineSpec(field, decoder=decoder) for field, decoder in decoders.items()},
            self.reader.handlers,
            {field: number for number, field in enumerate(decoders)},
            self.reader.metadata,
            self.memory_manager.compile_reader(),
        )
        with preserve_torch_threads():
            Compiler.set_num_threads(workers)
        self.generate_code()

    def check_unchanged(self) -> None:
        """Check, in microseconds, that the file is still the same.

        Raises:
            DataError: the file was replaced, removed or written to.
        """
        self._file.check_unchanged()

    def generate_code(self) -> None:
        """Compile the decoders, or take those that an earlier loader compiled."""
        # FFCV numbers the nodes of all graphs of a process, and its code names them: number them alike in every graph
        for number, node in enumerate(self.graph.nodes):
            node.id = number
        self.graph.id_to_node = dict(enumerate(self.graph.nodes))
        self.graph.node_to_id = {node: node.id for node in self.graph.nodes}
        threading = "parallel" if Compiler.num_threads > 1 else "serial"
        if threading not in _compiled:
            super().generate_code()
            _compiled[threading] = self.code
        self.code = _compiled[threading]


class SafeEpochIterator(threading.Thread):
    """The decoding thread of one epoch, which raises its errors in the caller and ends when the caller wants it to.

    Created from a `MappedLoader` and the positions in the file to visit, uint64 [N]; the thread starts at once. FFCV's
    own `EpochIterator` has CUDA streams, which are on the wrong device for "cuda:1" and initialise CUDA for a loader on
    the CPU.
    """

    def __init__(self, loader: MappedLoader, order: npt.NDArray[np.uint64]) -> None:
        super().__init__(daemon=True)
        self.loader, self.terminate_event = loader, threading.Event()
        self.output_queue: queue.Queue[Any] = queue.Queue(BATCHES_AHEAD)
        self._batches = [order[start : start + loader.batch_size] for start in range(0, len(order), loader.batch_size)]
        self._storage = loader.memory_manager.context.__enter__().state
        self._buffers = self._allocate()
        self.start()

    def _allocate(self) -> dict[str, npt.NDArray[Any]]:
        """Return the ring's buffers of each decoder, by the names that FFCV's generated code gives them."""
        needed, _ = self.loader.graph.collect_requirements()
        count, slots = self.loader.batch_size, BATCHES_AHEAD + 2
        return {f"memory_{node}": allocate(query, count, slots) for node, query in needed["operation"].items()}

    def run(self) -> None:
        try:
            numba.set_num_threads(self.loader.num_workers)
            for number, indices in enumerate(self._batches):
                self.loader.check_unchanged()
                if not self._put(self.decode(indices, number % (BATCHES_AHEAD + 2))):
                    return
            self.loader.check_unchanged()
            self._put(None)
        except BaseException as error:  # raised in __next__, in the caller's thread
            self._put(error)

    def decode(self, indices: npt.NDArray[np.uint64], slot: int) -> tuple[npt.NDArray[Any], ...]:
        """Decode a batch into the ring's buffer `slot`: images [B, H, W, 3] and labels [B, 1]."""
        stages, outputs = self.loader.code
        values = {name: buffer[slot][: len(indices)] for name, buffer in self._buffers.items()}
        values |= {f"shared_{name}": None for name in self._buffers}
        values |= {"batch_indices": indices, "storage_state": self._storage, "metadata": self.loader.reader.metadata}
        for decode_stage, nodes in stages:
            results = decode_stage(**values)
            values |= {f"result_{node}": result for node, result in zip(nodes, results, strict=True)}
        return tuple(values[f"result_{node}"] for node in outputs)

    def _put(self, item: object) -> bool:
        while not self.terminate_event.is_set():
            try:
                self.output_queue.put(item, timeout=0.1)
                return True
            except queue.Full:
                pass
        return False

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        for _ in range(BATCH_TIMEOUT_SECONDS):
            try:
                item = self.output_queue.get(timeout=1.0)
                break
            except queue.Empty:
                if not self.is_alive() and self.output_queue.empty():
                    raise DataError(f"{self.loader.fname}: FFCV's decoding thread ended without an error") from None
        else:
            raise DataError(
                f"{self.loader.fname}: no batch for {BATCH_TIMEOUT_SECONDS} s; check that the file can still be read"
            )
        if item is None:
            raise StopIteration
        if isinstance(item, DataError):
            raise item
        if isinstance(item, BaseException):
            raise DataError(f"{self.loader.fname}: FFCV could not decode a batch: {item!r}") from item
        images, labels = item
        return torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(labels).view(-1)

    def close(self) -> None:
        self.terminate_event.set()
        if self.is_alive():
            self.join(BATCH_TIMEOUT_SECONDS)


class FFCVDecoder:
    """Decodes a .beton with FFCV's compiled code; see `Decoder`. Its threads share each batch."""

    def __init__(self, index: BetonIndex, *, batch_size: int, workers: int, device: torch.device) -> None:
        workers = min(workers, numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
        self._loader = MappedLoader(index.path, batch_size=batch_size, workers=workers)
        self._device = device

    def warm_up(self) -> None:
        """Compile the decoders without reading an image."""
        none = np.empty(0, dtype=np.uint64)
        with self._start(none) as iterator:
            iterator.decode(none, slot=0)

    def batches(self, order: npt.NDArray[np.uint64]) -> Generator[Batch, None, None]:
        """Yield the images at these positions in the file, as `Decoder.batches` does."""
        with self._start(order) as batches:
            yield from to_device(batches, self._device) if self._device.type == "cuda" else _clone(batches)

    @contextmanager
    def _start(self, order: npt.NDArray[np.uint64]) -> Iterator[SafeEpochIterator]:
        self._loader.check_unchanged()
        iterator = SafeEpochIterator(self._loader, order)
        try:
            yield iterator
        finally:
            iterator.close()


def _clone(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Yield copies of the batches, so that they stay valid when the ring's buffers are used again."""
    for images, labels in batches:
        yield images.clone(), labels.clone()
