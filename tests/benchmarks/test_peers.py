from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

from benchmarks import peers
from benchmarks.time_to_90 import TimeTo90
from fastcifar.errors import ConfigError, FastCifarError
from fastcifar.machine import has_fast_bfloat16

SCRIPT = """
import os
import sys
import torch

class CifarNet(torch.nn.Module):
    pass

class CifarLoader:
    def __init__(self, path, train=True):
        data = torch.load(os.path.join(path, "train.pt" if train else "test.pt"), map_location=torch.device("cuda"))
        self.images, self.labels = data["images"].half() / 255, data["labels"]

@torch.compile
def halve(x):
    return x / 2

def main(run, model):
    loaders = [CifarLoader("cifar10", train=train) for train in (True, False)]
    assert loaders[0].images.dtype == loaders[0].images.bfloat16().dtype == torch.half
    print("a line of the project")
    starter, ender = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    starter.record()
    steps = halve(2 * 8 * 10)
    ender.record()
    torch.cuda.synchronize()
    return len(loaders[0].labels) / 1e3, steps / 1e3, 0.25, 1e-3 * starter.elapsed_time(ender) + 0.5

if __name__ == "__main__":
    main(1, CifarNet())
"""
PATCH = """--- a/train.py
+++ b/train.py
@@ -4,0 +5 @@
+from serve import DEVICE, epochs, serve
@@ -11 +12 @@
-        data = torch.load(os.path.join(path, "train.pt" if train else "test.pt"), map_location=torch.device("cuda"))
+        data = torch.load(os.path.join(path, "train.pt" if train else "test.pt"), map_location=DEVICE)
@@ -24 +25 @@
-    steps = halve(2 * 8 * 10)
+    steps = halve(2 * epochs() * 10)
@@ -29,0 +31 @@
+    sys.exit(serve(CifarNet, CifarLoader, main))
"""


@pytest.fixture
def project(tmp_path: Path) -> peers.Project:
    """A repository with a script, and the patch for it."""
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    (checkout / "train.py").write_text(SCRIPT)
    (tmp_path / "train.patch").write_text(PATCH)
    for command in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "a"]):
        subprocess.run(["git", "-C", str(checkout), *command], check=True)
    head = subprocess.run(["git", "-C", str(checkout), "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    return peers.Project(
        name="owner/train", commit=head.stdout.strip(), script="train.py", patch=tmp_path / "train.patch"
    )


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def settings(project: peers.Project, betons: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TimeTo90:
    monkeypatch.setattr(peers, "AIRBENCH", project)
    (tmp_path / "work").mkdir()
    return TimeTo90(recipes=(), data_dir=betons, airbench=tmp_path / "checkout", airbench_epochs=(2.5, 3.0))


def test_a_peer_trains_the_given_epochs_on_the_cpu_and_on_our_data(
    settings: TimeTo90, project: peers.Project, tmp_path: Path, stack: ExitStack
) -> None:
    (peer,) = peers.start_peers(settings, torch.device("cpu"), tmp_path / "work", stack)
    assert list(peer.trainings) == ["train, 2.5 epochs", "train, 3 epochs"]
    origin = {"project": "owner/train", "commit": project.commit, "patch": PATCH}
    assert peer.description == origin | {"precision": "bfloat16" if has_fast_bfloat16() else "float32"}
    for name, accuracy in (("train, 2.5 epochs", 0.025), ("train, 3 epochs", 0.03), ("train, 2.5 epochs", 0.025)):
        run = peer.trainings[name](7)
        assert run["seed"] == 7
        assert run["test_accuracy"] == accuracy, "epochs of 10 steps"
        assert run["final_accuracy"] == run["tta_accuracy"] == 0.2, "200 images"
        assert run["train_seconds"] == pytest.approx(run["load_seconds"] + 0.25)
        assert 0 < run["load_seconds"] < run["seconds"] - 0.5 < 10


def test_a_peer_computes_in_float32_on_a_cpu_without_bfloat16(
    settings: TimeTo90, project: peers.Project, tmp_path: Path, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastcifar.device.has_fast_bfloat16", lambda: False)
    (peer,) = peers.start_peers(settings, torch.device("cpu"), tmp_path / "work", stack)
    assert peer.description["precision"] == "float32"
    assert ".dtype == torch.float32" in (tmp_path / "work" / "train.py").read_text()
    assert peer.trainings["train, 3 epochs"](7)["final_accuracy"] == 0.2, "its script asserts the precision"


def test_a_process_that_fails_is_one_error(settings: TimeTo90, tmp_path: Path, stack: ExitStack) -> None:
    (peer,) = peers.start_peers(settings, torch.device("cpu"), tmp_path / "work", stack)
    (tmp_path / "work" / "cifar10" / "test.pt").unlink()
    with pytest.raises(FastCifarError, match="owner/train: its process ended with code 1; see its messages above"):
        peer.trainings["train, 3 epochs"](7)


def test_another_checkout_is_refused(settings: TimeTo90, betons: Path, tmp_path: Path, stack: ExitStack) -> None:
    for checkout in (tmp_path / "none", betons):
        other = TimeTo90(recipes=(), data_dir=betons, airbench=checkout)
        with pytest.raises(ConfigError, match=r"is not a checkout of owner/train with commit .*; clone it there"):
            peers.start(peers.AIRBENCH, checkout, other.airbench_epochs, torch.device("cpu"), tmp_path / "work", stack)


@pytest.mark.parametrize("project", [peers.AIRBENCH, peers.HIVERGE], ids=lambda project: project.name)
def test_the_patches_fit_the_pinned_commits(project: peers.Project, tmp_path: Path) -> None:
    folder = os.environ.get("FASTCIFAR_PEERS")
    if folder is None:
        pytest.skip("needs checkouts of the peers in FASTCIFAR_PEERS")
    checkout = Path(folder) / project.name.split("/")[1]
    show = ["git", "-C", str(checkout), "show", f"{project.commit}:{project.script}"]
    (tmp_path / project.script).write_bytes(subprocess.run(show, check=True, capture_output=True).stdout)
    subprocess.run(["git", "apply", "--unidiff-zero", str(project.patch)], cwd=tmp_path, check=True)
    assert "serve(CifarNet, CifarLoader, main)" in (tmp_path / project.script).read_text()
