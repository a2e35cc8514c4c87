from __future__ import annotations

import random
from pathlib import Path

import pytest

from fastcifar import get_recipe
from fastcifar.errors import ConfigError
from fastcifar.sweep.space import Choice, Range, check_space, parse_expression, parse_search, read_space


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("choice(500, 1000)", Choice((500, 1000))),
        (" choice( adam,sgd, 'muon' ) ", Choice(("adam", "sgd", "muon"))),
        ("choice(None, 0.85, True, -1)", Choice((None, 0.85, True, -1))),
        ("choice([32, 64, 64], [8, 8, 8])", Choice(([32, 64, 64], [8, 8, 8]))),
        ("uniform(0, 0.3)", Range("uniform", 0, 0.3)),
        ("loguniform(1e-4, 1e-1)", Range("loguniform", 1e-4, 1e-1)),
        ("randint(-1, 8)", Range("randint", -1, 8)),
    ],
)
def test_expressions(text: str, expected: Choice | Range) -> None:
    parsed = parse_expression("setting", text)
    assert parsed == expected
    assert parse_expression("setting", str(parsed)) == expected, "as sweep.json has it"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0.1", r"search expression '0.1'; write choice\(500, 1000\), uniform"),
        ("choice()", "search expression"),
        ("normal(0, 1)", "search expression"),
        ("__import__('os').system('true')", "search expression"),
        ("choice(open('x'))", "search expression"),
        ("choice({1: 2})", "search expression"),
        ("uniform(0, 1, q=2)", "search expression"),
        ("uniform(0, 1", "search expression"),
        ("(" * 500, "search expression"),
        ("choice(1, 2, 1)", "value twice to choose from: 1, 2, 1"),
        ("uniform(1, 0.5)", r"uniform\(1, 0.5\); the first number must be below the second one"),
        ("loguniform(0, 1)", "must be above 0 below the second one"),
        ("randint(1, 2.5)", "it needs whole numbers"),
        ("uniform(low, 1)", "it needs two numbers"),
        ("uniform(0, 1e999)", "it needs two numbers"),
    ],
)
def test_wrong_expressions(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_expression("max_lr", text)


def test_flags_name_settings_with_either_dash() -> None:
    space = parse_search(["max-lr=uniform(0, 1)", "batch_size = choice(1)"])
    assert space == {"max_lr": Range("uniform", 0, 1), "batch_size": Choice((1,))}


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("max_lr", "write SETTING=EXPRESSION"),
        ("max_rl=uniform(0, 1)", "no setting 'max_rl' to search: did you mean max_lr?"),
        ("seed=choice(0, 1)", "seed cannot be searched: use --seeds"),
        ("val_fraction=choice(0.1, 0.2)", "different images cannot be compared"),
    ],
)
def test_wrong_flags(flag: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_search([flag])


def test_a_setting_is_searched_once() -> None:
    with pytest.raises(ConfigError, match="max_lr twice"):
        parse_search(["max_lr=choice(1)", "max-lr=choice(2)"])


def test_a_file_has_expressions_and_lists(tmp_path: Path) -> None:
    path = tmp_path / "space.toml"
    path.write_text('max_lr = "loguniform(0.1, 0.5)"\nbatch-size = [500, 1000]\n')
    assert read_space(path) == {"max_lr": Range("loguniform", 0.1, 0.5), "batch_size": Choice((500, 1000))}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_lr = 0.1", "space.toml: max_lr is 0.1; write choice"),
        ("max_lr = []", "space.toml: max_lr is"),
        ("max_lr =", "space.toml: is not a TOML file"),
        ("epoch = [1, 2]", "space.toml: there is no setting 'epoch' to search: did you mean epochs?"),
    ],
)
def test_wrong_files(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "space.toml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_space(tmp_path / "space.toml")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="search space cannot be read"):
        read_space(tmp_path / "space.toml")


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("momentum=uniform(0.5, 1)", "momentum does not fit the recipe era: momentum is 1; it must be from 0 up to"),
        ("batch_size=uniform(1, 2.5)", "batch_size is 2.5; it must be a whole number"),
        ("optimizer=choice(adam, adamw)", "optimizer is 'adamw'; it must be one of 'adam'"),
        ("batch_size=choice(0)", "batch_size is 0; it must be a whole number, at least 1"),
    ],
)
def test_values_that_a_setting_cannot_have(flag: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_space(parse_search([flag]), {"era": get_recipe("era")})


def test_drawn_values_are_within_their_limits() -> None:
    generator = random.Random(0)
    space = parse_search(
        ["max_lr=loguniform(0.01, 1)", "epochs=randint(1, 3)", "l1=uniform(0, 2)", "padding=choice(1, 2)"]
    )
    draws = [{name: options.draw(generator) for name, options in space.items()} for _ in range(300)]
    assert {draw["epochs"] for draw in draws} == {1, 2, 3}
    assert {draw["padding"] for draw in draws} == {1, 2}
    assert all(0.01 <= draw["max_lr"] <= 1 and 0 <= draw["l1"] <= 2 for draw in draws)
    below = sum(draw["max_lr"] < 0.1 for draw in draws)
    assert 120 < below < 180, "half of the logarithms"
