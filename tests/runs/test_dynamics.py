from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from fastcifar.errors import CheckpointError, ConfigError
from fastcifar.runs.dynamics import EpochSamples, epoch_path, read_epochs, remove_epochs_after, write_epoch


def _samples(seed: int = 0) -> EpochSamples:
    generator = np.random.default_rng(seed)
    return EpochSamples(
        index=np.sort(generator.permutation(1000)[:50]),
        label=generator.integers(0, 10, 50),
        predicted=generator.integers(0, 10, 50),
        loss=generator.random(50, dtype=np.float32),
        margin=generator.normal(size=50).astype(np.float32),
    )


def test_records_are_read_as_they_were_written(tmp_path: Path) -> None:
    for epoch in (1, 2):
        write_epoch(tmp_path, epoch, _samples(epoch))
    for epoch, samples in enumerate(read_epochs(tmp_path), start=1):
        for name, values in vars(_samples(epoch)).items():
            assert np.array_equal(getattr(samples, name), values), name
            assert getattr(samples, name).dtype == values.dtype, name
    assert epoch == 2


def test_the_files_are_one_table_for_other_programs(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    for epoch in (1, 2):
        write_epoch(tmp_path, epoch, _samples(epoch))
    table = parquet.read_table(tmp_path / "dynamics")
    assert table.column_names == ["epoch", "index", "label", "predicted", "correct", "loss", "margin"]
    assert table["epoch"].to_pylist() == 50 * [1] + 50 * [2]
    assert table["correct"].to_pylist() == [*_samples(1).correct.tolist(), *_samples(2).correct.tolist()]


def test_a_file_is_replaced_completely_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_epoch(tmp_path, 1, _samples())
    before = epoch_path(tmp_path, 1).read_bytes()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left") as full:
        write_epoch(tmp_path, 1, _samples(7))
    assert full.value.filename == str(epoch_path(tmp_path, 1))
    assert epoch_path(tmp_path, 1).read_bytes() == before
    assert len(list((tmp_path / "dynamics").iterdir())) == 1


def test_later_epochs_are_removed(tmp_path: Path) -> None:
    remove_epochs_after(tmp_path, 0)
    for epoch in (1, 2, 3):
        write_epoch(tmp_path, epoch, _samples())
    remove_epochs_after(tmp_path, 1)
    assert [path.name for path in (tmp_path / "dynamics").iterdir()] == ["epoch-0001.parquet"]


def test_missing_and_damaged_records_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no records of its training images .* train with --dynamics"):
        list(read_epochs(tmp_path))
    write_epoch(tmp_path, 2, _samples())
    with pytest.raises(CheckpointError, match=r"epoch-0001.parquet: is missing"):
        list(read_epochs(tmp_path))
    whole = epoch_path(tmp_path, 2).read_bytes()
    for content in (b"", whole[:100], whole[:-50], b"PAR1 no records PAR1"):
        epoch_path(tmp_path, 1).write_bytes(content)
        with pytest.raises(CheckpointError, match=r"epoch-0001.parquet: cannot be read as the records of an epoch"):
            list(read_epochs(tmp_path))


def test_records_without_pyarrow_name_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_epoch(tmp_path, 1, _samples())
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"not installed \(.*pyarrow.*\): pip install 'fastcifar\[parquet\]'"):
        list(read_epochs(tmp_path))
