"""Run everything that the project claims about a GPU, the most important first, within a time limit.

    python -m benchmarks.battery --device cuda --minutes 25 --airbench ../cifar10-airbench --out battery

Each part (battery.toml) is a command of its own, with its own JSON file and log. A part that fails does not stop the
others; the exit code is 1 if a part failed or was not finished within the time limit. Run it again with the same --out
to continue: parts that are done are not repeated, and a stopped sweep keeps its runs. --rehearse runs the parts on the
CPU with tiny settings and synthetic data, to find errors before a GPU is at hand.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.harness import Options, run_command, show_progress
from fastcifar.data.synthetic import SHAPES, draw_synthetic
from fastcifar.data.writer import write_beton
from fastcifar.errors import ConfigError, FastCifarError
from fastcifar.files import atomic_write
from fastcifar.runs.folder import source_commit

PARTS: dict[str, dict[str, Any]] = tomllib.loads((Path(__file__).parent / "battery.toml").read_text())
NEEDS = {"hiverge": "a checkout, --hiverge", "ranks": "at least two GPUs"}
"""The requirements of parts, for messages. A part is left out if the battery's attribute of that name is None."""


@dataclass(frozen=True, kw_only=True)
class Battery(Options):
    """Measure everything on one device. --out is the folder of the JSON files and logs."""

    minutes: float = 25.0
    """Time limit of the whole battery."""
    only: tuple[str, ...] = ()
    """Names of the parts to run; all by default."""
    side_by_side: int = 8
    """Parts that measure no time and run at the same time."""
    airbench: Path | None = None
    """A checkout of KellerJordan/cifar10-airbench; without it our trainings run alone."""
    hiverge: Path | None = None
    """A checkout of hiverge/cifar10-speedrun; without it the parts beside it are left out."""
    rehearse: bool = False
    """Run the parts with tiny settings on the CPU, on synthetic data."""
    out: Path = Path("battery")
    """Folder of the JSON files and logs."""

    @property
    def ranks(self) -> str | None:
        """Numbers of processes, 1, 2, 4, … up to the number of GPUs (or 2 in a rehearsal); None with a single GPU."""
        devices = 2 if self.rehearse else count_gpus() if self.device != "cpu" else 1
        return " ".join(str(2**power) for power in range(devices.bit_length())) if devices > 1 else None


def count_gpus() -> int:
    """Return the number of GPUs of this machine."""
    import torch

    return torch.cuda.device_count()


def main(settings: Battery) -> None:
    """Run the parts that are not done, write battery.json after each, and fail if one is not done at the end."""
    if unknown := set(settings.only) - PARTS.keys():
        raise ConfigError(f"only is {', '.join(sorted(unknown))!r}; the parts are {', '.join(PARTS)}")
    if settings.rehearse:
        settings = replace(settings, device="cpu", data_dir=settings.out / "betons")
        _write_small_betons(settings.data_dir)
    deadline = time.monotonic() + 60 * settings.minutes
    path = settings.out / "battery.json"
    earlier = json.loads(path.read_text())["parts"] if path.exists() else {}
    status = {name: values for name, values in earlier.items() if values["state"] == "done"}
    chosen = choose_parts(settings)

    def run(name: str) -> None:
        show_progress(name, len(status), len(chosen), "parts")
        if name not in status:
            status[name] = run_part(name, settings, deadline)
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps({"commit": source_commit(), "parts": dict(status)}, indent=2) + "\n")

    with ThreadPoolExecutor(settings.side_by_side) as pool:
        list(pool.map(run, (name for name in chosen if not PARTS[name].get("alone", True))))
    for name in chosen:
        if PARTS[name].get("alone", True):
            run(name)
    if missing := [f"{name} ({status[name]['state']})" for name in chosen if status[name]["state"] != "done"]:
        raise FastCifarError(f"not done: {', '.join(missing)}; see the logs in {settings.out}, and run it again")


def choose_parts(settings: Battery) -> list[str]:
    """Return the names of the parts to run, and say which of the others lack something."""
    wanted = [
        name
        for name, part in PARTS.items()
        if (name in settings.only or not settings.only) and ("tiny" in part or not settings.rehearse)
    ]
    needs = {name: PARTS[name]["needs"] for name in wanted if "needs" in PARTS[name]}
    lacking = {name: NEEDS[need] for name, need in needs.items() if getattr(settings, need) is None}
    for name, need in lacking.items():
        print(f"{name}: left out, since it needs {need}", flush=True)
    return [name for name in wanted if name not in lacking]


def command_of(name: str, settings: Battery) -> list[str]:
    """Return a part's arguments after `python -m`."""
    command: str = PARTS[name]["tiny" if settings.rehearse else "run"]
    words = command.replace("{ranks}", settings.ranks or "1").split()
    for project in ("airbench", "hiverge"):
        if getattr(settings, project) is None:
            words = _without_options(words, f"--{project}")
        words = [word.format(airbench=settings.airbench, hiverge=settings.hiverge) for word in words]
    if words[0].startswith(("benchmarks.", "tests.")):
        out = settings.out / f"{name}-{'cpu' if settings.device == 'cpu' else 'gpu'}.json"
        words += ["--device", settings.device, "--data-dir", str(settings.data_dir), "--out", str(out)]
        words += ["--resume"] * (out.exists() and words[0] in ("benchmarks.time_to_90", "benchmarks.max_lr"))
    return words


def _without_options(words: list[str], prefix: str) -> list[str]:
    """Leave out the options that start with a prefix, and their values."""
    kept, option = [], ""
    for word in words:
        option = word if word.startswith("--") else option
        if not option.startswith(prefix):
            kept.append(word)
    return kept


def run_part(name: str, settings: Battery, deadline: float) -> dict[str, Any]:
    """Run a part until it ends or the time is up; its output goes to OUT/NAME.log."""
    start, command, state = time.monotonic(), command_of(name, settings), "done"
    if deadline - start < 1:
        return {"state": "no time left", "exit_code": None, "seconds": 0.0, "command": command}
    with (settings.out / f"{name}.log").open("a") as log:
        process = subprocess.Popen([sys.executable, "-m", *command], stdout=log, stderr=subprocess.STDOUT)
        try:
            process.wait(deadline - start)
        except subprocess.TimeoutExpired:
            state = "stopped at the time limit"
            for stop in (signal.SIGINT, signal.SIGKILL):
                process.send_signal(stop)
                time.sleep(0.1 if process.poll() is not None else 5)
        finally:
            process.kill()  # also where this process is stopped
    if state == "done" and process.wait():
        state = "failed"
    seconds = time.monotonic() - start
    print(f"{name}: {state} after {seconds:.0f} s", flush=True)
    return {"state": state, "exit_code": process.returncode, "seconds": seconds, "command": command}


def _write_small_betons(folder: Path) -> None:
    for name, split in zip(("train", "test"), draw_synthetic(train=2000, test=200), strict=True):
        if not (folder / f"{name}.beton").exists():
            path = folder / f"{name}.beton"
            write_beton(path, split.images, split.labels, class_names=tuple(SHAPES), name="synthetic")


if __name__ == "__main__":
    run_command(main, __doc__)
