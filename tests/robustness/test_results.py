from __future__ import annotations

import sys

import pytest

from tests.robustness.results import outcome, run_command
from tests.robustness.soak import Soak, main


def test_a_program_refuses_bad_options_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["tests/robustness/soak.py", "--device", "nowhere"])
    with pytest.raises(SystemExit) as stopped:
        run_command(main, Soak, None)
    assert stopped.value.code not in (0, None)
    assert "nowhere" in capsys.readouterr().err


def test_an_unexpected_error_is_an_outcome_of_its_own() -> None:
    assert outcome(lambda: 1) == "passed"
    assert outcome(lambda: 1 / 0) == "raised ZeroDivisionError"
