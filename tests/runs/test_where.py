from __future__ import annotations

import pytest

from fastcifar.errors import ConfigError
from fastcifar.runs.where import parse_condition

ROW = {"recipe": "era", "test_accuracy": 0.95, "tta_accuracy": None, "device": "CUDA: A100", "amp": True, "seed": 3}


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ('recipe == "era" and test_accuracy > 0.9', True),
        ('recipe == "era" and not test_accuracy > 0.9', False),
        ('recipe == "quick" or seed == 3', True),
        ("0.9 < test_accuracy <= 0.95", True),
        ("0.9 < test_accuracy < 0.95", False),
        ("seed in (1, 2, 3)", True),
        ('recipe not in ["era", "quick"]', False),
        ('"A100" in device', True),
        ("amp", True),
        ("amp == False", False),
        ("test_accuracy * 2 - 1 > 0.8", True),
        ("-seed + 4 / 2 < 0", True),
        # a missing value
        ("tta_accuracy > 0", False),
        ("tta_accuracy <= 0", False),
        ("tta_accuracy != 0.9", False),
        ("tta_accuracy + 1 > 0", False),
        ("tta_accuracy", False),
        ("tta_accuracy == None", True),
        ("test_accuracy != None", True),
        ("seed / 0 > 1", False),
    ],
)
def test_a_condition_is_computed_for_a_row(condition: str, expected: bool) -> None:
    assert parse_condition(condition, ROW)(ROW) is expected


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        (
            "test_acuracy > 0.9",
            "no column 'test_acuracy': did you mean test_accuracy.*The columns are recipe, test_acc",
        ),
        ("recipe == era", "text needs quotation marks"),
        ("recipe = 3", "cannot be parsed"),
        ("", "cannot be parsed"),
        ("seed is None", "write == or !="),
        ("(" * 500 + "1" + ")" * 500, "cannot be parsed|nested too deeply"),
        ("-" * 5000 + "seed < 1", "nested too deeply"),
        ("-" * 400 + "seed < 1", "nested too deeply"),
    ],
)
def test_a_condition_that_makes_no_sense_is_one_error(condition: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_condition(condition, ROW)(ROW)


@pytest.mark.parametrize(
    "condition",
    [
        '__import__("os").system("true")', "recipe.upper", "recipe[0]", "[x for x in device]", "lambda: 1", "2 ** 9",
        "seed % 2", "seed if amp else 1", "f'{recipe}'", "(seed := 1)", "1j", "b'a'", "~seed", "{1: 2}", "*seed",
    ],
)  # fmt: skip
def test_other_expressions_of_python_are_refused(condition: str) -> None:
    with pytest.raises(ConfigError, match=r"a condition cannot have|cannot be parsed"):
        parse_condition(condition, ROW)


@pytest.mark.parametrize("condition", ["recipe > 3", 'seed in "3"', "seed in 3", "recipe + 1 > 2", '"a" * 9 == "a"'])
def test_values_that_cannot_be_compared_or_added_are_named(condition: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot be compared: they are|needs numbers; its values are"):
        parse_condition(condition, ROW)(ROW)
