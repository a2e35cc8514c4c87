"""Variations of a data set: classes, then a subset, then wrong labels; the test labels stay true."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastcifar.cli import main
from fastcifar.data import source_check, writer
from fastcifar.data.decode_all import decode_all
from fastcifar.data.images import Origin, Source
from fastcifar.data.manifest import dataset_sha256, manifest_path, read_manifest, read_true_labels
from fastcifar.data.source_check import check_source
from fastcifar.data.sources import open_source
from fastcifar.data.split import stratified_subset
from fastcifar.data.synthetic import SHAPES
from fastcifar.data.variation import Variation
from fastcifar.data.vary import read_confusion, vary
from fastcifar.errors import ConfigError, DataError
from tests.helpers import write_pair

NAMES = tuple(SHAPES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The .betons of 600 training images and 50 test images."""
    return write_pair(tmp_path_factory.mktemp("whole"), train=600, test=50)


@pytest.fixture(scope="module")
def source(folder: Path) -> Source:
    return open_source(folder)


def write(folder: Path, out: Path, *flags: str) -> Path:
    assert main(["write-beton", "--source", str(folder), "--out", str(out), *flags]) == 0
    return out


def refuse(source: Source, message: str, **changes: Any) -> None:
    with pytest.raises(ConfigError, match=message):
        vary(source, Variation(**changes))


def test_classes_are_kept_in_the_given_order_in_both_splits(source: Source) -> None:
    kept = vary(source, Variation(classes=(f"{NAMES[7]}, {NAMES[2]}", NAMES[4])))
    assert kept.class_names == (NAMES[7], NAMES[2], NAMES[4])
    for split, whole in ((kept.train, source.train), (kept.test, source.test)):
        chosen = np.isin(whole.labels, (7, 2, 4))
        assert np.array_equal(np.array([7, 2, 4])[split.labels], whole.labels[chosen])
        assert np.array_equal(split.images, whole.images[chosen])
    (recorded,) = kept.variations
    assert (recorded.classes, recorded.source_samples) == (kept.class_names, (600, 50))


def test_classes_that_cannot_be_kept_are_refused(source: Source) -> None:
    refuse(source, rf"classes has '{NAMES[0][:-1]}'.*did you mean {NAMES[0]}\?", classes=(NAMES[0][:-1], NAMES[1]))
    refuse(source, "at least two different classes", classes=(NAMES[0],))
    refuse(source, "at least two different classes", classes=(NAMES[0], NAMES[0]))
    noisy = vary(source, Variation(label_noise=0.1))
    refuse(noisy, "cannot be chosen from labels with noise", classes=NAMES[:2])
    no_test = dataclasses.replace(source, test=source.test._replace(labels=np.full_like(source.test.labels, 9)))
    refuse(no_test, "has no test image of these classes", classes=NAMES[:2])


@pytest.mark.parametrize(("size", "count"), [(0.1, 100), (100, 100), (1, 1), (7, 7), (1000, 1000), (0.0001, 1)])
def test_a_subset_has_its_size_and_the_same_part_of_each_class(size: float, count: int) -> None:
    labels = np.repeat(np.arange(4), [500, 300, 195, 5])
    chosen = stratified_subset(labels, size, seed=3)
    assert len(chosen) == len(set(chosen.tolist())) == count
    per_class = np.bincount(labels[chosen], minlength=4)
    assert (np.abs(per_class - count * np.array([0.5, 0.3, 0.195, 0.005])) <= 1).all()
    assert (per_class > 0).all() or count < 4
    assert np.array_equal(chosen, stratified_subset(labels, size, seed=3))
    assert count in (1, 1000) or not np.array_equal(chosen, stratified_subset(labels, size, seed=4))


def test_smaller_subsets_are_parts_of_larger_ones() -> None:
    labels = np.random.default_rng(0).integers(0, 7, 400)
    chosen = [set(stratified_subset(labels, count, seed=0).tolist()) for count in range(1, 400, 13)]
    assert all(small < large for small, large in itertools.pairwise(chosen))


