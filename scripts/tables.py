"""Result files as Markdown tables, in README.md, docs/benchmarks.md and docs/scaling.md.

    python -m scripts.tables            # print all tables
    python -m scripts.tables a.json     # print the table of a result file
    python -m scripts.tables --write    # write the tables of the committed results to these files
    python -m scripts.tables --check    # fail if the files are not up to date, or if a result file is wrong

Each table stands between two comments, <!-- NAME --> and <!-- end NAME -->. A row whose run had other settings than
today's recipe is marked with †.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import tyro

from benchmarks.harness import run_command
from benchmarks.results import FOLDER, Results
from fastcifar import get_recipe
from fastcifar.config import SETTINGS, TrainConfig
from fastcifar.errors import ConfigError, DataError
from fastcifar.training.resume import RESUME_OVERRIDABLE
from scripts import dynamics_rows, rows, scaling_rows
from scripts.rows import Row

ROOT = Path(__file__).parent.parent
FILES = (ROOT / "README.md", *(ROOT / "docs" / name for name in ("benchmarks.md", "scaling.md", "tutorial.md")))
NEEDS_NO_IMAGES = {"reliability", "faults", "soak"}
NOT_IN_RECIPES = (
    {name for name, (group, _) in SETTINGS.items() if group == "runtime"}
    | RESUME_OVERRIDABLE
    | {"val_fraction", "dynamics"}
)
"""Settings that are not part of a recipe: paths, device, precision, speed, seed, the validation split and records."""
NO_EFFECT: tuple[Any, ...] = (None, False, 0, [], "none")
"""Values with which a removed setting had no effect."""


@dataclass(frozen=True)
class Table:
    """A heading row, the format string of a row, both with | between cells, and where the values come from."""

    heading: str
    cells: str
    rows: Callable[[Results], Iterable[Row]] = lambda results: results.runs
    above: str = "{device}:"
    """Format string of the text above, for the fields of the results."""
    below: Callable[[Results], str] = lambda results: ""
    joined: bool = False
    """Whether several files make one table, instead of one table each."""

    def render(self, files: Sequence[Results]) -> str:
        """Return the tables in Markdown."""
        return paragraphs(
            *map(self._render_one, [list(files)] if self.joined and files else [[file] for file in files])
        )

    def _render_one(self, files: list[Results]) -> str:
        fields = msgspec.to_builtins(files[0]) | {"device": rows.name_device(files[0])}
        marked: dict[str, dict[str, None]] = {}
        lines = [self.heading.format(**fields), "---|" * self.heading.count("|") + "---"]
        for row in (row for results in files for row in self.rows(results)):
            label, _, rest = self.cells.format(**row).partition("|")
            runs = [run for run in row.get("of", ()) if run.get("config")]  # peers have none
            if changed := ", ".join(dict.fromkeys(name for run in runs for name in changed_settings(run))):
                marked.setdefault(changed, {})[label.strip()] = None
            lines.append(f"{label.strip()}{' †' if changed else ''} |{rest}")
        differences = "; ".join(f"{', '.join(labels)} in {changed}" for changed, labels in marked.items())
        footnote = differences and f"† The settings differ from today's recipe: {differences}."
        table = "\n".join(f"|{line}|" if line.startswith("-") else f"| {line} |" for line in lines)
        above = "" if self.joined else self.above.format(**fields)
        return re.sub(r"(?<=\d)%", " %", paragraphs(above, table, *map(self.below, files), footnote))


def paragraphs(*parts: str) -> str:
    """Join the texts that are not empty with blank lines."""
    return "\n\n".join(filter(None, parts))


def changed_settings(run: dict[str, Any]) -> list[str]:
    """Return the settings in which a run differs from today's recipe, without those that its name changes."""
    config, on_purpose = run["config"], set(re.findall(r"\b\w+(?==)", run.get("name", "")))
    try:
        today = get_recipe(config["base_recipe"]).to_json()
    except ConfigError:
        return ["recipe"]
    defaults = TrainConfig().to_json()
    compared = [name for name in SETTINGS if name not in NOT_IN_RECIPES | on_purpose]
    changed = [name for name in compared if config.get(name, defaults[name]) != today[name]]
    removed = config.keys() - today.keys() - on_purpose
    return changed + sorted(name for name in removed if config[name] not in NO_EFFECT)


