from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastcifar import TrainConfig, fit
from fastcifar.analysis.suspicious import analyze_dynamics
from fastcifar.cli import main
from fastcifar.data.beton_format import read_index
from fastcifar.data.images import Source
from fastcifar.data.synthetic import draw_synthetic
from fastcifar.data.variation import Variation
from fastcifar.data.vary import vary
from fastcifar.data.writer import write_beton, write_pair
from fastcifar.report import dynamics_page
from tests.helpers import tiny_state
from tests.report.pages import NAMES, Page

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with records on classes with hostile names."""
    folder = tmp_path_factory.mktemp("dynamics")
    for split, (images, labels) in zip(("train", "test"), draw_synthetic(train=120, test=30), strict=True):
        write_beton(folder / "betons" / f"{split}.beton", images, labels, class_names=NAMES, name="synthetic")
    config = TrainConfig().replace(data_dir=folder / "betons", batch_size=50, epochs=3, device="cpu", dynamics=True)
    fit(tiny_state(config.replace(run_dir=folder / "run")))
    return folder / "run"


def test_the_command_writes_a_page_and_a_table(recorded: Path, capsys: Capture) -> None:
    assert main(["dynamics", str(recorded), "--top", "6"]) == 0
    out, printed = recorded / "report", capsys.readouterr().out
    assert printed.endswith(f"Table: {out / 'suspicious.csv'}\nReport: {out / 'dynamics.html'}\n")
    assert "mean confidence" in printed
    shown = Page((out / "dynamics.html").read_text())
    assert "Training dynamics of run" in shown.text
    assert len(shown.all("img")) == 3
    assert all(len(str(image["alt"])) > 40 for image in shown.all("img"))
    assert not {"script", "link"} & {tag for tag, _ in shown.elements}
    for name in ("data-map", "forgetting", "suspicious"):
        with Image.open(out / f"{name}.png") as image:
            assert image.width == 1000


def test_the_table_has_every_image_in_order_of_suspicion(recorded: Path, tmp_path: Path) -> None:
    report = dynamics_page.write_dynamics(recorded, out=tmp_path, top=1)
    with report.table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    dynamics = report.analysis.dynamics
    assert len(rows) == len(dynamics.index) > 100
    assert [int(row["rank"]) for row in rows] == list(range(1, len(rows) + 1))
    margins = [float(row["margin"]) for row in rows]
    assert margins == sorted(margins)
    labels = read_index(recorded.parent / "betons" / "train.beton").labels
    assert all(int(row["label"]) == labels[int(row["index"])] for row in rows)
    assert all(row["class"] == NAMES[int(row["label"])] for row in rows)


def test_json_has_the_counts_and_the_most_suspicious_images(recorded: Path, tmp_path: Path, capsys: Capture) -> None:
    assert main(["dynamics", str(recorded), "--json", "--top", "3", "--out", str(tmp_path)]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["epochs"] == 3
    assert values["never_learned"] + values["unforgettable"] <= values["images"]
    assert len(values["suspicious"]) == 3
    assert values["wrong_labels"] is None
    assert values["page"] == str(tmp_path / "dynamics.html")
    pictures = analyze_dynamics(recorded, top=3)
    index = read_index(recorded.parent / "betons" / "train.beton")
    assert np.array_equal(pictures.images, index.images([image["index"] for image in values["suspicious"]]))


def test_known_wrong_labels_are_counted(tmp_path: Path, capsys: Capture) -> None:
    train, test = draw_synthetic(train=120, test=30)
    clean = Source(train=train, test=test, class_names=NAMES, name="synthetic")
    write_pair(tmp_path / "betons", vary(clean, Variation(label_noise=0.1)))
    config = TrainConfig().replace(data_dir=tmp_path / "betons", batch_size=60, epochs=1, device="cpu", dynamics=True)
    fit(tiny_state(config.replace(run_dir=tmp_path / "run")))
    assert main(["dynamics", str(tmp_path / "run"), "--top", "4"]) == 0
    assert "of 12 known wrong labels in the most suspicious 15 %" in capsys.readouterr().out
    assert "Known wrong labels" in Page((tmp_path / "run" / "report" / "dynamics.html").read_text()).text
    with (tmp_path / "run" / "report" / "suspicious.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["true_label"]) for row in sorted(rows, key=lambda row: int(row["index"]))] == train.labels.tolist()
    assert main(["dynamics", str(tmp_path / "run"), "--top", "4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["wrong_labels"]
    wrong = {rank for rank, row in enumerate(rows) if row["label"] != row["true_label"]}
    assert found["known"] == len(wrong) == 12
    assert found["found"] == {
        fraction: pytest.approx(len(wrong & set(range(count))) / 12)
        for fraction, count in (("0.05", 6), ("0.1", 12), ("0.15", 18), ("0.2", 24))
    }


def test_bad_input_gives_one_line(recorded: Path, tmp_path: Path, capsys: Capture) -> None:
    def error(*arguments: str) -> str:
        assert main(["dynamics", *arguments]) in (1, 2)
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        return lines[0]

    assert "top is 0; it must be from 1 to 200" in error(str(recorded), "--top", "0")
    assert "has no records of its training images" in error(str(tmp_path))
    missing = error(str(recorded), "--data-dir", str(tmp_path))
    assert f"{tmp_path} has no train.beton; name the folder of its .beton files with --data-dir" in missing
    (images, labels), _ = draw_synthetic(train=120, test=1, seed=1)
    write_beton(tmp_path / "train.beton", images, labels, class_names=NAMES, name="synthetic")
    assert "was trained on other data than that in" in error(str(recorded), "--data-dir", str(tmp_path))
