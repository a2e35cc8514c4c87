"""Run everything that the project claims about a GPU, the most important first, within a time limit.

    python -m benchmarks.battery --device cuda --minutes 25 --airbench ../cifar10-airbench --out battery

Each part is a command of its own, with its own JSON file and log. Parts that only compile or measure accuracies run
first, side by side; then the timed parts, one at a time. A part that fails does not stop the others; the exit code is
1 if any part failed, or was not finished within the time limit. Run it again with the same --out to continue: parts
that are done are not repeated, and a stopped sweep keeps its runs. --rehearse runs all parts on the CPU with tiny
settings and synthetic data, to find errors before a GPU is at hand.
"""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.ablation import ablations
from benchmarks.common import run_command, write_results
from fastcifar.data.synthetic import SHAPES, draw_synthetic
from fastcifar.data.writer import write_beton
from fastcifar.errors import FastCifarError
from fastcifar.runs.folder import source_commit

Command = tuple[str, ...]
"""The arguments of a command, after `python -m`."""

COURSE = ("course-a", "course-b", "course-c", "course-d", "course-e", "dilated-cnn")
SIMPLER = {
    "all five": "dirac=false,alternate_flip=false,flip_p=0.5,label_smoothing=0,norm_momentum=0.1,padding=0",
    "three": "label_smoothing=0,norm_momentum=0.1,padding=0",
    "label smoothing and norm momentum": "label_smoothing=0,norm_momentum=0.1",
    "identities and alternate flip": "dirac=false,alternate_flip=false,flip_p=0.5",
}
"""Groups of features of `speedrun`, and the settings without them."""


@dataclass(frozen=True, kw_only=True)
class Battery:
    """Measure everything on one device."""

    data_dir: Path = Path("data/betons")
    """Folder with train.beton and test.beton."""
    source: str = "auto"
    """Source of the images, as in `fastcifar write-beton --source`."""
    device: str = "auto"
    """'cuda', 'cuda:1', …"""
    minutes: float = 25.0
    """Time limit of the whole battery."""
    only: tuple[str, ...] = ()
    """Names of the parts to run; all by default."""
    side_by_side: int = 4
    """Parts without timing that run at the same time."""
    airbench: Path | None = None
    """A checkout of KellerJordan/cifar10-airbench."""
    hiverge: Path | None = None
    """A checkout of hiverge/cifar10-speedrun."""
    rehearse: bool = False
    """Run all parts with tiny settings on the CPU, on synthetic data."""
    out: Path = Path("battery")
    """Folder of the JSON files and logs."""


@dataclass(frozen=True)
class Part:
    """Commands that run one after the other, and whether they measure time and need the device for themselves."""

    name: str
    commands: tuple[Command, ...]
    timed: bool = True
    log: list[str] = field(default_factory=list, compare=False)


def main(settings: Battery) -> None:
    settings.out.mkdir(parents=True, exist_ok=True)
    if settings.rehearse:
        settings = _prepare_rehearsal(settings)
    selected = [part for part in parts(settings) if not settings.only or part.name in settings.only]
    deadline = time.monotonic() + 60 * settings.minutes
    status_file = settings.out / "battery.json"
    done = json.loads(status_file.read_text())["parts"] if status_file.exists() else {}
    status = {part.name: done[part.name] for part in selected if done.get(part.name, {}).get("state") == "done"}

    def run(part: Part) -> None:
        if part.name not in status:
            status[part.name] = run_part(part, settings.out, deadline)
        write_results(status_file, {"benchmark": "battery", "commit": source_commit(), "parts": status})

    with ThreadPoolExecutor(settings.side_by_side) as pool:
        list(pool.map(run, (part for part in selected if not part.timed)))
    for part in selected:
        if part.timed:
            run(part)
    missing = [f"{name}: {values['state']}" for name, values in status.items() if values["state"] != "done"]
    if missing:
        raise FastCifarError(f"not done: {'; '.join(missing)}; see the logs in {settings.out}, and run it again")


