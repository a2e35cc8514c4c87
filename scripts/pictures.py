"""Draw the pictures of README.md into docs/images: the console of a run, and a part of a report page.

    python -m scripts.pictures                  # the console, from benchmarks/results/era-gpu.json
    python -m scripts.pictures --run runs/…     # also the report page, from runs/…/report/report.html; needs Chromium

Each picture is drawn four times: for wide and narrow screens, in light and in dark colors.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

from fastcifar.config import TrainConfig
from fastcifar.models import model_from_config
from fastcifar.report.console import RunHeader, TrainingConsole
from fastcifar.report.style import Theme
from fastcifar.runs.results import EpochResult

ROOT = Path(__file__).parent.parent
RECORD = ROOT / "benchmarks" / "results" / "era-gpu.json"
OUT = ROOT / "docs" / "images"

COLUMNS = {"wide": 80, "narrow": 44}
"""Columns of the console in a picture; the narrow one shows the first columns of the wide one."""
FIRST, LAST = 4, 9
"""Epochs shown at the beginning and at the end of a run."""

COLORS = [(36, 41, 47), (207, 34, 46), (17, 99, 41), (77, 45, 0), (9, 105, 218), (130, 80, 223), (27, 124, 131)]
THEMES = {
    "light": TerminalTheme((255, 255, 255), (31, 35, 40), [*COLORS, (110, 119, 129)], [*COLORS, (110, 119, 129)]),
    "dark": TerminalTheme(
        (13, 17, 23),
        (230, 237, 243),
        [(72, 79, 88), (255, 123, 114), (63, 185, 80), (210, 153, 34), (88, 166, 255), (188, 140, 255), (57, 197, 207)],
    ),
}
SVG = """\
<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{
  font: {char_height}px/{line_height}px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
}}
.{unique_id}-title {{ font: bold 18px system-ui, "DejaVu Sans", sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal"><rect width="{terminal_width}" height="{terminal_height}"/></clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""
"""Rich's template without the fonts that it loads from a server, which a picture in a README cannot load."""

PAGES = {"wide": (1000, 740), "narrow": (500, 740)}
"""Width and height of the browser window."""
PART = "<style>main > :not(:has(#confusion)), div.card, footer { display: none } header { padding-top: 16px }</style>"
"""The part of the page to show: its title and the two figures about the test set."""


def print_run(console: Console, record: dict[str, Any]) -> None:
    """Print the first run of a benchmark's record as `fastcifar train` does, without the epochs in the middle."""
    run = record["runs"][0]
    config, results = TrainConfig.from_json(run["config"]), [EpochResult(**result) for result in run["history"]]
    model = model_from_config(config.model, num_classes=10)
    header = RunHeader(
        device=record["device"],
        precision=record["precision"],
        model=config.model.model,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        recipe=config.name,
        images=f"{record['data']['name']}: 50,000 training images, 10,000 test images",
        epochs=config.epochs,
        batch_size=config.data.batch_size,
    )
    shown = TrainingConsole(target_accuracy=config.target_accuracy, console=console)
    shown.header(header)
    for result in results:
        omitted = FIRST < result.epoch <= len(results) - LAST
        if result.epoch == FIRST + 1 and omitted:
            shown.say(" ⋮")
        console.quiet = omitted  # the console still takes the result into account
        shown.epoch(result)
    console.quiet = False
    shown.summary(None)


def command_of(record: dict[str, Any]) -> str:
    """Return the command that trains as the record's first run did."""
    config = record["runs"][0]["config"]
    flags = [f"--{name.replace('_', '-')}" for name in ("amp", "compile", "cuda_graphs") if config[name]]
    return " ".join(["fastcifar train", *flags])


def draw_console(record: dict[str, Any], size: str, theme: str) -> str:
    """Return the console of a run as an SVG."""
    options: dict[str, Any] = {
        "record": True,
        "force_terminal": True,
        "force_interactive": False,
        "color_system": "truecolor",
        "file": io.StringIO(),
    }
    terminal = Console(width=COLUMNS["wide"], **options)
    print_run(terminal, record)
    columns = COLUMNS[size]
    picture = Console(width=columns, **options)
    for line in Text.from_ansi(terminal.export_text(styles=True)).split():
        line.rstrip()
        if line.plain[columns:].strip(" │─╮╯"):
            line.truncate(columns, overflow="ellipsis")
        picture.print(line, soft_wrap=True)
    title = command_of(record) if size == "wide" else "fastcifar train"
    identity = f"console-{size}-{theme}"
    svg = picture.export_svg(title=title, theme=THEMES[theme], code_format=SVG, unique_id=identity)
    return svg.replace("rgba(255,255,255,0.35)", "rgba(128,128,128,0.5)")  # a border that is visible on white


def draw_report(page: Path, size: str, theme: str) -> Image.Image:
    """Return a part of a report page as the browser shows it."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        sys.exit("error: the picture of the report page needs chromium or google-chrome; install one of them")
    width, height = PAGES[size]
    with tempfile.TemporaryDirectory() as folder:
        part, shot = Path(folder) / "part.html", Path(folder) / "shot.png"
        part.write_text(page.read_text().replace("</head>", f"{PART}</head>", 1))
        command = [
            chromium,
            *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            f"--user-data-dir={folder}/profile",
            f"--blink-settings=preferredColorScheme={0 if theme == 'dark' else 1}",
            "--force-device-scale-factor=1.5",
            f"--window-size={width},{height}",
            f"--screenshot={shot}",
            part.as_uri(),
        ]
        subprocess.run(command, check=True, capture_output=True, timeout=300)
        with Image.open(shot) as image:
            return image.convert("RGB")


def variants() -> Iterable[tuple[str, Theme]]:
    """Return the variants of a picture, as size and theme."""
    themes: tuple[Theme, ...] = ("light", "dark")
    return [(size, theme) for size in ("wide", "narrow") for theme in themes]


def main() -> None:
    """Draw the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", type=Path, default=RECORD, help="result file of a benchmark")
    parser.add_argument("--run", type=Path, help="run folder with a report; without it, the report is not drawn")
    parser.add_argument("--out", type=Path, default=OUT, help="folder to write to")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    record = json.loads(arguments.record.read_text())
    for size, theme in variants():
        (arguments.out / f"console-{size}-{theme}.svg").write_text(draw_console(record, size, theme))
    if arguments.run is None:
        return
    page = arguments.run / "report" / "report.html"
    if not page.exists():
        sys.exit(f"error: {page}: there is no such file; `fastcifar report {arguments.run}` creates it")
    for size, theme in variants():
        draw_report(page, size, theme).save(arguments.out / f"report-{size}-{theme}.png", optimize=True)


if __name__ == "__main__":
    main()
