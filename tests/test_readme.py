from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from scripts.pictures import OUT, RECORD, draw_console, variants
from tests.helpers import write_pair

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
SNIPPETS = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize("snippet", SNIPPETS, ids=range(len(SNIPPETS)))
def test_each_snippet_of_the_readme_runs_as_it_stands(
    snippet: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(snippet.splitlines()) <= 10
    write_pair(tmp_path / "data" / "betons", train=520, test=40)
    monkeypatch.chdir(tmp_path)
    exec(compile(snippet, str(README), "exec"), {"__name__": "__main__"})


def test_the_readme_has_snippets_of_its_parts() -> None:
    text = "\n".join(SNIPPETS)
    for name in ("get_recipe", "fit", "create_loader", "create_augmentation", "create_model"):
        assert f"fastcifar.{name}(" in text


def test_the_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= 150


def test_each_picture_is_small_and_has_a_description_and_all_variants() -> None:
    pictures = re.findall(r"<picture>.*?</picture>", README.read_text(), flags=re.DOTALL)
    assert len(pictures) == 3
    for picture in pictures:
        files = re.findall(r'(?:src|srcset)="(.*?)"', picture)
        assert sorted(files) == sorted({*files})
        assert {tuple(Path(file).stem.split("-")[1:]) for file in files} == set(variants())
        assert all((ROOT / file).stat().st_size < 300_000 for file in files)
        description = re.search(r'alt="(.*?)"', picture, flags=re.DOTALL)
        assert description is not None
        assert len(description[1]) > 40


@pytest.mark.parametrize(("size", "theme"), variants())
def test_the_pictures_of_the_console_show_the_committed_record(size: str, theme: str) -> None:
    """If this fails, run `python -m scripts.pictures` and look at the pictures."""
    drawn = draw_console(json.loads(RECORD.read_text()), size, theme)
    assert (OUT / f"console-{size}-{theme}.svg").read_text() == drawn
    assert not re.search(r"@import|url\(\"?http", drawn)
