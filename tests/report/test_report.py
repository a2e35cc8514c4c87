from __future__ import annotations

import base64
import dataclasses
import io
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastcifar import TrainConfig, fit
from fastcifar.cli import main
from fastcifar.data.writer import write_beton
from fastcifar.data.synthetic import draw_synthetic
from fastcifar.report import comparison, figures, page, pictures
from fastcifar.runs.record import read_record
from fastcifar.report.style import DARK, LIGHT, FigureSpec, renderable
from fastcifar.analysis.mistakes import Analysis, Mistake

HOSTILE = "<script>alert(1)</script>"
NAMES = (HOSTILE, "\" onerror='x", "a & b", "$x_1$", "猫", "</title>", "dog", "frog", "horse", "ship")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
Capture = pytest.CaptureFixture[str]


class Page(HTMLParser):
    """What is on a page: its elements with their attributes, and its text outside of style."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag

    def handle_data(self, data: str) -> None:
        if self._inside != "style":
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two short epochs on classes with hostile names, measured on a validation split."""
    folder = tmp_path_factory.mktemp("report")
    for split, (images, labels) in zip(("train", "test"), draw_synthetic(train=200, test=90), strict=True):
        write_beton(folder / "betons" / f"{split}.beton", images, labels, class_names=NAMES, name="made-up & odd")
    config = TrainConfig(
        betons=folder / "betons", batch_size=50, epochs=2, val_fraction=0.2, device="cpu", run_dir=folder / "run"
    )
    list(fit(config))
    return folder / "run"


@pytest.fixture(scope="module")
def report(run: Path) -> Path:
    """The page of that run."""
    assert main(["report", str(run), "--top", "6", "--device", "cpu"]) == 0
    return run / "report" / "report.html"


