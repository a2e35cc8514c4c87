from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from benchmarks import peers
from benchmarks.time_to_90 import TimeTo90
from fastcifar.errors import ConfigError, FastCifarError
from fastcifar.machine import has_fast_bfloat16

SCRIPT = """
import os
import random
import sys
import time
import torch

class CifarLoader:
    def __init__(self, path, train=True, seconds=0):
        time.sleep(seconds)
        data = torch.load(os.path.join(path, "train.pt" if train else "test.pt"), map_location=torch.device("cuda"))
        self.images, self.labels = data["images"].half() / 255, data["labels"]

@torch.compile
def halve(x):
    return x / 2

def main(run, options, model):
    torch.manual_seed(random.randint(0, 2**63))
    drawn = torch.rand(()).item()
    loaders = [CifarLoader("cifar10", train=train) for train in (True, False)]
    images = loaders[0].images
    assert images.dtype == torch.half and (images.is_cuda or images.bfloat16().dtype == torch.half)
    assert model._orig_mod.weight.dtype == torch.half and options == "options"
    print("a line of the project")
    starter, ender = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    starter.record()
    CifarLoader("cifar10", seconds=0.3)
    steps = halve(2 * 8 * 10)
    ender.record()
    torch.cuda.synchronize()
    return len(loaders[0].labels) / 1e3, steps / 1e3, drawn, 1e-3 * starter.elapsed_time(ender)

if __name__ == "__main__":
    model = torch.compile(torch.nn.Linear(1, 1).half().cuda(), mode="max-autotune")
    main(1, "options", model)
"""
PATCH = """--- a/train.py
+++ b/train.py
@@ -6,0 +7 @@
+from serve import DEVICE, epochs, serve
@@ -11 +12 @@
-        data = torch.load(os.path.join(path, "train.pt" if train else "test.pt"), map_location=torch.device("cuda"))
+        data = torch.load(os.path.join(path, "train.pt" if train else "test.pt"), map_location=DEVICE)
@@ -29 +30 @@
-    steps = halve(2 * 8 * 10)
+    steps = halve(2 * epochs() * 10)
@@ -36 +37 @@
-    main(1, "options", model)
+    sys.exit(serve(main, CifarLoader, "options", model))
"""


