from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.helpers import write_pair

README = Path(__file__).parent.parent / "README.md"
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