RECIPE = "`{recipe}` | {device} | {epochs} | {test_accuracy:.2%}"
TRAININGS = Table(
    "training | era-epoch equivalents | runs | accuracy | accuracy without TTA | runs at "
    "{settings[target_accuracy]:.0%} or more | seconds | median seconds | relative to the first row",
    "`{name}` | {equivalents} | {runs} | {accuracy} | {plain} | {reached:.0%} | {seconds} | {median} | "
    "{relative:.2f} ×",
    rows.trainings,
    "{device}, {precision}:",
)
ABLATION = Table(
    "`{runs[0][name]}` without | seeds | accuracy | difference in points | time relative to the whole recipe",
    "{label} | {seeds} | {accuracy:.2%} | {difference} | {time:.2f} ×",
    rows.differences,
    "{device}. The difference is the mean over pairs of runs from equal seeds, ± its standard error.",
)
TIMES_TO_90 = "time-to-90-gpu time-to-90-zen5-cpu time-to-90-cpu time-to-90-amx-cpu time-to-90-avx2-cpu"
SCALING = "scaling-gpu scaling-cpu scaling-speed-cpu scaling-era-fast-cpu"
ON_A_GPU = "era-gpu time-to-90-gpu"
TABLES = {
    "headline": (
        Table(
            "device | runs | mean accuracy | median seconds | dollars per run (per hour) | joules | "
            "relative to the fastest peer",
            "{device} | {runs} | {mean:.2%} | {median:.3g} | {dollars} | {joules} | {peer}",
            rows.headline,
            joined=True,
        ),
        TIMES_TO_90,
    ),
    "runs": (
        Table(
            "recipe | device | epochs | test accuracy | training time | last evaluation | peak memory",
            f"{RECIPE} | {{training}} | {{evaluation}} | {{memory:.2f}} GiB",
            rows.runs,
            joined=True,
        ),
        "era-gpu era-plus-gpu era-cpu era-plus-cpu era-amx-cpu quick-cpu",
    ),
    "era_times": (
        Table(
            "device | runs | mean test accuracy | first epoch at 90 % | training time | all evaluations | peak memory",
            "{device} | {runs} | {mean:.2%} | {reached} | {training} | {evaluations} | {memory:.1f} GiB",
            rows.all_epochs,
            joined=True,
        ),
        "era-gpu era-cpu era-amx-cpu",
    ),
    "era_settings": (TRAININGS, "era-settings-cpu"),
    "era_validation": (
        dataclasses.replace(
            TRAININGS,
            above=f"{TRAININGS.above[:-1]}; evaluated on {{settings[val_fraction]:.0%}} of the training set:",
        ),
        "era-validation-gpu",
    ),
    "course": (
        Table(
            "recipe | device | epochs | test accuracy | best | the course, 24 epochs",
            f"{RECIPE} | {{best_accuracy:.2%}} | {{course}}",
            rows.runs,
            joined=True,
        ),
        "course-gpu dilated-cnn-gpu course-cpu dilated-cnn-cpu",
    ),
    "time_to_90": (TRAININGS, TIMES_TO_90),
    "time_to_94": (
        TRAININGS,
        "time-to-94-gpu time-to-94-cpu time-to-94-13-epochs-cpu time-to-95-gpu time-to-95-cpu "
        "time-to-95-22-epochs-cpu time-to-95-padding-2-cpu time-to-96-gpu time-to-96-cpu",
    ),
    "frontier": (TRAININGS, "frontier-gpu frontier-cpu frontier-speedrun-cpu"),
    "pace": (
        Table(
            "training | runs | images/s | GFLOP/s",
            "`{name}` | {runs} | {images:,.0f} | {gflops:,.0f}",
            rows.pace,
            "{device}, medians:",
        ),
        "pace-gpu pace-cpu",
    ),
    "ablation_speedrun": (ABLATION, "ablation-speedrun-gpu ablation-speedrun-cpu"),
    "ablation_era_fast": (ABLATION, "ablation-era-fast-gpu ablation-era-fast-cpu"),
    "simpler_speedrun": (ABLATION, "simpler-speedrun-gpu"),
    "seeds": (
        Table(
            "command | processes | runs | seconds | time per run relative to the first row | runs per minute after the "
            "start | equal losses and accuracies",
            "{name} | {processes} | {runs} | {seconds:.1f} | {relative:.2f} × | {pace} | {same}",
            rows.many_seeds,
            "{device}, {precision}; `{settings[recipe]}`, {data[name]}:",
        ),
        "seeds-gpu seeds-small-gpu seeds-cpu",
    ),
    "dynamics": (
        Table(
            "ranked by | runs | in the first 5 % | 10 % | 15 % | 20 % | AUROC",
            "{score} | {runs} | {found_5:.1%} | {found_10:.1%} | {found_15:.1%} | {found_20:.1%} | {auroc:.4f}",
            dynamics_rows.wrong_labels_found,
            below=dynamics_rows.trained_on_wrong_labels,
        ),
        "dynamics-gpu dynamics-cpu",
    ),
    "dynamics_overhead": (
        Table(
            "training | least seconds | difference | least processor seconds | difference",
            "{part} | {seconds[min]:.3f} | {relative_seconds:+.2%} | {processor_seconds[min]:.3f} | "
            "{relative_processor_seconds:+.2%}",
            dynamics_rows.record_costs,
            "{device}, {precision}; `{runs[0][recipe]}`, {settings[steps]} steps, the least of {settings[rounds]}:",
        ),
        "dynamics-overhead-gpu dynamics-overhead-cpu",
    ),
    "max_lr": (
        Table(
            "max_lr | relative to the suggestion | validation accuracy of each seed | mean",
            "{lr:.3g} | {multiple:.1g} × | {each} | {mean:.2%}",
            rows.learning_rates,
            "{device}; recipe `{extra[recipe]}`, {extra[epochs]} epochs, evaluated on {settings[val_fraction]:.0%} of "
            "the training set. The range test suggests {extra[suggestion][max_lr]:.3g}:",
            rows.below_best,
        ),
        "max-lr-gpu max-lr-cpu",
    ),
    "throughput": (
        Table(
            "recipe | batch size | part | median seconds | images/s | GFLOP/s | relative to the ceiling",
            "`{recipe}` | {batch_size} | {part} | {seconds[median]:.4g} | {images} | {gflops} | {relative}",
            rows.step_parts,
            "{device}, {precision}; medians of {settings[rounds]} blocks of {settings[steps]} steps:",
            rows.step_ratios,
        ),
        "throughput-gpu throughput-cpu throughput-zen5-cpu throughput-amx-cpu throughput-avx2-cpu "
        "throughput-speedrun-avx2-cpu",
    ),
    "convolutions": (
        Table(
            "recipe | image size | channels, size | torch | Winograd | packed | matrix product | largest error",
            "`{recipe}` | {size} | {layer} | {milliseconds} | {error:.2%}",
            rows.convolutions,
            "{device}, {precision}; milliseconds, medians of {settings[rounds]}, {settings[batch_size]} images:",
        ),
        "convolutions-cpu convolutions-zen5-cpu convolutions-amx-cpu convolutions-avx2-cpu",
    ),
    "augmentation": (
        Table(
            "augmentation | milliseconds per batch | relative to fastcifar",
            "{part} | {milliseconds:.4g} | {relative}",
            rows.augmentations,
            "{device}, batches of {settings[batch_size]}, medians of {settings[rounds]}:",
            rows.fraction_of_step,
        ),
        "augmentation-gpu augmentation-cpu",
    ),
    "batches": (
        Table(
            "batch size | seconds per step of `era` | images/s | peak memory",
            "{batch_size} | {seconds:.3g} | {images_per_second:,.0f} | {gib:.2f} GiB",
            lambda results: ({**run, "gib": run["peak_bytes"] / 2**30} for run in results.runs),
        ),
        "batches-gpu batches-cpu",
    ),
    "loaders": (
        Table(
            "loader | images/s | seconds per epoch | seconds to the first batch | seconds of the first epoch",
            "{part} | {images_per_second:,.0f} | {seconds[median]:.3f} | {first_batch_seconds[median]:.4f} | "
            "{first_epoch[seconds]:.2f}",
            above="{device}, batches of {settings[batch_size]}, augmented and on the device, medians of "
            "{settings[rounds]} epochs after the first:",
        ),
        "loaders-gpu loaders-cpu",
    ),
    "data": (Table("work | median seconds", "{part} | {seconds[median]:.3f}"), "data-gpu data-cpu"),
    "growth": (
        Table(
            "images | seconds per epoch of loading and augmentation | anonymous memory",
            "{images:,} | {seconds:.3f} | {mib:,.0f} MiB",
            lambda results: ({**run, "mib": run["anonymous_bytes"] / 2**20} for run in results.runs),
            below=rows.image_growth,
        ),
        "growth-gpu growth-cpu",
    ),
    "startup": (Table("command | median seconds", "`{command}` | {seconds[median]:.2f}"), "startup-gpu startup-cpu"),
    "scaling": (
        Table(
            "recipe | processes | images each | MB of gradients | ms per step: median | least to most | speed-up | "
            "ideal | predicted ms | error",
            "`{recipe}` | {ranks} | {images} | {megabytes} | {milliseconds:.0f} | {low:.0f} to {high:.0f} | "
            "{speedup:.2f} × | {ideal} × | {predicted} | {error}",
            scaling_rows.measured,
            joined=True,
        ),
        SCALING,
    ),
    "orthogonalisation": (
        Table(
            "recipe | processes | not shared, ms | shared, ms | whole step, ms | saved, relative to the step",
            "`{recipe}` | {ranks} | {whole:.1f} | {shared:.1f} | {step:.0f} | {saved:.1%}",
            scaling_rows.orthogonalisations,
            joined=True,
        ),
        SCALING,
    ),
    "scaling_links": (
        Table(
            "link | latency of a message, µs | GB/s in one direction",
            "{name} | {microseconds:.3g} | {gigabytes:.3g}",
            scaling_rows.links,
            "",
        ),
        "era-gpu",
    ),
    "scaling_work": (
        Table(
            "recipe | batch size | buckets, MB | complete after this part of the backward pass | ms on one GPU | "
            "of these, for any number of images",
            "`{recipe}` | {batch} | {buckets} | {ready} | {step:.2f} | {fixed:.2f}",
            scaling_rows.work,
            joined=True,
        ),
        ON_A_GPU,
    ),
    "scaling_on_paper": (
        Table(
            "recipe | GPUs | hosts | images each | NVLink, 400 Gb/s: ms per step | NVLink, 100 Gb/s | PCIe, 25 Gb/s | "
            "`--scale-batch`: NVLink, 400 Gb/s | NVLink, 100 Gb/s | PCIe, 25 Gb/s",
            "`{recipe}` | {gpus} | {hosts} | {images:.4g} | {fast} | {medium} | {slow} | {fast_scaled} | "
            "{medium_scaled} | {slow_scaled}",
            scaling_rows.on_paper,
            below=scaling_rows.worth_it,
            joined=True,
        ),
        ON_A_GPU,
    ),
    "survival": (
        Table(
            "test | times | outcomes",
            "{part} | {times:,} | {outcomes}",
            rows.outcomes,
            below=rows.resources,
            joined=True,
        ),
        "reliability-cpu faults-cpu soak-cpu",
    ),
}
"""By the name in the comments: the table, and the result files, of which those that do not exist are left out."""


