"""The choice of a data set by `open_source`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fastcifar.data.sources import clamp_workers, open_source
from fastcifar.errors import ConfigError
from fastcifar.machine import usable_cores
from tests.data.cifar_files import (
    Server,
    assert_equals_records,
    refusal,
    write_binary,
    write_image_folder,
    write_python,
)

pytestmark = pytest.mark.usefixtures("no_source_variable")


def test_the_error_for_a_missing_path_lists_the_accepted_sources(tmp_path: Path) -> None:
    message = refusal(tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in message
    for accepted in ("auto", "download", "synthetic", "cifar-10-batches-py", "cifar-10-batches-bin", "train/<class>"):
        assert accepted in message


def test_a_folder_without_classes_is_refused(tmp_path: Path) -> None:
    assert "there is no data set in this folder" in refusal(tmp_path)


def test_resize_is_refused_for_images_with_a_fixed_size(tmp_path: Path) -> None:
    write_binary(tmp_path / "bin")
    assert_equals_records(open_source(tmp_path / "bin", resize=32))
    with pytest.raises(ConfigError, match=r"resize is 16; only pictures can be resized"):
        open_source(tmp_path / "bin", resize=16)
    with pytest.raises(ConfigError, match="resize is 0"):
        open_source(tmp_path, resize=0)


def test_workers_are_clamped_to_the_usable_cores() -> None:
    assert usable_cores() == len(os.sched_getaffinity(0))
    assert clamp_workers(None) == usable_cores()
    assert clamp_workers(10_000) == usable_cores()
    assert clamp_workers(1) == 1
    with pytest.raises(ConfigError, match="workers is 0"):
        clamp_workers(0)


def test_auto_uses_the_environment_variable_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_python(tmp_path / "cache" / "cifar-10-batches-py")
    monkeypatch.setenv("FASTCIFAR_DATA", str(write_image_folder(tmp_path / "named")))
    assert open_source("auto", cache=tmp_path / "cache").name == "image-folder"


def test_auto_resizes_an_image_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_image_folder(tmp_path / "named")
    assert open_source("auto", cache=folder, resize=8).train.images.shape == (6, 8, 8, 3)
    monkeypatch.setenv("FASTCIFAR_DATA", str(folder))
    assert open_source("auto", cache=tmp_path / "cache", resize=8).train.images.shape == (6, 8, 8, 3)


def test_auto_does_not_ignore_a_bad_environment_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_python(tmp_path / "cache" / "cifar-10-batches-py")
    monkeypatch.setenv("FASTCIFAR_DATA", str(tmp_path / "nowhere"))
    message = refusal("auto", cache=tmp_path / "cache")
    assert "FASTCIFAR_DATA" in message
    assert str(tmp_path / "nowhere") in message


def test_auto_uses_the_cache_second_and_downloads_nothing(tmp_path: Path, published: Server) -> None:
    write_binary(tmp_path / "cache" / "cifar-10-batches-bin")
    assert open_source(cache=tmp_path / "cache").name == "cifar-10-binary"
    assert published.ranges == []


def test_auto_reads_an_archive_in_the_cache(tmp_path: Path, published: Server) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "cifar-10-python.tar.gz").write_bytes(published.body)
    assert_equals_records(open_source(cache=tmp_path / "cache"))
    assert published.ranges == []


def test_auto_downloads_last(tmp_path: Path, published: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTCIFAR_DATA", "")
    assert_equals_records(open_source(cache=tmp_path / "cache"))
    assert published.ranges == [None]
