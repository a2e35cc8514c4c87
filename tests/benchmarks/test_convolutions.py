from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import convolutions
from benchmarks.convolutions import MATMUL, PACKED, TORCH, WINOGRAD, Convolutions, Layer, find_layers, is_possible
from benchmarks.results import Results
from fastcifar import get_recipe
from fastcifar.data.manifest import open_beton
from fastcifar.errors import ConfigError
from fastcifar.machine import has_fast_bfloat16
from scripts import rows


def test_layers_are_those_of_the_network_at_each_image_size(betons: Path) -> None:
    _, manifest = open_beton(betons / "train.beton")
    layers = list(find_layers(get_recipe("speedrun", widths=(16, 32, 48), resize_sizes=(16, 24)), manifest))
    assert [size for size, _ in layers] == [16] * 6 + [24] * 6 + [32] * 6
    assert layers[-6:] == [
        (32, layer)
        for layer in (
            Layer(24, 16, 31, 31),
            Layer(16, 16, 15, 15),
            Layer(16, 32, 15, 15),
            Layer(32, 32, 7, 7),
            Layer(32, 48, 7, 7),
            Layer(48, 48, 3, 3),
        )
    ]


def test_every_possible_algorithm_is_timed_and_compared_with_float32(
    betons: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.json"
    small = get_recipe("speedrun", widths=(16, 96, 96), resize_sizes=(16,), resize_fractions=(0.5,), data_dir=betons)
    monkeypatch.setattr(convolutions, "get_recipe", lambda name, **changes: small.replace(**changes))
    convolutions.main(
        Convolutions(recipes=("speedrun",), data_dir=betons, device="cpu", rounds=1, out=out, batch_size=20)
    )
    results = Results.read(out)
    places = {(run["height"], run["algorithm"]) for run in results.runs}
    assert {(31, TORCH), (15, WINOGRAD), (7, WINOGRAD), (3, PACKED), (1, MATMUL)} <= places
    assert not places & {(31, WINOGRAD), (1, WINOGRAD), (3, MATMUL)}
    bound = 0.025 if has_fast_bfloat16() else 1e-4
    for run in results.runs:
        assert 0 <= max(run["errors"]) < bound
        assert len(run["errors"]) == 3
    table = list(rows.convolutions(results))
    assert len(table) == len({tuple(run[name] for name in ("image_size", *Layer._fields)) for run in results.runs})
    assert all(row["milliseconds"].count("**") == 2 and row["milliseconds"].count("|") == 3 for row in table)


def test_algorithms_are_possible_for_the_images_that_they_were_made_for() -> None:
    images = torch.empty(4, 32, 2, 2)
    assert is_possible(MATMUL, images, 32)
    assert not is_possible(MATMUL, torch.empty(4, 32, 3, 3), 32)
    assert not is_possible(WINOGRAD, images, 32)
    assert not is_possible(WINOGRAD, torch.empty(4, 31, 3, 3), 32)


def test_bad_options_are_refused(betons: Path) -> None:
    with pytest.raises(ConfigError, match="batch_size is 0"):
        Convolutions(batch_size=0)
    if torch.cuda.is_available():
        with pytest.raises(ConfigError, match="must be cpu"):
            convolutions.main(Convolutions(data_dir=betons, device="cuda"))