@pytest.fixture
def project(tmp_path: Path) -> peers.Project:
    """A repository with a script in a folder, and the patch for it."""
    checkout = tmp_path / "checkout"
    (checkout / "legacy").mkdir(parents=True)
    (checkout / "legacy" / "train.py").write_text(SCRIPT)
    (tmp_path / "train.patch").write_text(PATCH)
    for command in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "a"]):
        subprocess.run(["git", "-C", str(checkout), *command], check=True)
    head = subprocess.run(["git", "-C", str(checkout), "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    return peers.Project(
        name="owner/train",
        commit=head.stdout.strip(),
        script="legacy/train.py",
        patch=tmp_path / "train.patch",
        epochs=2.5,
    )


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def settings(project: peers.Project, betons: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TimeTo90:
    monkeypatch.setitem(peers.AIRBENCH, "95", project)
    (tmp_path / "work").mkdir()
    options: dict[str, Any] = {"airbench_scripts": ("95",), "airbench_epochs": (2.5, 3.0)}
    return TimeTo90(recipes=(), data_dir=betons, airbench=tmp_path / "checkout", **options)


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
        assert 0 < run["train_seconds"] - run["load_seconds"] < 1, "a random number"
        assert run["tta_seconds"] == pytest.approx(run["seconds"] - run["train_seconds"])
        assert 0 < run["load_seconds"] < 0.3 <= run["seconds"] - run["load_seconds"] < 10, "loads again on its clock"


def test_the_seed_decides_all_random_numbers_of_a_script(settings: TimeTo90, tmp_path: Path, stack: ExitStack) -> None:
    (peer,) = peers.start_peers(replace(settings, airbench_epochs=()), torch.device("cpu"), tmp_path / "work", stack)
    (train,) = peer.trainings.values()
    drawn = [run["train_seconds"] - run["load_seconds"] for run in map(train, (7, 8, 7))]
    assert drawn[0] == pytest.approx(drawn[2]) != pytest.approx(drawn[1])


def test_scripts_train_their_own_number_of_epochs_unless_others_are_given(
    settings: TimeTo90, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stack: ExitStack
) -> None:
    started = []
    monkeypatch.setattr(peers, "start", lambda project, checkout, epochs, *_: started.append((project.script, epochs)))
    for scripts, epochs in ((("94_muon", "96"), ()), (("94_muon",), (8.0,))):
        options: dict[str, Any] = {"airbench_scripts": scripts, "airbench_epochs": epochs}
        (tmp_path / scripts[-1]).mkdir()
        peers.start_peers(replace(settings, **options), torch.device("cpu"), tmp_path / scripts[-1], stack)
    assert started == [("airbench94_muon.py", (2.75,)), ("airbench96_faster.py", (45,)), ("airbench94_muon.py", (8.0,))]
    assert get_args(peers.AirbenchScript) == tuple(peers.AIRBENCH)


def test_an_empty_choice_of_scripts_is_refused() -> None:
    with pytest.raises(ConfigError, match="airbench_scripts is empty; name 94_muon, 95, 96, or several of them"):
        TimeTo90(recipes=("speedrun",), airbench_scripts=())


def test_a_peer_computes_in_float32_on_a_cpu_without_bfloat16(
    settings: TimeTo90, project: peers.Project, tmp_path: Path, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastcifar.device.has_fast_bfloat16", lambda: False)
    (peer,) = peers.start_peers(settings, torch.device("cpu"), tmp_path / "work", stack)
    assert peer.description["precision"] == "float32"
    assert ".dtype == torch.float32" in (tmp_path / "work" / "train.py").read_text()
    assert peer.trainings["train, 3 epochs"](7)["final_accuracy"] == 0.2, "its script asserts the precision"


@pytest.mark.gpu
def test_a_peer_trains_in_float16_on_a_gpu(settings: TimeTo90, tmp_path: Path, stack: ExitStack) -> None:
    (peer,) = peers.start_peers(settings, torch.device("cuda"), tmp_path / "work", stack)
    assert peer.description["precision"] == "float16"
    assert peer.trainings["train, 3 epochs"](7)["final_accuracy"] == 0.2


def test_a_process_that_fails_is_one_error(settings: TimeTo90, tmp_path: Path, stack: ExitStack) -> None:
    (peer,) = peers.start_peers(settings, torch.device("cpu"), tmp_path / "work", stack)
    (tmp_path / "work" / "cifar10" / "test.pt").unlink()
    with pytest.raises(FastCifarError, match="owner/train: its process ended with code 1; see its messages above"):
        peer.trainings["train, 3 epochs"](7)


def test_another_checkout_is_refused(settings: TimeTo90, betons: Path, tmp_path: Path, stack: ExitStack) -> None:
    for checkout in (tmp_path / "none", betons):
        (tmp_path / "work" / checkout.name).mkdir()
        other = replace(settings, airbench=checkout)
        with pytest.raises(ConfigError, match=r"is not a checkout of owner/train with commit .*; clone it there"):
            peers.start_peers(other, torch.device("cpu"), tmp_path / "work" / checkout.name, stack)


@pytest.mark.parametrize("project", [*peers.AIRBENCH.values(), peers.HIVERGE], ids=lambda project: project.script)
def test_the_patches_fit_the_pinned_commits(project: peers.Project, tmp_path: Path) -> None:
    folder = os.environ.get("FASTCIFAR_PEERS")
    if folder is None:
        pytest.skip("needs checkouts of the peers in FASTCIFAR_PEERS")
    checkout = Path(folder) / project.name.split("/")[1]
    show = ["git", "-C", str(checkout), "show", f"{project.commit}:{project.script}"]
    script = tmp_path / Path(project.script).name
    script.write_bytes(subprocess.run(show, check=True, capture_output=True).stdout)
    subprocess.run(["git", "apply", "--unidiff-zero", str(project.patch)], cwd=tmp_path, check=True)
    assert "serve(main, " in script.read_text()
