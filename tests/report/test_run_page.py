from __future__ import annotations

import base64
import io
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from fastcifar.cli import main
from fastcifar.inference.evaluate import evaluate_checkpoint
from fastcifar.progress import Progress
from fastcifar.report import run_page
from fastcifar.runs.record import read_record
from tests.report.pages import HOSTILE, NAMES, Page, noise_analysis

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
Capture = pytest.CaptureFixture[str]


def test_the_command_prints_the_pages_path_and_saves_the_figures(run: Path, report: Path, capsys: Capture) -> None:
    out = report.parent
    names = ["accuracy", "augmented", "classes", "confusion", "corruptions", "grad-cam", "loss", "mistakes", "schedule"]
    assert sorted(path.name for path in out.iterdir()) == sorted([*(f"{name}.png" for name in names), "report.html"])
    for path in out.glob("*.png"):
        with Image.open(path) as image:
            assert image.width == 1000
    elsewhere = out.parent / "elsewhere"
    assert main(["report", str(run), "--top", "1", "--checkpoint", "best", "--out", str(elsewhere)]) == 0
    assert capsys.readouterr().out == f"Report: {elsewhere / 'report.html'}\n"
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


def test_every_image_has_a_description(run: Path, report: Path) -> None:
    images = Page(report.read_text()).all("img")
    assert len(images) == 9
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
    assert "synthetic & odd" in shown.text


def test_the_page_has_the_facts_the_epochs_and_the_classes(run: Path, report: Path) -> None:
    shown, record = Page(report.read_text()), read_record(run)
    for fact in (record.environment["device"], record.environment["versions"]["torch"], "float32", "6,573,130"):
        assert fact in shown.text
    rows = [attributes for attributes in shown.all("th") if attributes.get("scope") == "row"]
    assert len(rows) == 2 + 11 + 14 + len(record.config.to_json())
    assert "All 90 images of the test set" in shown.text
    assert "The run did not use the test set" in shown.text
    assert f"{100 * record.last.test_accuracy:.2f} % validation accuracy" in shown.text


def test_chromium_shows_the_page(run: Path, report: Path, tmp_path: Path) -> None:
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
    assert len(shown.all("figure")) == 9
    assert len(shown.all("img")) == 9
    assert len(shown.all("table")) == 4
    assert len(shown.all("tr")) == 3 + 12 + 14 + len(read_record(run).config.to_json())
    assert not shown.all("script")


def test_an_evaluation_reports_its_progress(run: Path) -> None:
    seen: list[Progress] = []
    evaluation = evaluate_checkpoint(run, device="cpu", on_progress=seen.append)
    assert seen[-1] == Progress(task="evaluating", done=evaluation.samples, total=evaluation.samples)


def test_a_run_without_mistakes_says_so(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = noise_analysis(10, names=NAMES, mistakes=0)
    monkeypatch.setattr(run_page, "analyze", lambda saved, **_: nothing)
    shown = Page(run_page.write_report(run, out=tmp_path / "out", device="cpu").read_text())
    assert "every image of the test set is classified correctly" in shown.text
    assert len(shown.all("figure")) == 7


def test_bad_input_ends_in_one_line(run: Path, other: Path, tmp_path: Path, capsys: Capture) -> None:
    shutil.rmtree(other / "checkpoints")
    (tmp_path / "empty").mkdir()
    unfinished = shutil.copytree(run, tmp_path / "unfinished")
    (unfinished / "metrics.jsonl").write_text("")
    odd = shutil.copytree(run, tmp_path / "odd")
    (odd / "metrics.jsonl").write_text('{"epoch": 1}\n')
    cases = {
        (1, (str(tmp_path / "none"),)): "is not a run folder",
        (1, (str(tmp_path / "empty"),)): "is not a run folder",
        (1, (str(other),)): "last.pt: no such checkpoint",
        (1, (str(unfinished),)): "has no finished epoch yet",
        (1, (str(odd),)): "of another version",
        (1, (str(run), "--data-dir", str(tmp_path))): "name the folder of its .beton files",
        (2, (str(run), "--top", "0")): "top is 0; it must be from 1 to 200",
        (2, ()): "no run folder is given",
    }
    for (code, arguments), message in cases.items():
        assert main(["report", *arguments]) == code, arguments
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1, lines
        assert message in lines[0]