@pytest.mark.parametrize("size", [0, 1.5, -3, float("nan"), float("inf")])
def test_sizes_that_mean_nothing_are_refused(size: float) -> None:
    with pytest.raises(ConfigError, match=r"subset is .*a fraction above 0 and below 1, or a whole number of images"):
        Variation(subset=size)


def test_symmetric_noise_changes_exactly_its_part_of_the_labels(source: Source) -> None:
    noisy = vary(source, Variation(label_noise=0.4, seed=1))
    changed = noisy.train.labels != source.train.labels
    assert changed.sum() == 240
    shifts = np.bincount((noisy.train.labels - source.train.labels)[changed] % 10, minlength=10)
    assert shifts[0] == 0
    assert shifts[1:].min() > 10, "each of the nine other classes is as likely"
    assert np.array_equal(noisy.true_labels, source.train.labels)
    assert np.array_equal(noisy.test.labels, source.test.labels)
    assert np.array_equal(noisy.train.labels, vary(source, Variation(label_noise=0.4, seed=1)).train.labels)


def test_noise_of_a_confusion_matrix_follows_its_rows(source: Source, tmp_path: Path) -> None:
    matrix = np.eye(10)
    matrix[3, [3, 5]] = 0.5
    matrix[8, [8, 0]] = 0, 1
    (tmp_path / "m.csv").write_text("\n".join(",".join(map(str, row)) for row in matrix))
    (tmp_path / "m.json").write_text(json.dumps(matrix.tolist()))
    rows = read_confusion(tmp_path / "m.csv")
    assert rows == read_confusion(tmp_path / "m.json")
    noisy = vary(source, Variation(confusion=rows))
    for label in range(10):
        given = np.bincount(noisy.train.labels[source.train.labels == label], minlength=10)
        assert set(np.flatnonzero(given)) == set(np.flatnonzero(matrix[label]))
    assert 0.3 < (noisy.train.labels[source.train.labels == 3] == 5).mean() < 0.7
    refuse(vary(source, Variation(classes=NAMES[:3])), "a matrix of 10 classes; the data set has 3", confusion=rows)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "1,0\n0.5,0.4", "row 2 sums to 0.9"),
        ("a.csv", "1,0\n-1,2", "row 2 sums to 1"),
        ("a.csv", "1,0,0\n0,1,0", r"not \[2, 3\]"),
        ("a.csv", "1,0\n1", "cannot be read as a confusion matrix"),
        ("a.csv", "cat,dog\n1,0", "cannot be read as a confusion matrix"),
        ("a.csv", "", "one row and one column per class"),
        ("a.json", "[[1, 0], [0, null]]", "row 2 sums to nan"),
        ("a.json", "{", "cannot be read as a confusion matrix"),
        ("a.json", '{"a": 1}', "cannot be read as a confusion matrix"),
    ],
)
def test_a_file_that_is_no_confusion_matrix_is_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        read_confusion(tmp_path / name)
    with pytest.raises(DataError, match="cannot be read as a confusion matrix"):
        read_confusion(tmp_path / "missing.csv")


