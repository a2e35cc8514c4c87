from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import common
from benchmarks.soak import Soak
from benchmarks.tables import ROOT
from fastcifar.device import RECOMPILE_LIMIT
from fastcifar.errors import FastCifarError


def test_bad_input_to_a_benchmark_is_one_line(tmp_path: Path) -> None:
    missing, out = str(tmp_path), str(tmp_path / "out.json")
    commands = {
        ("throughput", "--data-dir", missing): r"throughput: .*train\.beton: there is no such file; `fastcifar write",
        ("time_to_90", "speedrum", "--data-dir", missing): "time_to_90: recipe is 'speedrum'.*did you mean speedrun",
        ("record", missing, "--benchmark", "a", "--out", out): "record: .*is not a run folder",
    }
    for arguments, message in commands.items():
        command = [sys.executable, "-m", f"benchmarks.{arguments[0]}", *arguments[1:]]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode in (1, 2)
        assert re.fullmatch(f"{message}.*\n", done.stderr), done.stderr


def test_a_failed_subprocess_is_one_error_with_its_reason() -> None:
    assert common.run_in_subprocess(["-c", "print(3)"]) == "3\n"
    with pytest.raises(FastCifarError, match=r"code 4: no such recipe$"):
        common.run_in_subprocess(["-c", "import sys; print('first\\nno such recipe', file=sys.stderr); sys.exit(4)"])
    with pytest.raises(FastCifarError, match=r"code 5: nothing on stderr$"):
        common.run_in_subprocess(["-c", "import sys; sys.exit(5)"])


def test_the_command_line_sets_the_process_up_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, int]] = []

    def main(settings: Soak) -> None:
        seen.append((settings.device, torch.compiler.config.recompile_limit))

    monkeypatch.setattr(sys, "argv", ["soak", "--device", "cpu"])
    with torch.compiler.config.patch(recompile_limit=8), pytest.raises(SystemExit, match="0"):
        common.run_command(main, Soak, None)
    assert seen == [("cpu", RECOMPILE_LIMIT)]