def filled(text: str) -> str:
    """Return `text` with each table between its comments generated again.

    Raises:
        ConfigError: there is no such table.
        DataError: a result file lacks a field.
    """

    def fill(match: re.Match[str]) -> str:
        name = match[1]
        if name not in TABLES:
            raise ConfigError(f"there is no table {name!r}; the tables are {', '.join(TABLES)}")
        table, files = TABLES[name]
        paths = [FOLDER / f"{file}.json" for file in files.split()]
        try:
            markdown = table.render([Results.read(path) for path in paths if path.exists()])
        except KeyError as error:
            raise DataError(f"table {name!r}: a result file has no field {error}") from error
        return f"<!-- {name} -->\n\n{markdown or 'Not measured yet.'}\n\n<!-- end {name} -->"

    return re.sub(r"<!-- (\w+) -->\n.*?<!-- end \1 -->", fill, text, flags=re.DOTALL)


def find_problems(path: Path) -> list[str]:
    """Return sentences on fields of a committed result file that are missing or contradict each other."""
    try:
        results = Results.read(path)
    except DataError as error:
        return [str(error)]
    problems = [] if results.runs else ["has no runs"]
    synthetic = results.benchmark in NEEDS_NO_IMAGES or (
        results.benchmark == "seeds" and results.settings.get("images")
    )
    expected = "synthetic" if synthetic else "cifar10"
    if results.data.get("name") != expected or "content_sha256" not in results.data:
        problems.append(f"its data must be {expected}, with a content_sha256")
    if not results.commit or results.commit.endswith("-dirty"):
        problems.append("was not measured on a commit")
    for number, run in enumerate(results.runs):
        history = run.get("history", [])
        if history and (len(history), history[-1]["test_accuracy"]) != (run.get("epochs"), run.get("test_accuracy")):
            problems.append(f"run {number} contradicts its history")
    return [f"{path.name}: {problem}" for problem in problems]


