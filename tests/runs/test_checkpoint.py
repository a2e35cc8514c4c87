from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fastcifar import TrainConfig, create_loader, fit, load_checkpoint
from fastcifar.commands.evaluate import Evaluate
from fastcifar.commands.export import Export
from fastcifar.commands.predict import Predict
from fastcifar.commands.report import Report
from fastcifar.errors import CheckpointError
from fastcifar.inference.evaluate import evaluate_checkpoint, load_classifier
from fastcifar.inference.export import export_checkpoint
from fastcifar.report.run_page import write_report
from fastcifar.runs.checkpoint import (
    FORMAT_VERSION,
    checkpoint_path,
    link_checkpoint,
    read_checkpoint,
    save_checkpoint,
    state_sha256,
)  # fmt: skip
from fastcifar.training.state import create_state
from tests.helpers import TinyNet, tiny_state, train_tiny


def test_a_checkpoint_is_loaded_in_eval_mode_with_its_configuration(config: TrainConfig, tmp_path: Path) -> None:
    run = config.replace(epochs=1, batch_size=100, run_dir=tmp_path / "run")
    state = create_state(run)
    fit(state)
    for checkpoint in ("best", "last"):
        model, loaded = load_checkpoint(tmp_path / "run", checkpoint)  # type: ignore[arg-type]
        assert loaded == run
        assert not model.training
        for name, value in state.classifier.model.state_dict().items():
            assert torch.equal(model.state_dict()[name], value), name


def test_the_last_checkpoint_is_the_default_everywhere(config: TrainConfig, tmp_path: Path) -> None:
    run = config.replace(epochs=2, batch_size=100, model="dilated_cnn", run_dir=tmp_path)
    fit(run)
    last = checkpoint_path(tmp_path, "last")
    checkpoint_path(tmp_path, "best").unlink()
    link_checkpoint(checkpoint_path(tmp_path, "previous"), checkpoint_path(tmp_path, "best"))
    expected, best = (load_checkpoint(tmp_path, name)[0].state_dict() for name in ("last", "best"))  # type: ignore[arg-type]
    assert not all(torch.equal(best[name], expected[name]) for name in expected)
    for model in (load_checkpoint(tmp_path)[0], load_classifier(tmp_path, device="cpu").classifier.model):
        for name, value in model.state_dict().items():
            assert torch.equal(value, expected[name]), name
    assert evaluate_checkpoint(tmp_path, device="cpu").checkpoint == str(last)
    for function in (load_checkpoint, load_classifier, evaluate_checkpoint, export_checkpoint, write_report):
        assert inspect.signature(function).parameters["checkpoint"].default == "last"
    for command in (Evaluate, Export, Predict, Report):
        assert {field.name: field.default for field in dataclasses.fields(command)}["checkpoint"] == "last"


def test_a_tilde_in_the_path_of_a_run_or_a_beton_is_expanded(
    betons: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(betons.parent))
    assert checkpoint_path("~/run", "last") == betons.parent / "run" / "checkpoints" / "last.pt"
    assert len(create_loader(f"~/{betons.name}/test.beton", batch_size=45, train=False)) == 2
    config = TrainConfig().replace(data_dir=f"~/{betons.name}", run_dir="~/run")
    assert (config.data.data_dir, config.run_dir) == (betons, betons.parent / "run")


