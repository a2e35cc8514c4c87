"""FFCV's decoding thread, made safe: batches that may be kept, a thread that ends, errors that arrive.

FFCV decodes into a ring of pinned buffers in a thread of its own. What it leaves to its caller is done here: a batch
is copied out of the ring before the ring comes round (on CUDA the copy to the device is that copy, on a stream of its
own), an error in the thread is raised by the iterator, and leaving an epoch early ends the thread (libffcv/ffcv#345,
#372).
"""

from __future__ import annotations

import queue
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numba.typed
import numpy as np
import numpy.typing as npt
import torch

from fastcifar.data.beton_format import ALLOCATION
from fastcifar.errors import DataError


@contextmanager
def preserve_torch_threads() -> Iterator[None]:
    """FFCV sets torch's thread count for the whole process, on import to 1; put it back."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def without_numba_dict() -> Iterator[None]:
    """Let numba's typed dictionaries be plain ones, for what is imported meanwhile.

    FFCV keeps its two image modes in one, for which numba compiles most of a dictionary, a good second of every start.
    FFCV looks into it outside of what it compiles.
    """
    typed = numba.typed.Dict
    numba.typed.Dict = dict
    try:
        yield
    finally:
        numba.typed.Dict = typed


with preserve_torch_threads(), without_numba_dict():
    import ffcv.loader.loader
    from ffcv.loader import Loader
    from ffcv.loader.epoch_iterator import EpochIterator
    from ffcv.memory_managers.os_cache import OSCacheContext, OSCacheManager
    from ffcv.pipeline.compiler import Compiler
    from ffcv.reader import Reader

Batch = tuple[torch.Tensor, torch.Tensor]
"""uint8 images [B, 3, H, W] in channels-last order, int64 labels [B], on the loader's device."""

BATCHES_AHEAD = 3
"""Batches that FFCV decodes ahead; its ring has two buffers more."""
BATCH_TIMEOUT_SECONDS = 300
"""Seconds to wait for a batch, which takes milliseconds, or for the thread's end."""


_compile = Compiler.compile
_compiled: dict[object, Any] = {}


def _compile_once(function: Any, signature: Any = None) -> Any:
    """FFCV's compiler, asked once for equal functions.

    FFCV makes a loader's decoder of nested functions and compiles it anew for each loader, which takes the better part
    of a second, and 8 MB that numba never gives back. They are equal if code, closure and what they are compiled for
    are.
    """
    values = [cell.cell_contents for cell in function.__closure__ or ()]
    closure = tuple((type(value), value) for value in values)
    parallel = getattr(function, "is_parallel", False) and Compiler.num_threads > 1
    key = (function.__code__, closure, signature, parallel, Compiler.is_enabled)
    try:
        if key not in _compiled:
            _compiled[key] = _compile(function, signature)
    except TypeError:  # a closure that cannot be compared, of somebody's own operation
        return _compile(function, signature)
    return _compiled[key]


Compiler.compile = _compile_once


class MappedReader(Reader):  # type: ignore[misc]  # ffcv has no types
    """FFCV's reader, with a file's tables mapped, as its pixels are, and not read."""

    def read_metadata(self) -> None:
        offset = self.header.dtype.itemsize + self.field_descriptors.nbytes
        self.metadata = self._map(self.metadata_type, offset, self.num_samples)

    def read_allocation_table(self) -> None:
        self.alloc_table = self._map(ALLOCATION, self.header["alloc_table_ptr"], self.num_samples)

    def _map(self, dtype: npt.DTypeLike, offset: int, count: int) -> npt.NDArray[np.void]:
        return np.asarray(np.memmap(self.file_name, dtype=dtype, mode="r", offset=int(offset), shape=int(count)))


class MappedManager(OSCacheManager):  # type: ignore[misc]
    """FFCV's access to a mapped file, without its tables of the pages of each sample and the samples of each page.

    Nothing here looks into them; as dictionaries of sets they take 600 bytes an image, and most of the time in which
    a large file is opened.
    """

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        order = np.argsort(reader.alloc_table["ptr"])
        self.ptrs, self.sizes = reader.alloc_table["ptr"][order], reader.alloc_table["size"][order]
        self.context = OSCacheContext(self)


@contextmanager
def mmap_reader() -> Iterator[None]:
    """Let FFCV's loaders that are made meanwhile read a file as ours are: one allocation a sample."""
    module = ffcv.loader.loader
    own = module.Reader, module.OSCacheManager
    module.Reader, module.OSCacheManager = MappedReader, MappedManager
    try:
        yield
    finally:
        module.Reader, module.OSCacheManager = own


class FileSignature:
    """A file that must stay as it is while it is read: FFCV maps it, and reading past a new end would be fatal."""

    def __init__(self, path: Path) -> None:
        self._path, self._found = path, self._look(path)

    def check(self) -> None:
        """Costs microseconds.

        Raises:
            DataError: the file is another, or was written to.
        """
        try:
            unchanged = self._look(self._path) == self._found
        except OSError:
            unchanged = False
        if not unchanged:
            raise DataError(f"{self._path}: was changed while it was in use; start again")

    @staticmethod
    def _look(path: Path) -> tuple[int, ...]:
        status = path.stat()
        return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


class SafeEpochIterator(EpochIterator):  # type: ignore[misc]  # ffcv has no types
    """One epoch's decoding thread, with its errors and its end in the caller's hands."""

    def __init__(self, loader: Loader, order: npt.NDArray[np.uint64], workers: int, file: FileSignature) -> None:
        self._workers, self._file = workers, file
        super().__init__(loader, order)  # starts the thread

    def run(self) -> None:
        try:
            numba.set_num_threads(self._workers)
            for number, indices in enumerate(self.iter_ixes):
                self._file.check()
                slot = number % (BATCHES_AHEAD + 2)
                if not self._put(self.decode(number, indices, slot)):
                    return
            self._file.check()
            self._put(None)
        except BaseException as error:  # to be raised where the batch is awaited
            self._put(error)

    def decode(self, number: int, indices: npt.NDArray[np.uint64], slot: int) -> Any:
        """Images [B, H, W, 3] and labels [B, 1] in the ring's buffer number `slot`."""
        return self.run_pipeline(number, indices, slot, None)

    def _put(self, item: object) -> bool:
        while not self.terminate_event.is_set():
            try:
                self.output_queue.put(item, timeout=0.1)
                return True
            except queue.Full:
                pass
        return False

    def __next__(self) -> Batch:
        for _ in range(BATCH_TIMEOUT_SECONDS):
            try:
                item = self.output_queue.get(timeout=1.0)
                break
            except queue.Empty:
                if not self.is_alive() and self.output_queue.empty():
                    raise DataError(f"{self.loader.fname}: FFCV's decoding thread ended without a word") from None
        else:
            raise DataError(f"{self.loader.fname}: no batch for {BATCH_TIMEOUT_SECONDS} s; can the file still be read?")
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
        super().close()


def clone_batches(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Copy out of the ring, on the host."""
    for images, labels in batches:
        yield images.clone(), labels.clone()


def to_device(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:  # only on a GPU
    """Copy out of the ring to the device, on a stream of its own, which training waits for there."""
    stream = torch.cuda.Stream(device)
    for images, labels in batches:
        with torch.cuda.stream(stream):
            on_device = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
            copied = torch.cuda.Event()
            copied.record(stream)
        training = torch.cuda.current_stream(device)
        training.wait_event(copied)
        for tensor in on_device:
            tensor.record_stream(training)
        yield on_device
        copied.synchronize()  # the ring comes round to this buffer once the next batch is taken; long done by now
