"""The download of CIFAR-10, from a server on this machine: it resumes, is checked, and explains its failures."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import numpy as np
import pytest

from fastcifar.data import cifar10
from fastcifar.data.sources import open_source
from fastcifar.progress import Progress
from tests.data.cifar_files import Handler, Server, assert_equals_records, refusal

pytestmark = pytest.mark.usefixtures("no_source_variable")

BODY = np.random.default_rng(1).bytes(300_000)
BODY_MD5 = hashlib.md5(BODY).hexdigest()


def test_an_interrupted_download_resumes(tmp_path: Path, server: Server) -> None:
    archive, part = tmp_path / "a.tar.gz", tmp_path / "a.tar.gz.part"
    server.body, server.breaks_after = BODY, 100_000
    with pytest.raises(OSError, match="ended 200000 bytes early"):
        cifar10.fetch(server.url, archive, BODY_MD5)
    assert part.stat().st_size == 100_000
    assert not archive.exists()
    server.breaks_after = None
    cifar10.fetch(server.url, archive, BODY_MD5)
    assert archive.read_bytes() == BODY
    assert not part.exists()
    assert server.ranges == [None, "bytes=100000-"]


def test_a_download_reports_its_progress_also_when_it_resumes(tmp_path: Path, server: Server) -> None:
    server.body = BODY
    (tmp_path / "a.tar.gz.part").write_bytes(BODY[:200_000])
    seen: list[Progress] = []
    cifar10.fetch(server.url, tmp_path / "a.tar.gz", BODY_MD5, seen.append)
    assert seen[-1] == Progress(task="downloading", done=0.3, total=0.3, unit="MB")
    assert all(0.2 < progress.done <= 0.3 for progress in seen)


def test_an_incomplete_archive_of_another_program_is_completed(tmp_path: Path, server: Server) -> None:
    server.body = BODY
    (tmp_path / "a.tar.gz").write_bytes(BODY[:1234])
    cifar10.fetch(server.url, tmp_path / "a.tar.gz", BODY_MD5)
    assert (tmp_path / "a.tar.gz").read_bytes() == BODY
    assert server.ranges == ["bytes=1234-"]


def test_a_download_starts_again_if_the_server_has_no_ranges(tmp_path: Path, server: Server) -> None:
    server.body, server.with_ranges = BODY, False
    (tmp_path / "a.tar.gz.part").write_bytes(BODY[:1234])
    cifar10.fetch(server.url, tmp_path / "a.tar.gz", BODY_MD5)
    assert (tmp_path / "a.tar.gz").read_bytes() == BODY
    assert server.ranges == ["bytes=1234-"]


def test_a_silent_server_is_an_error_after_a_timeout(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cifar10, "SOCKET_TIMEOUT", 0.2)
    monkeypatch.setattr(Handler, "do_GET", lambda self: time.sleep(2))
    with pytest.raises(TimeoutError):
        cifar10.fetch(server.url, tmp_path / "a.tar.gz", BODY_MD5)


@pytest.mark.parametrize("left", [b"something else", bytes(len(BODY)), bytes(len(BODY) + 1)])
def test_a_download_starts_again_if_the_partial_file_is_another_file(
    tmp_path: Path, server: Server, left: bytes
) -> None:
    server.body = BODY
    (tmp_path / "a.tar.gz.part").write_bytes(left)
    cifar10.fetch(server.url, tmp_path / "a.tar.gz", BODY_MD5)
    assert (tmp_path / "a.tar.gz").read_bytes() == BODY
    assert server.ranges == [f"bytes={len(left)}-", None]


def test_a_complete_partial_file_is_renamed(tmp_path: Path, server: Server) -> None:
    server.body = BODY
    (tmp_path / "a.tar.gz.part").write_bytes(BODY)
    cifar10.fetch(server.url, tmp_path / "a.tar.gz", BODY_MD5)
    assert (tmp_path / "a.tar.gz").read_bytes() == BODY


def test_a_download_with_a_wrong_checksum_is_refused_and_leaves_nothing(tmp_path: Path, server: Server) -> None:
    server.body = BODY
    with pytest.raises(OSError, match=f"MD5 {BODY_MD5}, not {'0' * 32}"):
        cifar10.fetch(server.url, tmp_path / "a.tar.gz", "0" * 32)
    assert list(tmp_path.iterdir()) == []


def test_a_download_is_checked_unpacked_read_and_kept(
    tmp_path: Path, published: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "deep" / "cache"
    for _ in range(2):
        assert_equals_records(open_source("download", cache=cache))
    assert published.ranges == [None]
    assert capsys.readouterr().out == ""


def test_batches_are_downloaded_again_only_if_they_are_damaged(tmp_path: Path, published: Server) -> None:
    cache = tmp_path / "cache"
    open_source("download", cache=cache)
    (cache / "cifar-10-python.tar.gz").unlink()
    assert_equals_records(open_source("download", cache=cache))
    assert len(published.ranges) == 1
    batch = cache / "cifar-10-batches-py" / "data_batch_3"
    batch.write_bytes(batch.read_bytes()[:-1] + b"x")
    (cache / "cifar-10-python.tar.gz.part").write_bytes(published.body[:100])
    assert_equals_records(open_source("download", cache=cache))
    assert published.ranges == [None, "bytes=100-"]


def test_without_a_network_the_error_says_how_to_provide_the_files(tmp_path: Path, published: Server) -> None:
    published.body, published.breaks_after = published.body, 10
    message = refusal("download", cache=tmp_path / "cache")
    for part in ("bytes early", str(tmp_path / "cache"), "cifar-10-python.tar.gz", "FASTCIFAR_DATA", "synthetic"):
        assert part in message


def test_a_missing_server_is_a_data_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR10

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(CIFAR10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    assert "cannot be downloaded from http://127.0.0.1:9/" in refusal("download", cache=tmp_path)


def test_a_cache_folder_that_cannot_be_created_is_a_data_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot be downloaded" in refusal("download", cache=tmp_path / "file" / "cache")


def test_an_interrupted_extraction_is_completed_without_the_network(tmp_path: Path, published: Server) -> None:
    cache = tmp_path / "cache"
    open_source("download", cache=cache)
    (cache / "cifar-10-batches-py" / "data_batch_2").write_bytes(b"")
    (cache / "cifar-10-batches-py" / "data_batch_5").unlink()
    assert_equals_records(open_source("auto", cache=cache))
    assert len(published.ranges) == 1