def main(files: tyro.conf.Positional[tuple[Path, ...]] = (), write: bool = False, check: bool = False) -> None:
    """Print the tables, write them, or check that they are up to date.

    Args:
        files: result files whose tables are printed; all committed ones by default.
        write: write the tables to README.md, docs/benchmarks.md and docs/scaling.md.
        check: fail if the tables are not up to date or a committed result file is wrong.
    """
    problems = [problem for path in sorted(FOLDER.glob("*.json")) for problem in find_problems(path)]
    if check and problems:
        raise DataError("\n".join(problems))
    for path in files:
        results = Results.read(path)
        name = next((n for n, (_, names) in TABLES.items() if path.stem in names.split()), results.benchmark)
        if name not in TABLES:
            raise ConfigError(f"{path}: there is no table for the benchmark {results.benchmark!r}")
        print(TABLES[name][0].render([results]))
    if not (write or check or files):
        print(filled(paragraphs(*(f"<!-- {name} -->\n<!-- end {name} -->" for name in TABLES))))
    for path in FILES * (write or check):
        text = path.read_text()
        if write:
            path.write_text(filled(text))
        elif filled(text) != text:
            raise DataError(f"{path}: the tables are not up to date; run `python -m scripts.tables --write`")


if __name__ == "__main__":
    run_command(main, __doc__)