def test_betons_are_a_source_of_variations_which_the_manifest_records(
    folder: Path, source: Source, tmp_path: Path
) -> None:
    one = write(folder, tmp_path / "one", "--classes", ",".join(NAMES[5:]), "--subset", "100", "--label-noise", "0.2")
    manifest = read_manifest(one / "train.beton")
    true = read_true_labels(manifest)
    assert true is not None
    assert manifest.variations[0].source_samples == (600, 50)
    assert manifest.describe_variations() == "5 classes, subset of 100 images, label noise 0.2, seed 0"
    kept = vary(source, Variation(classes=NAMES[5:], subset=100))
    images, labels = decode_all(one / "train.beton")
    assert np.array_equal(images, kept.train.images)
    assert np.array_equal(true, kept.train.labels)
    assert (labels != true).sum() == 20
    assert read_true_labels(read_manifest(one / "test.beton")) is None
    assert read_manifest(one / "test.beton").samples == len(kept.test.labels)

    two = write(one, tmp_path / "two", "--subset", "0.5", "--seed", "3")
    chosen = stratified_subset(labels, 0.5, seed=3)
    manifest = read_manifest(two / "train.beton")
    assert [one.seed for one in manifest.variations] == [0, 3]
    assert np.array_equal(read_true_labels(manifest), true[chosen])
    assert manifest.source == str(one)
    for wrong in (folder, one):
        with pytest.raises(DataError, match="and not what the source"):
            check_source(wrong, str(two))
    for origin in (folder, one, two):
        check_source(two, str(origin))


def test_a_variation_of_downloaded_or_drawn_images_is_known(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = vary(source, Variation(subset=0.5))
    writer.write_pair(tmp_path, dataclasses.replace(changed, origin=Origin(path="synthetic", fingerprint="")))
    check_source(tmp_path, "synthetic")
    monkeypatch.setattr(source_check, "open_source", lambda _: source)
    check_source(tmp_path, "download")
    for other in (Variation(classes=NAMES[:3]), Variation(subset=0.4)):
        monkeypatch.setattr(source_check, "open_source", functools.partial(lambda made, _: made, vary(source, other)))
        with pytest.raises(DataError, match="and not what the source download has now"):
            check_source(tmp_path, "download")


def test_a_variation_is_written_again_only_if_it_differs(folder: Path, tmp_path: Path) -> None:
    path = write(folder, tmp_path / "out", "--subset", "0.5") / "train.beton"
    written = path.stat().st_mtime_ns
    write(folder, tmp_path / "out", "--subset", "0.5")
    assert path.stat().st_mtime_ns == written
    write(folder, tmp_path / "out", "--subset", "0.5", "--seed", "1")
    assert path.stat().st_mtime_ns > written


def test_the_betons_that_are_read_are_not_replaced(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (folder / "train.beton").read_bytes()
    assert main(["write-beton", "--source", str(folder), "--out", str(folder), "--subset", "0.5"]) == 2
    assert "which has the .beton files to read: choose another folder" in capsys.readouterr().err
    assert (folder / "train.beton").read_bytes() == before


def test_betons_beside_a_data_set_do_not_hide_it(tmp_path: Path) -> None:
    write_pair(tmp_path, train=20, test=10)
    images, labels = np.zeros((4, 8, 8, 3), np.uint8), np.arange(4) % 2
    (tmp_path / "deep").mkdir()
    np.savez(tmp_path / "deep" / "a.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    assert open_source(tmp_path).name == "npz"
    assert open_source(tmp_path, source_format="beton").name == "synthetic"
    (tmp_path / "deep" / "a.npz").unlink()
    assert dataset_sha256(*open_source(tmp_path).train) == read_manifest(tmp_path / "train.beton").content_sha256
    with pytest.raises(ConfigError, match=r"has a test.beton"):
        open_source(tmp_path, test_fraction=0.5)
    with pytest.raises(ConfigError, match="only pictures can be resized"):
        open_source(tmp_path, resize=16)
    (tmp_path / "test.beton").unlink()
    with pytest.raises(DataError, match=r"test\.beton: there is no such file"):
        open_source(tmp_path)


@pytest.mark.parametrize("text", ["!", "AAAA", "eJwDAAAAAAE="])
def test_damaged_true_labels_are_refused(folder: Path, tmp_path: Path, text: str) -> None:
    path = write(folder, tmp_path / "noisy", "--label-noise", "0.1") / "train.beton"
    values = json.loads(manifest_path(path).read_text())
    manifest_path(path).write_text(json.dumps({**values, "packed_true_labels": text}))
    with pytest.raises(DataError, match="the true labels in the manifest"):
        read_true_labels(read_manifest(path))
