from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.result_files import find_problems


def read_checked(path: Path) -> dict[str, Any]:
    """The results that a benchmark wrote to `path`, which must have all fields."""
    allowed = ("its data must be cifar10", "was measured on a commit with changes")
    assert not [problem for problem in find_problems(path) if not any(text in problem for text in allowed)]
    return json.loads(path.read_text())
