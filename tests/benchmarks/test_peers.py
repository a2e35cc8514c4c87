from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch

from benchmarks.peers import AIRBENCH, HIVERGE, Peer, Project
from fastcifar.errors import ConfigError

HEAD = """
import os, sys
from math import ceil
import torch
with open(sys.argv[0]) as f:
    code = f.read()

class CifarNet(torch.nn.Module):
    pass

class CifarLoader:
    def __init__(self, path, train=True):
        data = torch.load(os.path.join(path, "train.pt" if train else "test.pt"), map_location=torch.device("cuda"))
        self.images, self.labels = data["images"].half() / 255, data["labels"]

    def __len__(self):
        return 10
"""
TRAINING = """
def main(run, model):
    test_loader = CifarLoader("cifar10", train=False)
    train_loader = CifarLoader(
        "cifar10", train=True
    )
    starter, ender = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    time_seconds = 0.0
    def start_timer():
        starter.record()
    def stop_timer():
        ender.record()
        torch.cuda.synchronize()
        nonlocal time_seconds
        time_seconds += 1e-3 * starter.elapsed_time(ender)
    total_train_steps = ceil({epochs} * len(train_loader))
    start_timer()
    assert train_loader.images.dtype == torch.bfloat16
    val_acc, tta_val_acc = total_train_steps / 1e3, len(train_loader.labels) / 1e3 + len(test_loader.labels) / 1e6
{end}
"""
SCRIPTS = {
    AIRBENCH.script: HEAD
    + "\n@torch.compile\ndef zeropower(x):\n    return x\n"
    + TRAINING.format(
        epochs=8,
        end="    stop_timer()\n    ##\n    #  TTA Evaluation  #\n    ##\n    start_timer()\n    stop_timer()\n"
        "    return tta_val_acc\n",
    ),
    HIVERGE.script: HEAD + "\n@torch.compile(fullgraph=True)\ndef zeropower(x: torch.half):\n    return x\n"
    "\n@torch.compile()\ndef flip(x):\n    return torch.zeros(1, device='cpu').pin_memory()\n"
    + TRAINING.format(
        epochs=7.59,
        end='    @torch.compile(mode="max-autotune", fullgraph=True)\n    def forward():\n'
        '        return torch.empty(1, device="cuda")\n    forward()\n    stop_timer()\n'
        "    return (val_acc, tta_val_acc, time_seconds)\n",
    ),
}


@pytest.fixture(params=[AIRBENCH, HIVERGE], ids=lambda project: project.name)
def peer(request: pytest.FixtureRequest, tmp_path: Path, betons: Path) -> Peer:
    """A checkout of a script with those parts of the project's code that are changed."""
    project: Project = request.param
    (tmp_path / project.script).write_text(SCRIPTS[project.script])
    for command in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "a"]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    return Peer(project, tmp_path, (2.5, 3.0), torch.device("cpu"), betons)


def test_a_peer_trains_the_given_epochs_on_the_cpu_and_on_our_data(peer: Peer, tmp_path: Path) -> None:
    trainings = peer.load(tmp_path)
    stem = Path(peer.project.script).stem
    assert list(trainings) == [f"{stem}, 2.5 epochs", f"{stem}, 3 epochs"]
    result = trainings[f"{stem}, 2.5 epochs"](7)
    assert result["seed"] == 7
    assert result["test_accuracy"] == 0.025, "2.5 epochs of 10 steps"
    assert result["final_accuracy"] == result["tta_accuracy"] == pytest.approx(0.200090), "200 and 90 images"
    assert 0 < result["load_seconds"] < result["seconds"] < 10
    assert trainings[f"{stem}, 3 epochs"](7)["test_accuracy"] == 0.03
    if result["train_seconds"] is not None:
        assert result["train_seconds"] + result["tta_seconds"] == pytest.approx(result["seconds"])


def test_a_peer_is_described_by_its_commit_and_the_changes(peer: Peer) -> None:
    described = peer.describe()
    head = subprocess.run(["git", "-C", str(peer.checkout), "rev-parse", "HEAD"], capture_output=True, text=True)
    assert described["commit"] == head.stdout.strip()
    assert (f"{peer.project.length} * len(train_loader))", "ceil(EPOCHS * len(train_loader))") in described["changes"]
    assert list(peer.names) == [2.5, 3.0]


def test_another_version_of_a_peer_is_refused(peer: Peer, tmp_path: Path) -> None:
    script = peer.checkout / peer.project.script
    script.write_text(script.read_text().replace(" * len(train_loader))", " * 50)"))
    with pytest.raises(ConfigError, match="is it another version"):
        peer.load(tmp_path)
    script.unlink()
    with pytest.raises(ConfigError, match=f"clone {peer.project.name} to this folder"):
        peer.load(tmp_path)
    nowhere = Peer(peer.project, tmp_path / "none", (1.0,), peer.device, peer.data_dir)
    with pytest.raises(ConfigError, match="is not a checkout"):
        nowhere.describe()
