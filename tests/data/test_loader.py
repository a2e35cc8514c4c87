from __future__ import annotations

import itertools
import os
import shutil
import threading
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastcifar import create_loader
from fastcifar.data import ffcv_compat as decoding
from fastcifar.data.writer import write_beton
from fastcifar.data.beton_format import read_index
from fastcifar.data.loader import BetonLoader
from fastcifar.errors import ConfigError, DataError
from fastcifar.machine import usable_cores


def _all(loader: BetonLoader) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = zip(*loader, strict=True)
    return torch.cat(images), torch.cat(labels)


def _threads() -> int:
    return threading.active_count()


def test_batches_are_uint8_in_channels_last_order_with_int64_labels(betons: Path) -> None:
    with create_loader(betons / "train.beton", batch_size=32, train=True) as loader:
        for images, labels in loader:
            assert images.shape == (32, 3, 32, 32)
            assert images.dtype == torch.uint8
            assert images.is_contiguous(memory_format=torch.channels_last)
            assert labels.shape == (32,)
            assert labels.dtype == torch.int64


def test_training_drops_a_last_batch_that_is_not_full_and_testing_keeps_it(betons: Path) -> None:
    train = create_loader(betons / "train.beton", batch_size=32, train=True)
    test = create_loader(betons / "test.beton", batch_size=32, train=False)
    assert len(train) == len(list(train)) == 6
    assert train.samples == 192
    assert len(test) == 3
    assert [len(labels) for _, labels in test] == [32, 32, 26]
    assert test.samples == 90


def test_testing_hands_over_every_image_in_file_order_and_batches_may_be_kept(betons: Path) -> None:
    layout = read_index(betons / "test.beton")
    images, labels = _all(create_loader(betons / "test.beton", batch_size=7, train=False))
    assert np.array_equal(images.permute(0, 2, 3, 1).numpy(), layout.images())
    assert np.array_equal(labels.numpy(), layout.labels)


def test_training_visits_each_image_once_with_its_own_label(betons: Path) -> None:
    layout = read_index(betons / "train.beton")
    loader = create_loader(betons / "train.beton", batch_size=50, train=True, seed=3)
    order = loader.order(0)
    images, labels = _all(loader)
    assert sorted(order.tolist()) == list(range(200))
    assert np.array_equal(images.permute(0, 2, 3, 1).numpy(), layout.images()[order])
    assert np.array_equal(labels.numpy(), layout.labels[order])


