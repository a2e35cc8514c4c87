from __future__ import annotations

import dataclasses
import json
import tomllib
from pathlib import Path

import pytest

from fastcifar import TrainConfig, get_recipe
from fastcifar.cli import main
from fastcifar.config import GROUPS, SETTINGS
from fastcifar.errors import ConfigError
from fastcifar.recipe_files import MACHINE_SETTINGS, format_recipe, write_recipe
from fastcifar.recipes import RECIPES
from tests.runs.examples import result, write_run

Capture = pytest.CaptureFixture[str]


def _file(folder: Path, text: str, name: str = "mine.toml") -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


def test_a_file_changes_the_recipe_that_it_extends(tmp_path: Path) -> None:
    text = 'extends = "speedrun"\nepochs = 12\nlabel-smoothing = 0.1\n[optim]\nmax_lr = 0.05\n'
    changes = {"epochs": 12, "label_smoothing": 0.1, "max_lr": 0.05, "resize_sizes": (), "resize_fractions": ()}
    config = get_recipe(_file(tmp_path, f"{text}[resize]\nresize_sizes = []\nresize_fractions = []\n"))
    assert config == get_recipe("speedrun", **changes)
    assert config.name == "mine.toml"


def test_a_file_extends_another_one_beside_it_or_the_defaults(tmp_path: Path) -> None:
    _file(tmp_path, "epochs = 3\nseed = 7\n", "base.toml")
    config = get_recipe(_file(tmp_path, 'extends = "base.toml"\nepochs = 4\n'), seed=8)
    assert config == TrainConfig().replace(epochs=4, seed=8)


def test_text_stands_for_none_where_a_setting_can_be_none(tmp_path: Path) -> None:
    config = get_recipe(_file(tmp_path, 'extends = "speedrun"\neval_batch_size = "None"\n'))
    assert config.data.eval_batch_size is None


@pytest.mark.parametrize("name", RECIPES)
def test_each_recipe_can_be_written_as_a_file_and_read_again(name: str, tmp_path: Path) -> None:
    config = get_recipe(name, target_accuracy=0.9, seed=2**63 - 1, max_lr=1e-7)
    write_recipe(tmp_path / "saved.toml", config)
    assert get_recipe(str(tmp_path / "saved.toml")) == config


def test_a_file_has_all_settings_but_those_of_the_machine_in_their_groups(tmp_path: Path) -> None:
    config = get_recipe("era", device="cuda:1", run_dir=tmp_path, data_dir=tmp_path, workers=3)
    written = tomllib.loads(format_recipe(config))
    names = {name for group in GROUPS for name in written[group]} | {*written} - {*GROUPS}
    unset = {name for name, value in TrainConfig().to_json().items() if value is None}
    assert names == SETTINGS.keys() - unset - {*MACHINE_SETTINGS}
    for name, (_, hint) in SETTINGS.items():
        if type(None) in getattr(hint, "__args__", ()):
            assert name in unset, "a file leaves out None, so it must be the default"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_l = 3", "there is no setting 'max_l': did you mean max_lr?"),
        ('[optim]\nmax_lr = "high"', "max_lr is 'high'; it must be a number"),
        ("flip_p = 2.0", "flip_p is 2.0; it must be from 0 to 1"),
        ("[optim]\nepochs = 3", r"\[optim\] has epochs, which is not in this group"),
        ("[optm]\nmax_lr = 3", r"there is no group \[optm\]: did you mean \[optim\]?"),
        ("max_lr = 1\n[optim]\nmax-lr = 1", "max_lr is given twice"),
        ('extends = "mine.toml"', "extends itself"),
        ('extends = "spedrun"', "did you mean speedrun"),
        ('extends = "none.toml"', "none.toml: this recipe file cannot be read"),
        ("extends = 3", "extends is 3; it must be the name of a recipe"),
        ("a b", "is not a TOML file .* line 1"),
        ("max_lr = 2020-01-01", "it must be a number"),
        ("x = " + "[" * 10_000, "is not a TOML file"),
    ],
)
def test_a_bad_file_is_one_error_with_its_name_and_the_key(text: str, message: str, tmp_path: Path) -> None:
    path = _file(tmp_path, text)
    with pytest.raises(ConfigError, match=message) as raised:
        get_recipe(path)
    assert str(raised.value).startswith(f"{path}: ")


def test_a_file_that_is_no_text_or_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    (tmp_path / "folder.toml").mkdir()
    for name in ("bytes.toml", "folder.toml", "none.toml"):
        with pytest.raises(ConfigError, match=name):
            get_recipe(str(tmp_path / name))


def test_train_reads_a_file_and_saves_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.chdir(tmp_path)
    path = _file(tmp_path, 'extends = "quick"\nepochs = 5\n')
    more = ["--dry-run", "--cutout", "4", "--min-lr", "1e-4", "--save-recipe", "saved.toml"]
    assert main(["train", "--recipe", path, *more]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["base_recipe"], shown["epochs"], shown["cutout"], shown["padding"]) == ("mine.toml", 5, 4, 2)
    saved = get_recipe("saved.toml")
    assert saved.to_json() == {**shown, "base_recipe": "saved.toml"}
    assert saved.optim.max_lr / saved.optim.div_factor == pytest.approx(1e-4)
    assert main(["train", "--dry-run", "--save-recipe", "saved.txt"]) == 2
    assert "must end in .toml" in capsys.readouterr().err


def test_a_run_from_a_file_has_its_name_and_is_resumed_without_it(
    betons: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = 'model = "dilated_cnn"\nbatch_size = 100\nepochs = 1\ndevice = "cpu"\n'
    path = _file(tmp_path, f"{settings}data_dir = {json.dumps(str(betons))}\n")
    assert main(["train", "--recipe", path, "--no-report"]) == 0
    Path(path).unlink()
    (run,) = (tmp_path / "runs").iterdir()
    assert run.name.endswith("-mine")
    assert json.loads((run / "config.json").read_text())["base_recipe"] == "mine.toml"
    assert main(["train", "--resume", str(run), "--no-report"]) == 0
    assert "nothing is left to train" in capsys.readouterr().out


def test_recipes_prints_a_recipe_a_file_or_a_run(tmp_path: Path, capsys: Capture) -> None:
    write_run(tmp_path / "run", results=[result(1)])
    path = _file(tmp_path, 'extends = "quick"\n')
    for name, expected in {
        "quick": get_recipe("quick"),
        path: get_recipe("quick"),
        str(tmp_path / "run"): None,
    }.items():
        assert main(["recipes", name]) == 0
        printed = get_recipe(_file(tmp_path, capsys.readouterr().out, "printed.toml"))
        assert printed == (expected or dataclasses.replace(TrainConfig(), epochs=2))
    assert main(["recipes", "quik"]) == 2
