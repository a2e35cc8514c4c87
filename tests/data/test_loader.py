from __future__ import annotations

import itertools
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastcifar import create_loader
from fastcifar.data.beton_format import read_index
from fastcifar.data.decoder import BATCHES_AHEAD
from fastcifar.data.loader import BetonLoader
from fastcifar.data.memmap import MemmapDecoder
from fastcifar.errors import ConfigError, DataError, FastCifarWarning
from fastcifar.machine import usable_cores
from tests.helpers import no_wait_for_the_device


@pytest.fixture(autouse=True, params=["ffcv", "memmap"])
def decoder(request: pytest.FixtureRequest) -> str:
    """What 'auto' takes: FFCV, and the memory map where FFCV is not installed."""
    if request.param == "ffcv":
        pytest.importorskip("ffcv")
    else:
        request.getfixturevalue("no_ffcv")
    return str(request.param)


def _all(loader: BetonLoader, epoch: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = zip(*loader.batches(epoch), strict=True)
    return torch.cat(images), torch.cat(labels)


def _threads() -> int:
    return threading.active_count()


def test_batches_are_uint8_in_channels_last_format_with_int64_labels(betons: Path) -> None:
    with create_loader(betons / "train.beton", batch_size=32, train=True) as loader:
        for images, labels in loader.batches():
            assert images.shape == (32, 3, 32, 32)
            assert images.dtype == torch.uint8
            assert images.is_contiguous(memory_format=torch.channels_last)
            assert labels.shape == (32,)
            assert labels.dtype == torch.int64


def test_a_training_loader_drops_the_last_batch_if_it_is_not_full_and_a_test_loader_keeps_it(betons: Path) -> None:
    train = create_loader(betons / "train.beton", batch_size=32, train=True)
    test = create_loader(betons / "test.beton", batch_size=32, train=False)
    assert len(train) == len(list(train.batches())) == 6
    assert train.samples == 192
    assert len(test) == 3
    assert [len(labels) for _, labels in test.batches()] == [32, 32, 26]
    assert test.samples == 90


def test_a_test_loader_gives_every_image_in_file_order_and_batches_stay_valid(betons: Path) -> None:
    index = read_index(betons / "test.beton")
    images, labels = _all(create_loader(betons / "test.beton", batch_size=7, train=False))
    assert np.array_equal(images.permute(0, 2, 3, 1).numpy(), index.images())
    assert np.array_equal(labels.numpy(), index.labels)


def test_training_visits_each_image_once_with_its_own_label(betons: Path) -> None:
    index = read_index(betons / "train.beton")
    loader = create_loader(betons / "train.beton", batch_size=50, train=True, seed=3)
    order = loader.order(0)
    images, labels = _all(loader)
    assert sorted(order.tolist()) == list(range(200))
    assert np.array_equal(images.permute(0, 2, 3, 1).numpy(), index.images()[order])
    assert np.array_equal(labels.numpy(), index.labels[order])


def test_the_seed_repeats_the_orders_and_each_epoch_has_its_own(betons: Path) -> None:
    first, second = (create_loader(betons / "train.beton", batch_size=50, train=True, seed=5) for _ in range(2))
    runs = [[_all(loader, epoch)[0] for epoch in range(3)] for loader in (first, second)]
    for one, other in zip(*runs, strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(runs[0][0], runs[0][1])


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("train", [False, True])
def test_batches_come_with_the_positions_of_their_images_in_the_file(betons: Path, train: bool, cached: bool) -> None:
    images = read_index(betons / "train.beton").images()
    chosen = np.arange(150, 20, -1)
    path = betons / "train.beton"
    with create_loader(path, batch_size=32, train=train, indices=chosen, cache_on_device=cached) as loader:
        for epoch, start in ((0, 0), (1, 2)):
            plain = list(loader.batches(epoch, start))
            indexed = list(loader.batches_with_indices(epoch, start))
            assert len(indexed) == len(loader) - start
            for (batch, labels, indices), (same_batch, same_labels) in zip(indexed, plain, strict=True):
                assert torch.equal(batch, same_batch)
                assert torch.equal(labels, same_labels)
                assert indices.dtype == torch.int64
                assert np.array_equal(batch.permute(0, 2, 3, 1).numpy(), images[indices.numpy()])


@pytest.mark.gpu
@pytest.mark.parametrize("cached", [False, True])
def test_positions_are_on_the_gpu_without_a_wait(betons: Path, cached: bool) -> None:
    path = betons / "train.beton"
    with create_loader(path, batch_size=32, train=True, device="cuda", cache_on_device=cached) as loader:
        list(loader.batches(0))
        with no_wait_for_the_device():
            batches = list(loader.batches_with_indices(1))
        order = np.concatenate([indices.cpu().numpy() for _, _, indices in batches])
        assert np.array_equal(order, loader.order(1))


def test_the_orders_are_still_those_of_the_measured_results(betons: Path) -> None:
    loader = create_loader(betons / "train.beton", batch_size=8, train=True, seed=3)
    assert loader.order(0)[:8].tolist() == [103, 172, 102, 22, 101, 30, 144, 140]
    assert loader.order(1)[:8].tolist() == [40, 171, 15, 197, 196, 86, 37, 170]
    assert loader.flip_mask(0)[:8].tolist() == [False, False, True, True, True, False, False, True]


def test_seeds_have_independent_streams(betons: Path) -> None:
    loaders = [create_loader(betons / "train.beton", batch_size=50, train=True, seed=seed) for seed in range(4)]
    orders = {tuple(loader.order(epoch).tolist()) for loader in loaders for epoch in range(4)}
    assert len(orders) == 16, "no seed's epoch is another seed's epoch"


@pytest.mark.parametrize("cache_on_device", [False, True])
def test_the_batches_of_an_epoch_do_not_depend_on_earlier_reads(betons: Path, cache_on_device: bool) -> None:
    through, other = (
        create_loader(betons / "train.beton", batch_size=50, train=True, seed=1, cache_on_device=cache_on_device)
        for _ in range(2)
    )
    epochs = [_all(through, epoch)[0] for epoch in range(3)]
    assert torch.equal(_all(other, 2)[0], epochs[2])
    next(other.batches(1))
    assert torch.equal(_all(other, 0)[0], epochs[0])


@pytest.mark.parametrize("start", [0, 1, 3, 4])
def test_batches_from_a_later_start_are_the_rest_of_the_epoch(betons: Path, start: int) -> None:
    loader = create_loader(betons / "train.beton", batch_size=50, train=True, seed=1)
    assert len(loader) == 4
    images, labels = _all(loader, 2)
    rest = list(loader.batches(2, start=start))
    assert len(rest) == 4 - start
    assert torch.equal(torch.cat([images[:0], *(batch for batch, _ in rest)]), images[50 * start :])
    assert torch.equal(torch.cat([labels[:0], *(batch for _, batch in rest)]), labels[50 * start :])


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("chosen", [None, np.array([199, 3, 150, 7, 9, 20, 21], dtype=np.int64)])
def test_a_cached_loader_gives_the_same_batches(betons: Path, train: bool, chosen: Any) -> None:
    options: dict[str, Any] = {"batch_size": 3, "train": train, "seed": 5, "indices": chosen}
    streaming = create_loader(betons / "train.beton", **options)
    cached = create_loader(betons / "train.beton", **options, cache_on_device=True)
    assert (len(cached), cached.samples) == (len(streaming), streaming.samples)
    for epoch, start in enumerate((0, 0, 1 if train else 0)):
        pairs = zip(cached.batches(epoch, start), streaming.batches(epoch, start), strict=True)
        for batch, expected in pairs:
            assert torch.equal(batch[0], expected[0])
            assert torch.equal(batch[1], expected[1])
            assert batch[0].is_contiguous(memory_format=torch.channels_last)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch, decoder: str) -> list[int]:
    """The number of images in each batch that is decoded so far."""
    numbers: list[int] = []
    if decoder == "ffcv":
        from fastcifar.data.ffcv_compat import FFCVDecoder

        owner, method = FFCVDecoder, "decode"
    else:
        owner, method = MemmapDecoder, "read"
    decode = getattr(owner, method)

    def counted(self: Any, *arguments: Any, **options: Any) -> Any:
        batch = decode(self, *arguments, **options)
        numbers.append(len(batch[1]))
        return batch

    monkeypatch.setattr(owner, method, counted)
    return numbers


def test_a_cached_loader_decodes_once(betons: Path, decoded: list[int]) -> None:
    loader = create_loader(betons / "train.beton", batch_size=50, train=True, cache_on_device=True)
    for epoch in range(2):
        assert len(list(loader.batches(epoch))) == 4
        assert sum(decoded) == 200


@pytest.mark.parametrize("chosen", [None, np.arange(10, 110)])
def test_each_image_is_flipped_in_every_other_epoch(betons: Path, chosen: Any) -> None:
    loader = create_loader(betons / "train.beton", batch_size=20, train=True, seed=3, indices=chosen)
    by_image = [dict(zip(loader.order(epoch).tolist(), loader.flip_mask(epoch), strict=True)) for epoch in range(4)]
    for before, after in itertools.pairwise(by_image):
        assert all(before[image] != after[image] for image in before)
    assert 0.3 < np.mean(list(by_image[0].values())) < 0.7
    other = create_loader(betons / "train.beton", batch_size=20, train=True, seed=4, indices=chosen)
    assert dict(zip(other.order(0).tolist(), other.flip_mask(0), strict=True)) != by_image[0]


def test_a_loader_can_be_limited_to_some_images(betons: Path) -> None:
    index = read_index(betons / "train.beton")
    chosen = np.array([3, 150, 7, 9], dtype=np.int64)
    _, labels = _all(create_loader(betons / "train.beton", batch_size=3, train=False, indices=chosen))
    assert np.array_equal(labels.numpy(), index.labels[chosen])


def test_leaving_an_epoch_early_ends_its_thread(betons: Path) -> None:
    before = _threads()
    loader = create_loader(betons / "train.beton", batch_size=8, train=True)
    for _ in range(5):
        for _ in loader.batches():
            break
        loader.close()
        assert _threads() == before


def test_an_error_in_the_loop_ends_the_thread(betons: Path) -> None:
    def interrupted() -> None:
        with create_loader(betons / "train.beton", batch_size=8, train=True) as loader:
            for _ in loader.batches():
                raise KeyboardInterrupt

    before = _threads()
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert _threads() == before


def test_a_new_epoch_ends_the_thread_of_the_previous_one(betons: Path) -> None:
    before = _threads()
    loader = create_loader(betons / "train.beton", batch_size=8, train=True)
    abandoned = loader.batches()
    next(abandoned)
    assert sum(1 for _ in loader.batches()) == len(loader)
    abandoned.close()  # type: ignore[attr-defined]
    assert _threads() == before


def _wait_until_no_batch_is_read(decoded: list[int], decoder: str) -> None:
    """Wait until the threads are as far ahead as they can be: a file truncated while it is read kills the process."""
    waiting = 1 if decoder == "ffcv" else 0  # FFCV's thread waits with one more batch for a place in the queue
    while len(decoded) < 1 + BATCHES_AHEAD + waiting:
        time.sleep(0.01)


@pytest.mark.parametrize("how", ["truncated", "written to", "replaced", "removed"])
@pytest.mark.parametrize("when", ["before an epoch", "in an epoch"])
def test_a_file_that_changes_while_it_is_used_is_an_error(
    betons: Path, tmp_path: Path, decoded: list[int], decoder: str, how: str, when: str
) -> None:
    path = tmp_path / "train.beton"
    for name in ("train.beton", "train.beton.json"):
        shutil.copy(betons / name, tmp_path / name)
    with create_loader(path, batch_size=8, train=True) as loader:
        batches = loader.batches()
        if when == "in an epoch":
            next(batches)
            _wait_until_no_batch_is_read(decoded, decoder)
        match how:
            case "truncated":
                os.truncate(path, 1000)
            case "written to":
                with path.open("r+b") as file:
                    file.write(b"\0" * 100)
            case "replaced":
                shutil.copy(betons / "train.beton", tmp_path / "other")
                (tmp_path / "other").rename(path)
            case "removed":
                path.unlink()
        with pytest.raises(DataError, match=r"train\.beton: was changed while it was in use"):
            list(batches)


def test_a_loader_does_not_change_torchs_number_of_threads(betons: Path) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(before + 1)
        loader = create_loader(betons / "train.beton", batch_size=8, train=True, workers=1)
        list(loader.batches())
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


def test_warming_up_changes_no_batch(betons: Path) -> None:
    warm, cold = (create_loader(betons / "train.beton", batch_size=50, train=True) for _ in range(2))
    warm.warm_up()
    assert torch.equal(_all(warm)[0], _all(cold)[0])


def test_more_workers_than_cores_become_as_many_as_the_cores(betons: Path) -> None:
    cores = usable_cores()
    with pytest.warns(
        FastCifarWarning, match=f"workers is 64, and this process may use {cores}: decoding with {cores}"
    ):
        many = create_loader(betons / "train.beton", batch_size=8, train=True, workers=64)
    few = create_loader(betons / "train.beton", batch_size=8, train=True, workers=cores)
    assert torch.equal(_all(many)[0], _all(few)[0])


def test_a_training_batch_larger_than_the_data_set_is_refused(betons: Path) -> None:
    with pytest.raises(ConfigError, match=r"batch_size is 201; .* has 200 images to train on: choose at most 200"):
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
    assert sum(len(labels) for _, labels in loader.batches()) == 10_000


@pytest.mark.gpu
def test_batches_on_a_slow_gpu_are_equal_to_those_on_the_cpu(betons: Path) -> None:
    host = create_loader(betons / "train.beton", batch_size=8, train=True, seed=2)
    device = create_loader(betons / "train.beton", batch_size=8, train=True, seed=2, device="cuda")
    for epoch in range(3):
        expected = [(images.sum().item(), labels.sum().item()) for images, labels in host.batches(epoch)]
        sums = []
        for images, labels in device.batches(epoch):
            torch.cuda._sleep(20_000_000)  # training that takes longer than decoding
            sums.append(torch.stack((images.sum(), labels.sum())))
        assert [tuple(row) for row in torch.stack(sums).tolist()] == expected
