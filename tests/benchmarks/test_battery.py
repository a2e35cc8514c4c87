from __future__ import annotations

import functools
import importlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import tyro

from benchmarks import battery, time_to_90
from fastcifar.errors import FastCifarError
from tests.benchmarks.test_harness import ROOT

QUICK = {
    "first": {"run": "pytest --version", "tiny": "pytest --version"},
    "broken": {"run": "pytest --no-such-option", "tiny": "pytest --no-such-option"},
    "beside": {"run": "pytest --version", "tiny": "pytest --version", "alone": False},
    "needing": {"run": "pytest --version", "tiny": "pytest --version", "needs": "hiverge"},
    "only-on-a-gpu": {"run": "pytest --no-such-option"},
}


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> battery.Battery:
    monkeypatch.setattr(battery, "PARTS", QUICK)
    return battery.Battery(rehearse=True, out=tmp_path / "battery")


def states(settings: battery.Battery) -> dict[str, str]:
    parts = json.loads((settings.out / "battery.json").read_text())["parts"]
    return {name: values["state"] for name, values in parts.items()}


def test_a_part_that_fails_does_not_stop_the_others(settings: battery.Battery) -> None:
    with pytest.raises(FastCifarError, match=r"not done: broken \(failed\); see the logs in .*, and run it again"):
        battery.main(settings)
    assert states(settings) == {"beside": "done", "first": "done", "broken": "failed"}
    assert "no-such-option" in (settings.out / "broken.log").read_text()


def test_parts_that_are_done_are_not_repeated(settings: battery.Battery, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FastCifarError):
        battery.main(settings)
    repaired = {**QUICK, "broken": QUICK["first"], "first": {"run": "", "tiny": "pytest --no-such-option"}}
    monkeypatch.setattr(battery, "PARTS", repaired)
    battery.main(settings)
    assert states(settings) == {"beside": "done", "first": "done", "broken": "done"}


def test_the_time_limit_ends_a_part_and_leaves_out_the_rest(
    settings: battery.Battery, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless = {"run": "", "tiny": "http.server 0 --bind 127.0.0.1"}
    monkeypatch.setattr(battery, "PARTS", {"endless": endless, "first": QUICK["first"]})
    start = time.monotonic()
    limited = battery.Battery(rehearse=True, out=settings.out, minutes=3 / 60)
    with pytest.raises(FastCifarError, match=r"endless \(stopped at the time limit\), first \(no time left\)"):
        battery.main(limited)
    assert time.monotonic() - start < 40


@pytest.mark.parametrize("tiny", [False, True], ids=["run", "tiny"])
@pytest.mark.parametrize("name", battery.PARTS)
def test_the_command_of_each_part_is_accepted(name: str, tiny: bool, tmp_path: Path) -> None:
    if tiny and "tiny" not in battery.PARTS[name]:
        return
    settings = battery.Battery(rehearse=tiny, airbench=tmp_path, hiverge=tmp_path, device="cpu", out=tmp_path)
    module, *arguments = battery.command_of(name, settings)
    if module == "pytest":
        assert arguments[:2] == ["-m", "smoke" if tiny else "gpu"]
        return
    space = importlib.import_module(module)
    options: dict[str, Any] = {"args": arguments, "config": (tyro.conf.OmitArgPrefixes,)}
    if hasattr(space, "COMMANDS"):
        options["args"] = arguments[1:]
        called = tyro.cli(functools.wraps(space.COMMANDS[arguments[0]])(lambda **values: values), **options)["options"]
    else:
        kinds = {"max_lr": "MaxLr", "scaling": "Scaling", "seeds": "Seeds", "time_to_90": "TimeTo90"}
        called = tyro.cli(getattr(space, kinds[module.removeprefix("benchmarks.")]), **options)
        for recipe in getattr(called, "recipes", None) or [called.recipe]:
            time_to_90.read_recipe(recipe, called)
    assert called.out == tmp_path / f"{name}-cpu.json"


def test_peers_are_left_out_without_their_checkout() -> None:
    words = battery.command_of("time-to-90", battery.Battery())
    assert not [word for word in words if "airbench" in word or "{" in word]
    assert words[:3] == ["benchmarks.time_to_90", "speedrun", "era-fast"]


def test_without_one_checkout_the_other_peer_stays(tmp_path: Path) -> None:
    words = battery.command_of("time-to-94", battery.Battery(hiverge=tmp_path))
    assert words[words.index("--hiverge") :][:4] == ["--hiverge", str(tmp_path), "--hiverge-epochs", "7.59"]
    assert not [word for word in words if "airbench" in word]
    assert words[words.index("--seeds") :][:3] == ["--seeds", "20", "--compile"]


@pytest.mark.parametrize(("gpus", "ranks"), [(0, None), (1, None), (2, "1 2"), (6, "1 2 4"), (8, "1 2 4 8")])
def test_processes_are_timed_on_all_gpus_or_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], gpus: int, ranks: str | None
) -> None:
    monkeypatch.setattr(battery, "count_gpus", lambda: gpus)
    settings = battery.Battery(device="cuda", only=("scaling", "data"))
    assert battery.choose_parts(settings) == (["data", "scaling"] if ranks else ["data"])
    assert ("scaling: left out, since it needs at least two GPUs" in capsys.readouterr().out) == (ranks is None)
    assert f"--ranks {ranks or 1} --rounds" in " ".join(battery.command_of("scaling", settings))


@pytest.mark.slow
def test_a_battery_that_was_killed_continues(tmp_path: Path) -> None:
    out = tmp_path / "battery"
    command = [
        sys.executable,
        "-m",
        "benchmarks.battery",
        "--rehearse",
        "--only",
        "data",
        "augmentation",
        "--out",
        str(out),
    ]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (out / "battery.json").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    earlier = json.loads((out / "battery.json").read_text())["parts"]
    assert [values["state"] for values in earlier.values()] == ["done"]
    assert subprocess.run(command, cwd=ROOT, check=False, capture_output=True).returncode == 0
    parts = json.loads((out / "battery.json").read_text())["parts"]
    assert {name: values["state"] for name, values in parts.items()} == {"augmentation": "done", "data": "done"}
    (first,) = earlier
    assert parts[first] == earlier[first]
