from __future__ import annotations

import sys
from pathlib import Path

import pytest
from PIL import Image

from fastcifar.data.synthetic import SHAPES, draw_synthetic

NOTEBOOK = Path(__file__).parent.parent / "notebooks" / "fastcifar.ipynb"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::RuntimeWarning")
def test_the_notebook_runs_from_top_to_bottom_on_synthetic_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    source = tmp_path / "pictures"  # the synthetic source's 10,000 images take too long on a CPU without bfloat16
    for split, (images, labels) in zip(("train", "test"), draw_synthetic(train=640, test=200), strict=True):
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            path = source / split / list(SHAPES)[label] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    monkeypatch.setenv("FASTCIFAR_SOURCE", str(source))
    monkeypatch.setenv("FASTCIFAR_EPOCHS", "1")
    monkeypatch.setenv("FASTCIFAR_ITERATIONS", "20")
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    pictures = [
        output for cell in notebook.cells for output in cell.get("outputs", []) if "image/png" in output.get("data", {})
    ]
    assert len(pictures) >= 5
    assert (tmp_path / "run" / "report" / "report.html").exists()