def test_a_missing_or_damaged_checkpoint_or_another_network_is_an_error(config: TrainConfig, tmp_path: Path) -> None:
    run = config.replace(epochs=1, run_dir=tmp_path / "run")
    train_tiny(run)
    with pytest.raises(
        CheckpointError,
        match=r"last\.pt: its weights belong to another network; pass that network as `model` \(Error\(s\) in loading",
    ):
        load_checkpoint(tmp_path / "run")
    assert isinstance(load_checkpoint(tmp_path / "run", model=TinyNet())[0], TinyNet)
    with pytest.raises(CheckpointError, match=r"no such checkpoint; is .*elsewhere a run folder"):
        load_checkpoint(tmp_path / "elsewhere")
    picture = tmp_path / "cat.jpg"  # the arguments of `predict` in the wrong order
    picture.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"no such checkpoint; is .*cat\.jpg a run folder"):
        load_checkpoint(picture)
    with pytest.raises(CheckpointError, match="checkpoint is 'first'; a run has 'best', 'last' and 'previous'"):
        load_checkpoint(tmp_path / "run", "first")  # type: ignore[arg-type]
    path = checkpoint_path(tmp_path / "run", "last")
    whole = path.read_bytes()
    for content in (b"", b"nonsense", whole[: len(whole) // 2]):
        path.unlink()
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="damaged, or not a fastcifar checkpoint"):
            load_checkpoint(tmp_path / "run")


def test_an_error_while_saving_names_the_file(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disk_is_full(*_: object) -> None:
        raise RuntimeError("unexpected pos 64 vs 0\nand a trace")

    monkeypatch.setattr(torch, "save", disk_is_full)
    message = r"^.*last\.pt: cannot be written \(unexpected pos 64 vs 0\); is the disk full\?$"
    with pytest.raises(CheckpointError, match=message), tiny_state(config) as state:
        save_checkpoint(tmp_path / "last.pt", state.state_dict())
    assert list(tmp_path.iterdir()) == []


OTHER_HASH = "damaged: its content does not match the hash that was saved with it"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"format_version": 1}, "format version 1; this fastcifar reads 4"),
        ({"format_version": 5}, "format version 5; this fastcifar reads 4"),
        ({"format_version": 4}, OTHER_HASH),
        ({"format_version": 3, "sha256": "0" * 64}, OTHER_HASH),
        (
            {"format_version": 4, "a": {"b": [torch.zeros(1).expand(10**12)]}},
            "damaged: a tensor is larger than its data in the file",
        ),
        ({"a": 1}, "damaged, or not a fastcifar checkpoint ('format_version')"),
        ([1], "damaged, or not a fastcifar checkpoint (list indices must be integers or slices, not str)"),
    ],
)
def test_a_file_that_is_not_a_checkpoint_of_this_version_is_an_error(tmp_path: Path, values: Any, message: str) -> None:
    torch.save(values, tmp_path / "last.pt")
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(tmp_path / "last.pt")
    assert str(caught.value) == f"{tmp_path / 'last.pt'}: {message}"


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"betas": 1}, "there is no setting .betas."), ({"max_lr": "high"}, "max_lr is 'high'"), (None, "'config'")],
)
def test_a_configuration_of_another_version_is_an_error(
    tmp_path: Path, settings: dict[str, Any] | None, message: str
) -> None:
    save_checkpoint(tmp_path / "last.pt", {} if settings is None else {"config": settings})
    with pytest.raises(CheckpointError, match=rf"last\.pt: not a checkpoint of this version of fastcifar \({message}"):
        read_checkpoint(tmp_path / "last.pt")


def test_reading_a_checkpoint_executes_no_code(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "executed",))

    (tmp_path / "checkpoints").mkdir()
    torch.save({"format_version": FORMAT_VERSION, "model": Payload()}, tmp_path / "checkpoints" / "last.pt")
    with pytest.raises(CheckpointError, match="damaged, or not a fastcifar checkpoint"):
        load_checkpoint(tmp_path)
    assert not (tmp_path / "executed").exists()


def test_the_hash_depends_on_names_nesting_types_and_shapes() -> None:
    zeros = torch.zeros(4)
    contents = [
        {"a": 1, "b": 2}, {"b": 1, "a": 2}, {"a": 12}, {"a": "1"}, {"a": True}, {"a": {}}, {"a": []},
        [1, 2], [[1], 2], [[1, 2]], [12], ["a", 1],
        {"a": zeros}, {"a": zeros.view(2, 2)}, {"a": zeros.int()}, {"a": -zeros}, {"a": [zeros]},
    ]  # fmt: skip
    assert len({state_sha256(content) for content in contents}) == len(contents)
    assert state_sha256({"a": [1, zeros]}) == state_sha256({"a": (1, zeros.clone())})


LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | arrays.arrays(
        np.float32, arrays.array_shapes(max_dims=2, max_side=3), elements=st.floats(width=32, allow_nan=False)
    ).map(torch.from_numpy)
)
STATES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3))


@given(STATES, STATES)
def test_any_two_different_states_have_different_hashes(one: Any, other: Any) -> None:
    assert state_sha256(one) == state_sha256(one)
    assert (state_sha256(one) == state_sha256(other)) == (_comparable(one) == _comparable(other))


def _comparable(value: Any) -> Any:
    """The content of a state as values that are equal only if their types and bits are."""
    if isinstance(value, torch.Tensor):
        return "tensor", tuple(value.shape), value.numpy().tobytes()
    if isinstance(value, dict):
        return "dict", tuple((name, _comparable(item)) for name, item in value.items())
    if isinstance(value, list):
        return "list", tuple(_comparable(item) for item in value)
    return type(value).__name__, repr(value)