def test_the_seed_repeats_the_orders_and_each_epoch_has_its_own(betons: Path) -> None:
    first, second = (create_loader(betons / "train.beton", batch_size=50, train=True, seed=5) for _ in range(2))
    runs = [[_all(loader)[0] for _ in range(3)] for loader in (first, second)]
    for one, other in zip(*runs, strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(runs[0][0], runs[0][1])


def test_the_orders_stay_what_they_were_when_results_were_measured(betons: Path) -> None:
    loader = create_loader(betons / "train.beton", batch_size=8, train=True, seed=3)
    assert loader.order(0)[:8].tolist() == [103, 172, 102, 22, 101, 30, 144, 140]
    assert loader.order(1)[:8].tolist() == [40, 171, 15, 197, 196, 86, 37, 170]
    assert loader.mirrored(0)[:8].tolist() == [False, False, True, True, True, False, False, True]


def test_seeds_have_independent_streams(betons: Path) -> None:
    loaders = [create_loader(betons / "train.beton", batch_size=50, train=True, seed=seed) for seed in range(4)]
    orders = {tuple(loader.order(epoch).tolist()) for loader in loaders for epoch in range(4)}
    assert len(orders) == 16, "no seed's epoch is another seed's epoch"


def test_going_on_from_a_later_epoch_gives_its_order(betons: Path) -> None:
    through, resumed = (create_loader(betons / "train.beton", batch_size=50, train=True, seed=1) for _ in range(2))
    epochs = [_all(through)[0] for _ in range(3)]
    resumed.go_on(2)
    assert torch.equal(_all(resumed)[0], epochs[2])


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("chosen", [None, np.array([199, 3, 150, 7, 9, 20, 21], dtype=np.int64)])
def test_a_resident_loader_gives_the_same_batches(betons: Path, train: bool, chosen: Any) -> None:
    options: dict[str, Any] = {"batch_size": 3, "train": train, "seed": 5, "indices": chosen}
    streaming = create_loader(betons / "train.beton", **options)
    cache_on_device = create_loader(betons / "train.beton", **options, cache_on_device=True)
    assert (len(cache_on_device), cache_on_device.samples) == (len(streaming), streaming.samples)
    for skipped in (0, 0, 1):
        for loader in (streaming, cache_on_device):
            loader.go_on(loader.epoch, skipped if train else 0)
        for batch, expected in zip(cache_on_device, streaming, strict=True):
            assert torch.equal(batch[0], expected[0])
            assert torch.equal(batch[1], expected[1])
            assert batch[0].is_contiguous(memory_format=torch.channels_last)


def test_a_resident_loader_decodes_once(betons: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loader = create_loader(betons / "train.beton", batch_size=50, train=True, cache_on_device=True)
    list(loader)
    monkeypatch.setattr(decoding.Epoch, "decode", None)
    assert len(list(loader)) == 4


@pytest.mark.parametrize("chosen", [None, np.arange(10, 110)])
def test_each_image_is_mirrored_in_every_other_epoch(betons: Path, chosen: Any) -> None:
    loader = create_loader(betons / "train.beton", batch_size=20, train=True, seed=3, indices=chosen)
    by_image = [dict(zip(loader.order(epoch).tolist(), loader.mirrored(epoch), strict=True)) for epoch in range(4)]
    for before, after in itertools.pairwise(by_image):
        assert all(before[image] != after[image] for image in before)
    assert 0.3 < np.mean(list(by_image[0].values())) < 0.7
    other = create_loader(betons / "train.beton", batch_size=20, train=True, seed=4, indices=chosen)
    assert dict(zip(other.order(0).tolist(), other.mirrored(0), strict=True)) != by_image[0]


def test_indices_choose_the_images(betons: Path) -> None:
    layout = read_index(betons / "train.beton")
    chosen = np.array([3, 150, 7, 9], dtype=np.int64)
    _, labels = _all(create_loader(betons / "train.beton", batch_size=3, train=False, indices=chosen))
    assert np.array_equal(labels.numpy(), layout.labels[chosen])


def test_leaving_an_epoch_early_ends_its_thread(betons: Path) -> None:
    before = _threads()
    loader = create_loader(betons / "train.beton", batch_size=8, train=True)
    for _ in range(5):
        for _ in loader:
            break
        loader.close()
        assert _threads() == before


def test_an_error_in_the_loop_ends_the_thread(betons: Path) -> None:
    def interrupted() -> None:
        with create_loader(betons / "train.beton", batch_size=8, train=True) as loader:
            for _ in loader:
                raise KeyboardInterrupt

    before = _threads()
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert _threads() == before


def test_a_new_epoch_ends_the_one_before(betons: Path) -> None:
    before = _threads()
    loader = create_loader(betons / "train.beton", batch_size=8, train=True)
    abandoned = iter(loader)
    next(abandoned)
    assert sum(1 for _ in loader) == len(loader)
    abandoned.close()  # type: ignore[attr-defined]
    assert _threads() == before


def test_a_second_loader_compiles_nothing(betons: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def epoch(name: str, workers: int) -> None:
        with create_loader(betons / name, batch_size=8, train=True, workers=workers) as loader:
            list(loader)

    epoch("train.beton", 1)

    def refuse(*_: object) -> None:
        raise AssertionError("compiled again")

    monkeypatch.setattr(decoding, "_compile", refuse)
    epoch("test.beton", 1)


def _nested(value: object) -> Any:
    def function(x: int) -> object:
        return value, x

    return function


def test_only_equal_functions_are_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setattr(decoding, "_compile", lambda function, signature: made.append(function) or function)
    for value, new in ((2, 1), (2, 0), (2.0, 1), (3, 1), ([2], 1), ([2], 1)):
        before = len(made)
        assert decoding.Compiler.compile(_nested(value))(5) == (value, 5)
        assert len(made) - before == new


def test_what_is_compiled_for_several_threads_is_compiled_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[bool, object]] = []

    def compiled(function: Any, signature: object) -> Any:
        made.append((hasattr(function, "is_parallel"), signature))
        return function

    monkeypatch.setattr(decoding, "_compile", compiled)
    monkeypatch.setattr(decoding, "_compiled", {})
    parallel = _nested(1)
    parallel.is_parallel = True
    for threads in (1, 2):
        monkeypatch.setattr(decoding.Compiler, "num_threads", threads)
        for function in (_nested(1), parallel, _nested(1), parallel):
            decoding.Compiler.compile(function, "signature")
    assert made == [(False, "signature"), (True, "signature")], "with one thread they are the same"
    decoding.Compiler.compile(_nested([]), "another")
    assert made[2:] == [(False, "another")]


def test_an_error_in_the_decoding_thread_reaches_the_caller(betons: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: object, number: int, indices: object, slot: int) -> object:
        if number == 2:
            raise RuntimeError("the disk is gone")
        return decode(self, number, indices, slot)

    decode = decoding.Epoch.decode
    monkeypatch.setattr(decoding.Epoch, "decode", broken)
    loader = create_loader(betons / "train.beton", batch_size=8, train=True)
    with pytest.raises(DataError, match=r"train\.beton: FFCV could not decode a batch: .*the disk is gone"):
        list(loader)


def test_a_decoding_thread_that_dies_silently_is_no_hang(betons: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding.Epoch, "run", lambda self: None)
    start = time.perf_counter()
    with pytest.raises(DataError, match="ended without a word"):
        list(create_loader(betons / "train.beton", batch_size=8, train=True))
    assert time.perf_counter() - start < 10


def test_a_decoding_thread_that_hangs_is_not_waited_for_without_end(
    betons: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = threading.Event()
    monkeypatch.setattr(decoding.Epoch, "run", lambda self: held.wait(60))
    monkeypatch.setattr(decoding, "PATIENCE", 2)
    with pytest.raises(DataError, match="no batch for 2 s"):
        list(create_loader(betons / "train.beton", batch_size=8, train=True))
    held.set()


def _wait_until_it_rests(loader: BetonLoader) -> None:
    """Until its thread is as many batches ahead as it goes: what is cut off while it reads ends the process."""
    assert loader._running is not None
    while not loader._running.output_queue.full():
        time.sleep(0.01)
    time.sleep(0.2)  # and the one that waits for room is decoded


@pytest.mark.parametrize("how", ["cut off", "written to", "replaced", "gone"])
@pytest.mark.parametrize("when", ["before an epoch", "in an epoch"])
def test_a_file_that_changes_while_it_is_used_is_an_error(betons: Path, tmp_path: Path, how: str, when: str) -> None:
    path = tmp_path / "train.beton"
    for name in ("train.beton", "train.beton.json"):
        shutil.copy(betons / name, tmp_path / name)
    with create_loader(path, batch_size=8, train=True) as loader:
        batches = iter(loader)
        if when == "in an epoch":
            next(batches)
            _wait_until_it_rests(loader)
        match how:
            case "cut off":
                os.truncate(path, 1000)
            case "written to":
                with path.open("r+b") as file:
                    file.write(b"\0" * 100)
            case "replaced":
                shutil.copy(betons / "train.beton", tmp_path / "other")
                (tmp_path / "other").rename(path)
            case "gone":
                path.unlink()
        with pytest.raises(DataError, match=r"train\.beton: was changed while it was in use"):
            list(batches)


def test_torchs_threads_stay_as_they_were(betons: Path) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(before + 1)
        loader = create_loader(betons / "train.beton", batch_size=8, train=True, workers=1)
        list(loader)
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


def test_a_loader_takes_a_few_bytes_of_memory_for_each_image(tmp_path: Path) -> None:
    count = 100_000
    path = tmp_path / "train.beton"
    write_beton(path, np.zeros((count, 2, 2, 3), np.uint8), np.zeros(count, np.int64), class_names=("a",), name="many")
    with create_loader(path, batch_size=512, train=True):  # what is imported and compiled once
        pass
    tracemalloc.start()
    try:
        with create_loader(path, batch_size=512, train=True) as loader:
            assert len(next(iter(loader))[1]) == 512
            held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 80 * count, "its position, its size and its place in the order"


def test_warming_up_moves_no_order(betons: Path) -> None:
    warm, cold = (create_loader(betons / "train.beton", batch_size=50, train=True) for _ in range(2))
    warm.warm_up()
    assert torch.equal(_all(warm)[0], _all(cold)[0])


def test_more_workers_than_cores_are_refused(betons: Path) -> None:
    with pytest.raises(ConfigError, match=f"choose at most {usable_cores()}"):
        create_loader(betons / "train.beton", batch_size=8, train=True, workers=usable_cores() + 1)
    create_loader(betons / "train.beton", batch_size=8, train=True, workers=usable_cores())


def test_a_training_batch_larger_than_the_data_set_is_refused(betons: Path) -> None:
    with pytest.raises(ConfigError, match=r"batch_size is 201; .* has 200 images"):
        create_loader(betons / "train.beton", batch_size=201, train=True)
    with pytest.raises(ConfigError, match=r"batch_size is 6; .* has 5 images"):
        create_loader(betons / "train.beton", batch_size=6, train=True, indices=np.arange(5))
    assert len(create_loader(betons / "train.beton", batch_size=200, train=True)) == 1
    assert len(create_loader(betons / "test.beton", batch_size=512, train=False)) == 1


def test_a_loader_checks_the_files_hash_unless_told_not_to_and_shuffles_by_seed_0(betons: Path, tmp_path: Path) -> None:
    for name in ("train.beton", "train.beton.json"):
        shutil.copy(betons / name, tmp_path / name)
    path = tmp_path / "train.beton"
    given = create_loader(path, batch_size=8, train=True, seed=0)
    assert np.array_equal(create_loader(path, batch_size=8, train=True).order(0), given.order(0))
    data = bytearray(path.read_bytes())
    data[int(read_index(path).offsets[5])] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match="file_sha256"):
        create_loader(path, batch_size=8, train=True)
    create_loader(path, batch_size=8, train=True, verify=False)


@pytest.mark.cifar
def test_an_epoch_of_the_real_test_set_has_all_ten_thousand_images(cifar_betons: Path) -> None:
    loader = create_loader(cifar_betons / "test.beton", batch_size=512, train=False)
    assert sum(len(labels) for _, labels in loader) == 10_000


@pytest.mark.gpu
def test_batches_on_the_gpu_are_those_of_the_cpu_however_far_it_lags(betons: Path) -> None:
    host = create_loader(betons / "train.beton", batch_size=8, train=True, seed=2)
    device = create_loader(betons / "train.beton", batch_size=8, train=True, seed=2, device="cuda")
    for _ in range(3):
        expected = [(images.sum().item(), labels.sum().item()) for images, labels in host]
        sums = []
        for images, labels in device:
            torch.cuda._sleep(20_000_000)  # training that takes longer than decoding
            sums.append(torch.stack((images.sum(), labels.sum())))
        assert [tuple(row) for row in torch.stack(sums).tolist()] == expected
