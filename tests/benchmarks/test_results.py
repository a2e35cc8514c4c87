from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.results import Results
from fastcifar.errors import DataError

FIELDS = {"benchmark": "data", "device": "CPU", "precision": "float32", "versions": {}, "commit": "a", "data": {}}


def test_a_result_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    results = Results(**FIELDS, runs=[{"name": "b", "seed": 1}, {"name": "a", "seed": 1}, {"name": "b", "seed": 2}])
    results.write(tmp_path / "new" / "out.json")
    assert Results.read(tmp_path / "new" / "out.json") == results
    assert [(name, len(runs)) for name, runs in results.grouped().items()] == [("b", 2), ("a", 1)]
    assert list(results.grouped("seed")) == [1, 2]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[1]", "Expected `object`"),
        (json.dumps(FIELDS), "missing required field `runs`"),
        (json.dumps({**FIELDS, "runs": [], "rounds": 3}), "unknown field `rounds`"),
        (json.dumps({**FIELDS, "runs": {}}), "Expected `array`"),
        (None, "No such file"),
    ],
)
def test_another_file_is_refused_with_the_reason(tmp_path: Path, content: str | None, reason: str) -> None:
    path = tmp_path / "out.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=rf"out\.json: is not a result file of a benchmark \(.*{reason}"):
        Results.read(path)