def run_part(part: Part, out: Path, deadline: float) -> dict[str, object]:
    """Run a part's commands until one fails or the time is up; its output goes to OUT/NAME.log."""
    start = time.monotonic()
    state, code = "done", 0
    with (out / f"{part.name}.log").open("a") as log:
        for command in part.commands:
            left = deadline - time.monotonic()
            if left < 10:
                state = "not finished in time"
                break
            process = subprocess.Popen([sys.executable, "-m", *command], stdout=log, stderr=subprocess.STDOUT)
            try:
                code = process.wait(left)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGINT)
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
                state = "not finished in time"
                break
            if code:
                state = "failed"
                break
    seconds = time.monotonic() - start
    print(f"{part.name}: {state} after {seconds:.0f} s", flush=True)
    return {"state": state, "exit_code": code, "seconds": seconds, "commands": [" ".join(c) for c in part.commands]}


def parts(settings: Battery) -> Iterator[Part]:
    """All parts, most important first."""
    tiny, out = settings.rehearse, settings.out
    device = ("--device", settings.device)
    data = ("--data-dir", str(settings.data_dir), *device)
    compiled = () if tiny else ("--compile",)

    def sweep(name: str, recipes: Command, seeds: int, *more: str) -> Command:
        file = out / f"{name}.json"
        resume = ("--resume",) if file.exists() else ()
        return (
            "benchmarks.time_to_90",
            *recipes,
            "--seeds",
            str(1 if tiny else seeds),
            *data,
            *more,
            *resume,
            "--out",
            str(file),
        )

    def shorter(recipe: str) -> str:
        return f"{recipe}{',' if ':' in recipe else ':'}epochs=0.5,batch_size=100" if tiny else recipe

    def train(recipe: str, run: Path, *more: str) -> Command:
        small = ("--epochs", "1", "--batch-size", "100") if tiny else ()
        return (
            "fastcifar",
            "train",
            "--recipe",
            recipe,
            "--run-dir",
            str(run),
            "--no-report",
            "--amp",
            *data,
            *more,
            *small,
        )

    def record(benchmark: str, runs: list[Path], file: str) -> Command:
        return ("benchmarks.record", *map(str, runs), "--benchmark", benchmark, "--out", str(out / file))

    airbench = ("--airbench", str(settings.airbench), "--airbench-epochs", *(("2",) if tiny else ("2.5", "2.75")))
    hiverge = ("--hiverge", str(settings.hiverge), "--hiverge-epochs", *(("2",) if tiny else ("2.25", "2.5", "2.75")))
    with_airbench = airbench if settings.airbench else ()

    # 1. what measures no time
    for recipe in ("speedrun", "era-fast", "era"):
        more = with_airbench if recipe == "speedrun" else ()
        name = f"compile-{recipe}"
        length = {"era": "era:epochs=1,cuda_graphs=true"}.get(recipe, recipe)
        yield Part(name, (sweep(name, (shorter(length),), 1, "--first-seed", "0", *compiled, *more),), timed=False)
    longer = (
        "speedrun:widths=[64,256,256],epochs=8,resize_sizes=[24],resize_fractions=[0.4],padding=2,"
        "norm_momentum=0.2,final_div_factor=1000,tta=flip-shift"
    )
    if settings.hiverge:
        name = "compile-speedrun-94"
        yield Part(name, (sweep(name, (shorter(longer),), 1, "--first-seed", "0", *compiled),), timed=False)
    sizes = ("32",) if tiny else ("128", "256", "512", "1024", "2048", "4096")
    step = ("benchmarks.throughput", *data, *compiled, "--batch-sizes", *sizes)
    once = ("--steps", "1", "--rounds", "1", "--matrix", "256")
    yield Part("compile-throughput", ((*step, *once, "--out", str(out / "compile-throughput.json")),), timed=False)
    groups = [shorter("speedrun"), *(shorter(f"speedrun:{changes}") for changes in SIMPLER.values())]
    group = sweep("simpler-speedrun", tuple(groups), 20, "--val-fraction", "0.1", "--first-seed", "100")
    yield Part("simpler-speedrun", (group,), timed=False)
    runs = [out / "runs" / recipe for recipe in COURSE]
    for recipe, run in zip(COURSE, runs, strict=True):
        yield Part(recipe, (train(recipe, run),), timed=False)
    # 2. one at a time
    yield Part("course", (record("course", runs, "course-gpu.json"),))
    recipes = (shorter("speedrun"), shorter("era-fast"))
    yield Part("time-to-90", (sweep("time-to-90-gpu", recipes, 20, *compiled, *with_airbench),))
    runs = [out / "runs" / f"era-{seed}" for seed in range(3)]
    graphs = () if tiny else ("--compile", "--cuda-graphs")
    eras = [train("era", run, "--seed", str(seed), *graphs) for seed, run in enumerate(runs)]
    yield Part("era", (*eras, record("era", runs, "era-gpu.json")))
    tests = ("pytest", "-q", "-m", "smoke" if tiny else "gpu", *(["-k", "recipes_are_valid"] if tiny else []))
    yield Part("tests", ((*tests, "-p", "no:cacheprovider"),))
    effort = once if tiny else ("--steps", "50", "--matrix", "8192")
    yield Part("throughput", ((*step, *effort, "--out", str(out / "throughput-gpu.json")),))
    rounds = ("--rounds", "1") if tiny else ()
    few = rounds or ("--rounds", "200")
    augmentation = ("benchmarks.augmentation", *data, *compiled, *few, *(("--batch-size", "32") if tiny else ()))
    yield Part("augmentation", ((*augmentation, "--out", str(out / "augmentation-gpu.json")),))
    loaders = ("benchmarks.loaders", "--source", settings.source, *device, *rounds)
    yield Part("loaders", ((*loaders, "--out", str(out / "loaders-gpu.json")),))
    startup = ("benchmarks.startup", "era", "speedrun", *data, *compiled, *(rounds or ("--rounds", "2")))
    yield Part("startup", ((*startup, "--out", str(out / "startup-gpu.json")),))
    if settings.hiverge:
        yield Part("time-to-90-hiverge", (sweep("time-to-90-hiverge-gpu", recipes, 20, *compiled, *hiverge),))
        peer = ("--hiverge", str(settings.hiverge), "--hiverge-epochs", "2" if tiny else "7.59")
        target = ("--target-accuracy", "0.94")
        recipes_94 = (shorter(longer),)
        yield Part("time-to-94", (sweep("time-to-94-gpu", recipes_94, 20, *compiled, *target, *peer),))
    without = [shorter(name) for name in ("speedrun", *ablations("speedrun"))]
    yield Part("ablation", (sweep("ablation-speedrun-gpu", tuple(without), 10),))
    counts = ("--images", "1000", "--batches", "32", "--least-images", "1000") if tiny else ()
    scaling = ("benchmarks.scaling", "--source", settings.source, *device, *rounds)
    counts = counts or ("--batches", "128", "512", "1024", "2048", "4096")
    yield Part("scaling", ((*scaling, *counts, "--out", str(out / "scaling-gpu.json")),))
    lengths = [shorter("era-fast")] if tiny else [f"era-fast:epochs={n}" for n in (2.57, 3.35, 5.15, 7.72, 10.3)]
    yield Part("frontier", (sweep("frontier-gpu", tuple(lengths), 10),))


def _prepare_rehearsal(settings: Battery) -> Battery:
    """Write small synthetic .beton files, and return settings for them and the CPU."""
    folder = settings.out / "betons"
    train, test = draw_synthetic(train=2000, test=200)
    for name, split in (("train", train), ("test", test)):
        write_beton(folder / f"{name}.beton", split.images, split.labels, class_names=tuple(SHAPES), name="synthetic")
    return dataclasses.replace(settings, data_dir=folder, source="synthetic", device="cpu")


if __name__ == "__main__":
    run_command(main, Battery, __doc__)
