"""Everything runs where Python lacks what only Linux, or only Unix, has."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

IMITATE_WINDOWS = """
import os, signal, sys
import torch  # before its requirements are gone, too
for name in ("fcntl", "resource", "termios", "ffcv", "cv2"):
    sys.modules[name] = None
for owner, names in {
    os: ("sched_getaffinity", "sched_setaffinity", "fork", "register_at_fork", "O_CLOEXEC"),
    signal: ("SIGHUP", "SIGTSTP", "SIGUSR1", "SIGUSR2", "SIGXCPU"),
}.items():
    for name in names:
        delattr(owner, name)
"""
OTHERS_NEED = (
    "fastcifar.__main__", "fastcifar.data.ffcv_compat", "fastcifar.sweep.cluster_ray", "fastcifar.sweep.engine_ray"
)  # fmt: skip
"""Modules that are not imported: the command itself, and those of packages that need what is taken away."""
IMPORT_AND_TRAIN = f"""
import importlib, pkgutil
import fastcifar
for module in pkgutil.walk_packages(fastcifar.__path__, "fastcifar."):
    if module.name not in {OTHERS_NEED}:
        importlib.import_module(module.name)
from fastcifar.cli import main
sys.exit(main(["train", *sys.argv[1:]]))
"""


def test_every_module_is_imported_and_a_run_is_trained_without_what_windows_lacks(betons: Path, tmp_path: Path) -> None:
    folders = ["--data-dir", str(betons), "--run-dir", str(tmp_path / "run"), "--no-report"]
    tiny = ["--model", "dilated_cnn", "--batch-size", "50", "--epochs", "1", "--device", "cpu"]
    command = [sys.executable, "-c", IMITATE_WINDOWS + IMPORT_AND_TRAIN, *folders, *tiny]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert (tmp_path / "run" / "checkpoints" / "last.pt").exists()
