from __future__ import annotations

import itertools
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks import harness
from fastcifar.device import RECOMPILE_LIMIT
from fastcifar.errors import ConfigError, FastCifarError

ROOT = Path(__file__).parent.parent.parent


def test_bad_input_to_a_benchmark_is_one_line(tmp_path: Path) -> None:
    missing = str(tmp_path)
    commands = {
        ("step", "throughput", "--data-dir", missing): r"step: .*train\.beton: there is no such file; `fastcifar write",
        ("time_to_90", "speedrum", "--data-dir", missing): "time_to_90: recipe is 'speedrum'.*did you mean speedrun",
        ("battery", "--only", "bygone", "--out", missing): "battery: only is 'bygone'; the parts are compile-speedrun",
    }
    for arguments, message in commands.items():
        command = [sys.executable, "-m", f"benchmarks.{arguments[0]}", *arguments[1:]]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode in (1, 2)
        assert re.fullmatch(f"{message}.*\n", done.stderr), done.stderr


@pytest.mark.parametrize("option", [{"rounds": 0}, {"rounds": -1}])
def test_a_timing_has_at_least_one_round(option: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=r"rounds is -?[01]; it must be a whole number, at least 1"):
        harness.Timing(**option)


def test_a_benchmark_prints_its_progress(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("fastcifar.report.progress._SILENCE_SECONDS", 0.01)
    monkeypatch.setattr(sys, "argv", ["benchmarks/sleep.py", "--rounds", "1"])

    def sleep(options: harness.Timing) -> None:
        blocks: dict[str, harness.Block] = {"[bold]sleep": lambda: time.sleep(1.2)}
        harness.time_interleaved(blocks, rounds=options.rounds, runtime=options.runtime())

    with pytest.raises(SystemExit, match="0"):
        harness.run_command(sleep, None)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "timing [bold]sleep  1/2 rounds" in captured.err


def test_a_failed_subprocess_is_one_error_with_its_reason() -> None:
    assert harness.run_in_subprocess(["-c", "print(3)"]) == "3\n"
    with pytest.raises(FastCifarError, match=r"code 4: no such recipe$"):
        harness.run_in_subprocess(["-c", "import sys; print('first\\nno such recipe', file=sys.stderr); sys.exit(4)"])
    with pytest.raises(FastCifarError, match=r"code 5: nothing on stderr$"):
        harness.run_in_subprocess(["-c", "import sys; sys.exit(5)"])


def test_blocks_take_turns_and_the_first_round_is_not_counted() -> None:
    order: list[str] = []
    runtime = harness.Options(device="cpu").runtime()
    blocks = {name: lambda name=name: order.append(name) for name in "AB"}
    seconds = harness.time_interleaved(blocks, rounds=2, runtime=runtime)
    assert order == ["A", "B"] * 3
    assert {name: len(values) for name, values in seconds.items()} == {"A": 2, "B": 2}
    assert all(value > 0 for value in itertools.chain(*seconds.values()))


def test_the_options_set_the_process_up_for_the_device() -> None:
    with torch.compiler.config.patch(recompile_limit=8):
        assert harness.Options(device="cpu").runtime().device.type == "cpu"
        assert torch.compiler.config.recompile_limit == RECOMPILE_LIMIT