@pytest.fixture
def other(run: Path, tmp_path: Path) -> Path:
    """A copy of the run that says it was measured otherwise."""
    shutil.copytree(run, tmp_path / "other", ignore=shutil.ignore_patterns("report"))
    config = json.loads((run / "config.json").read_text())
    (tmp_path / "other" / "config.json").write_text(json.dumps({**config, "max_lr": 0.0123}))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    lines[-1] |= {"test_accuracy": 0.9512, "best_accuracy": 0.9512, "best_epoch": 2}
    (tmp_path / "other" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path / "other"


def _analysis(classes: int, *, names: tuple[str, ...] = (), mistakes: int = 3) -> Analysis:
    generator = np.random.default_rng(0)
    confusion = generator.integers(0, 9, (classes, classes)) + np.diag([50] * classes)
    confusion[1] = 0
    heat = generator.random((mistakes, 32, 32), dtype=np.float32)
    return Analysis(
        class_names=names or tuple(f"class {label}" for label in range(classes)),
        loss=0.5,
        confusion=confusion,
        mistakes=tuple(Mistake(index=n, truth=0, predicted=2, confidence=0.99999) for n in range(mistakes)),
        images=generator.integers(0, 256, (mistakes, 32, 32, 3), dtype=np.uint8),
        predicted_maps=heat,
        truth_maps=0 * heat,
    )


def _pixels(picture: FigureSpec) -> Iterator[np.ndarray]:
    for theme in (LIGHT, DARK):
        with Image.open(io.BytesIO(picture.png(theme))) as image:
            yield np.asarray(image.convert("RGB"))


def test_the_command_says_where_the_page_is_and_leaves_the_figures(run: Path, report: Path, capsys: Capture) -> None:
    out = report.parent
    names = ["accuracy", "augmented", "classes", "confusion", "grad-cam", "loss", "mistakes", "schedule"]
    assert sorted(path.name for path in out.iterdir()) == sorted([*(f"{name}.png" for name in names), "report.html"])
    for path in out.glob("*.png"):
        with Image.open(path) as image:
            assert image.width == 1000
    elsewhere = out.parent / "elsewhere"
    assert main(["report", str(run), "--top", "1", "--checkpoint", "best", "--out", str(elsewhere)]) == 0
    assert capsys.readouterr().out == f"report: {elsewhere / 'report.html'}\n"
    assert "with the best checkpoint" in (elsewhere / "report.html").read_text()


def test_the_page_loads_nothing_and_runs_nothing(report: Path) -> None:
    text = report.read_text()
    shown = Page(text)
    assert not re.search(r"https?://|@import|url\(", text)
    assert not {"script", "link", "iframe", "object", "embed", "base"} & {tag for tag, _ in shown.elements}
    loaded = [a.get("src") or a.get("srcset") for tag in ("img", "source") for a in shown.all(tag)]
    assert all(value and value.startswith("data:image/png;base64,") for value in loaded)
    for value in loaded:
        with Image.open(io.BytesIO(base64.b64decode(str(value).partition(",")[2]))) as image:
            image.verify()
    assert not any(name.startswith("on") for _, attributes in shown.elements for name in attributes)
    policy = [meta.get("content") for meta in shown.all("meta") if "http-equiv" in meta]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    assert any(meta.get("name") == "viewport" for meta in shown.all("meta"))


def test_every_image_says_in_words_what_it_shows(run: Path, report: Path) -> None:
    images = Page(report.read_text()).all("img")
    assert len(images) == 8
    words = [str(image["alt"]) for image in images]
    assert all(len(alt) > 40 for alt in words)
    last = read_record(run).last
    assert any(f"{last.test_loss:.3f}" in alt and "validation" in alt for alt in words)
    assert any("90 percent is not reached" in alt for alt in words)


def test_names_from_the_run_are_escaped(report: Path) -> None:
    text = report.read_text()
    assert HOSTILE not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    shown = Page(text)
    assert all(name in shown.text for name in NAMES)
    assert "made-up & odd" in shown.text


def test_the_page_has_the_facts_the_epochs_and_the_classes(run: Path, report: Path) -> None:
    shown, record = Page(report.read_text()), read_record(run)
    for fact in (record.environment["device"], record.environment["versions"]["torch"], "float32", "6,573,130"):
        assert fact in shown.text
    rows = [attributes for attributes in shown.all("th") if attributes.get("scope") == "row"]
    assert len(rows) == 2 + 11 + 14 + len(dataclasses.fields(TrainConfig))
    assert "All 90 images of the test set" in shown.text
    assert "The run did not use them" in shown.text
    assert f"{100 * record.last.test_accuracy:.2f} % validation accuracy" in shown.text


def test_chromium_shows_the_page(report: Path, tmp_path: Path) -> None:
    if CHROMIUM is None:
        pytest.skip("no chromium is installed")
    flags = [
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
        "--disable-background-networking", "--disable-component-update", f"--user-data-dir={tmp_path / 'profile'}",
    ]  # fmt: skip
    command = [CHROMIUM, *flags, "--dump-dom", report.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=True)
    shown = Page(done.stdout)
    title = re.search(r"<title>(.*?)</title>", done.stdout)
    assert title is not None
    assert "% validation accuracy" in title[1]
    assert len(shown.all("figure")) == 8
    assert len(shown.all("img")) == 8
    assert len(shown.all("table")) == 4
    assert len(shown.all("tr")) == 3 + 12 + 14 + len(dataclasses.fields(TrainConfig))
    assert not shown.all("script")


def test_nothing_wrong_is_said_in_words(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = _analysis(10, names=NAMES, mistakes=0)
    monkeypatch.setattr(page, "analyze", lambda saved, top: nothing)
    shown = Page(page.write_report(run, out=tmp_path / "out", device="cpu").read_text())
    assert "every image of the test set is recognised" in shown.text
    assert len(shown.all("figure")) == 6


def test_runs_are_compared(run: Path, other: Path, tmp_path: Path, capsys: Capture) -> None:
    assert main(["report", str(run), str(other), "--out", str(tmp_path / "both")]) == 0
    path = tmp_path / "both" / "report.html"
    assert capsys.readouterr().out == f"report: {path}\n"
    shown = Page(path.read_text())
    assert len(shown.all("figure")) == 4
    assert "highest last-epoch accuracy: other, 95.12 %" in shown.text
    for text in ("max_lr", "0.0123", "0.00534", "95.12 (epoch 2)"):
        assert text in shown.text
    assert "pct_start" not in shown.text
    assert "run_dir" not in shown.text
    assert any("other" in str(image["alt"]) and "95.12" in str(image["alt"]) for image in shown.all("img"))


def test_a_comparison_lies_beside_the_first_run_and_keeps_runs_of_one_name_apart(other: Path, capsys: Capture) -> None:
    assert main(["report", str(other), str(other)]) == 0
    path = other.parent / "runs-report" / "report.html"
    assert str(path) in capsys.readouterr().out
    shown = Page(path.read_text())
    assert f"1: {other}" in shown.text
    assert f"2: {other}" in shown.text
    assert "Nothing: settings, device and versions are the same." in shown.text


def test_bad_input_ends_in_one_line(run: Path, other: Path, tmp_path: Path, capsys: Capture) -> None:
    shutil.rmtree(other / "checkpoints")
    (tmp_path / "empty").mkdir()
    unfinished = shutil.copytree(run, tmp_path / "unfinished")
    (unfinished / "metrics.jsonl").write_text("")
    odd = shutil.copytree(run, tmp_path / "odd")
    (odd / "metrics.jsonl").write_text('{"epoch": 1}\n')
    cases = {
        (1, (str(tmp_path / "none"),)): "is no folder of a run",
        (1, (str(tmp_path / "empty"),)): "is no folder of a run",
        (1, (str(run), str(tmp_path / "empty"))): "is no folder of a run",
        (1, (str(other),)): "there is no such checkpoint",
        (1, (str(unfinished),)): "has no finished epoch yet",
        (1, (str(odd),)): "of another version",
        (1, (str(run), "--betons", str(tmp_path))): "fastcifar write-beton",
        (2, (str(run), "--top", "0")): "top is 0; it must be from 1 to 200",
        (2, ()): "needs the folder of a run",
    }
    for (code, arguments), message in cases.items():
        assert main(["report", *arguments]) == code, arguments
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1, lines
        assert message in lines[0]


def test_a_comparison_places_a_last_epoch_that_is_a_part_of_one_where_it_ends(run: Path) -> None:
    record = read_record(run)
    parted = dataclasses.replace(record, config=dataclasses.replace(record.config, epochs=1.5))
    (accuracy, *_) = comparison._pictures({"whole": record, "parted": parted})
    whole, part = accuracy.draw(LIGHT).axes[0].lines
    assert whole.get_xdata().tolist() == [1, 2]
    assert part.get_xdata().tolist() == [1, 1.5]
    assert whole.get_ydata().tolist() == [100 * result.test_accuracy for result in record.results]


@pytest.mark.parametrize("classes", [2, 10, 40])
def test_figures_take_any_number_of_classes_and_one_without_images(classes: int) -> None:
    analysis = _analysis(classes)
    bars = figures.class_bars(analysis)
    assert "class 1 no images" in bars.alt
    for picture in (bars, figures.confusion_matrix(analysis)):
        light, dark = _pixels(picture)
        assert (light[0, 0] == 255).all()
        assert dark[0, 0].max() < 64


def test_the_confusion_matrix_names_the_most_common_confusion() -> None:
    confusion = np.array([[90, 7, 3], [1, 99, 0], [12, 0, 88]])
    alt = figures.confusion_matrix(dataclasses.replace(_analysis(3), confusion=confusion)).alt
    assert "class 2 taken for class 0, 12 times" in alt
    assert "277 lie on the diagonal" in alt


def test_pictures_of_mistakes_draw_odd_names_and_never_round_up_to_certainty() -> None:
    analysis = _analysis(10, names=NAMES, mistakes=25)
    for picture in (pictures.mistakes(analysis), pictures.grad_cam_maps(analysis)):
        assert all(pixels.shape[1] == 1000 for pixels in _pixels(picture))
    alt = pictures.mistakes(analysis).alt
    assert "99.9 %" in alt
    assert "100.0 %" not in alt
    assert alt.endswith("and 5 more.")


def test_names_are_cut_to_what_fits_and_to_what_the_font_has() -> None:
    assert renderable("automobile") == "automobile"
    assert renderable("a very long name of a class") == "a very long n…"
    assert renderable("猫x\n") == "□x□"
