from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastcifar.data import decoding_thread
from fastcifar.data.decoder import Batch
from fastcifar.data.decoding_thread import SLOTS, DecodingThread
from fastcifar.errors import DataError

ORDER = [np.arange(start, start + 3, dtype=np.uint64) for start in range(0, 24, 3)]


def decode(positions: Any, slot: int) -> Batch:
    return torch.from_numpy(positions.astype(np.int64)), torch.full((3,), slot)


def test_batches_come_in_order_and_fill_the_slots_in_turn() -> None:
    thread = DecodingThread(Path("train.beton"), ORDER, decode)
    for number, (images, labels) in enumerate(thread):
        assert images.tolist() == ORDER[number].tolist()
        assert labels.tolist() == [number % SLOTS] * 3
    assert number == len(ORDER) - 1
    thread.close()
    assert not thread.is_alive()


def test_a_thread_that_is_closed_ends_in_the_middle_of_an_epoch() -> None:
    thread = DecodingThread(Path("train.beton"), ORDER, decode)
    next(thread)
    thread.close()
    assert not thread.is_alive()


def test_an_error_in_the_thread_reaches_the_caller() -> None:
    def broken(positions: Any, slot: int) -> Batch:
        if slot == 2:
            raise RuntimeError("the disk is gone")
        return decode(positions, slot)

    thread = DecodingThread(Path("train.beton"), ORDER, broken)
    with pytest.raises(DataError, match=r"train\.beton: FFCV could not decode a batch: .*the disk is gone"):
        list(thread)


def test_a_thread_that_dies_silently_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DecodingThread, "run", lambda self: None)
    start = time.perf_counter()
    with pytest.raises(DataError, match="ended without an error"):
        list(DecodingThread(Path("train.beton"), ORDER, decode))
    assert time.perf_counter() - start < 10


def test_a_thread_that_hangs_is_an_error_after_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding_thread, "BATCH_TIMEOUT_SECONDS", 1)
    held = threading.Event()

    def hang(positions: Any, slot: int) -> Batch:
        held.wait(60)
        return decode(positions, slot)

    thread = DecodingThread(Path("train.beton"), ORDER, hang)
    with pytest.raises(DataError, match="no batch for 1 s"):
        next(thread)
    held.set()
    thread.close()
