"""Several processes that train one run together, each on its own device: who they are, and what they exchange.

torchrun starts them (`torchrun --nproc-per-node 2 -m fastcifar train …`). Each computes its share of every batch.
"""

from __future__ import annotations

import datetime
import gc
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from fastcifar.errors import DeviceError, FastCifarWarning, ProcessError, StoppedError
from fastcifar.process_errors import one_error_per_machine, wait_for_first
from fastcifar.rendezvous import meet, require_equal
from fastcifar.torchrun import launched

Value = TypeVar("Value")

TIMEOUT = datetime.timedelta(seconds=15)
"""How long a process waits for the others in a step, before it takes one of them for lost."""


@dataclass(frozen=True)
class Processes:
    """The processes of a run. Alone, a process exchanges nothing."""

    rank: int = 0
    """Number of this process, from 0."""
    count: int = 1
    control: dist.ProcessGroup | None = None
    """The group for values on the CPU; None if it is the group for all values."""
    store: Any = None
    """The `torch.distributed.Store` of the processes: keys and values that all of them can read."""

    @property
    def is_first(self) -> bool:
        """Whether this is the process that prints and writes files."""
        return self.rank == 0

    @property
    def on_one_machine(self) -> bool:
        """Whether all of them run on this machine, as the launcher says."""
        return os.environ.get("LOCAL_WORLD_SIZE") == str(self.count)

    def share(self, size: int) -> slice:
        """Return this process's part of `size` images; the parts differ by at most one image."""
        return slice(size * self.rank // self.count, size * (self.rank + 1) // self.count)

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of the tensors, of equal shapes, that the processes give."""
        if self.count == 1:
            return values
        total = values.clone()
        dist.all_reduce(total)
        return total

    def gather(self, share: Tensor) -> Tensor:
        """Return the shares [B, …] of all processes, in their order: [count · B, …]."""
        if self.count == 1:
            return share
        share = share.contiguous()
        shares = [torch.empty_like(share) for _ in range(self.count)]
        dist.all_gather(shares, share)
        return torch.cat(shares)

    def copy_from_first(self, tensors: list[Tensor]) -> None:
        """Replace tensors by those of the first process."""
        for tensor in tensors if self.count > 1 else ():
            dist.broadcast(tensor, src=0)

    def copy_from(self, tensors: Sequence[Tensor], owners: Sequence[int]) -> None:
        """Replace each tensor, contiguous, by that of the process that owns it."""
        if self.count > 1:
            copies = [dist.broadcast(each, owner, async_op=True) for each, owner in zip(tensors, owners, strict=True)]
            for copy in copies:
                copy.wait()  # type: ignore[union-attr]

    def largest(self, number: int | None) -> int | None:
        """Return the largest of the numbers that the processes give, None if none gives one."""
        if self.count == 1:
            return number
        largest = torch.tensor(0 if number is None else number)
        dist.all_reduce(largest, dist.ReduceOp.MAX, group=self.control)
        return int(largest) or None

    @contextmanager
    def first_only(self, name: str) -> Iterator[bool]:
        """Let the first process execute the block while the others wait for its end; yield whether this is the first.

        Raises:
            ProcessError: the first one has failed, or cannot be reached.
        """
        key = f"fastcifar/{name}"
        if self.store is None:
            yield True
        elif self.is_first:
            try:
                yield True
            except BaseException:
                self.store.set(key, "failed")
                raise
            self.store.set(key, "done")
        else:
            if wait_for_first(self.store, key) != b"done":
                raise ProcessError("stopped, since the first process of this run has failed")
            yield False

    def from_first(self, value: Value) -> Value:
        """Return the first process's value."""
        if self.count == 1:
            return value
        values: list[Value] = [value]
        dist.broadcast_object_list(values, src=0, group=self.control)
        return values[0]


ALONE = Processes()


def current() -> Processes:
    """Return the processes that `join` has connected; this process alone if there are no others."""
    return _joined


_joined = ALONE


@contextmanager
def alone() -> Iterator[None]:
    """Let this process compute alone in the block, while the others wait for it."""
    global _joined  # noqa: PLW0603
    before, _joined = _joined, ALONE
    try:
        yield
    finally:
        _joined = before


@contextmanager
def join(device: str, settings: Mapping[str, object] = MappingProxyType({})) -> Iterator[Processes]:
    """In the block, this process is connected with the others that a launcher has started, if there are any.

    They exchange gradients over NCCL if `device`, the name in the settings, is or can be a GPU, and over Gloo if not.
    `settings` are JSON values that must be equal in all processes.

    Raises:
        ConfigError: the launcher's variables are incomplete, or the settings differ.
        DeviceError: this machine has fewer GPUs than processes.
        ProcessError: another process does not start, has failed, or cannot be reached.
    """
    global _joined  # noqa: PLW0603  # a fact about the process, as torch.distributed's own state
    if launched() == 1:
        yield ALONE
        return
    on_gpu = device != "cpu" and torch.cuda.is_available()
    backend = "nccl" if on_gpu else "gloo"
    store, rank, count = meet()
    with one_error_per_machine(store, rank):
        require_equal(store, rank, count, {"the backend": backend, **settings})
        if on_gpu:  # only on a GPU
            _choose_gpu()
        dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=TIMEOUT)
        try:
            control = dist.new_group(backend="gloo", timeout=TIMEOUT) if on_gpu else None
            assert control is None or isinstance(control, dist.ProcessGroup)
            _joined = Processes(rank, count, control, store)
            yield _joined
            dist.barrier(_joined.control)  # so that none closes its connections while others use them
        finally:
            _joined = ALONE
            gc.collect()  # networks that average gradients keep the group alive, whose threads would outlive it
            dist.destroy_process_group()


def _choose_gpu() -> None:
    """Make the GPU with this process's number on its machine the current one."""
    number, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if number >= count:
        raise DeviceError(f"this machine has {count} GPUs, for process {number + 1} of it: start fewer processes")
    torch.cuda.set_device(number)


@contextmanager
def quiet_unless_first(processes: Processes) -> Iterator[None]:
    """In the block, print neither to stdout nor warnings of ours, except in the first process; the others just stop."""
    with ExitStack() as stack:
        if not processes.is_first:
            stack.enter_context(redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore", FastCifarWarning)
        try:
            yield
        except (StoppedError, KeyboardInterrupt) as stopped:
            if processes.is_first:
                raise
            sys.exit(stopped.exit_code if isinstance(stopped, StoppedError) else 130)
