from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors.torch
import torch
from torch import nn

from fastcifar import create_model
from fastcifar.cli import main
from fastcifar.config import TrainConfig
from fastcifar.data.decode_all import decode_all
from fastcifar.data.synthetic import SHAPES
from fastcifar.data.writer import write_beton
from fastcifar.errors import ExportError
from fastcifar.inference.evaluate import evaluate_checkpoint, load_classifier
from fastcifar.inference.export import FORMATS, ExportedNetwork, compare, compute, export_checkpoint
from fastcifar.inference.predict import classify

Capture = pytest.CaptureFixture[str]
FILES = {"model.onnx", "model.pt2", "model.safetensors", "config.json"}


@pytest.fixture(scope="module")
def run(betons: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short run of a small network, trained under AMP."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert main(_train(betons, folder, "--batch-size", "50", "--epochs", "3")) == 0
    return folder


@pytest.fixture(scope="module")
def exported(run: Path) -> Path:
    """The folder with all files that the command writes."""
    assert main(["export", str(run)]) == 0
    return run / "export"


def _train(betons: Path, run: Path, *more: str) -> list[str]:
    arguments = ["train", "--no-report", "--recipe", "dilated-cnn", "--data-dir", str(betons), "--run-dir", str(run)]
    return [*arguments, "--amp", "--device", "cpu", *more]


def _test_images(betons: Path) -> torch.Tensor:
    """uint8 [N, 3, 32, 32]."""
    return torch.from_numpy(decode_all(betons / "test.beton")[0]).permute(0, 3, 1, 2).contiguous()


def _expected(run: Path, images: torch.Tensor) -> torch.Tensor:
    return compute(load_classifier(run, device="cpu", amp=False).classifier.logits, images)


def test_all_formats_are_written_to_the_run_folder(exported: Path) -> None:
    assert {path.name for path in exported.iterdir()} == FILES


def test_the_onnx_graph_maps_pixels_to_logits(exported: Path, run: Path, betons: Path) -> None:
    onnx.checker.check_model(exported / "model.onnx", full_check=True)
    session = onnxruntime.InferenceSession(str(exported / "model.onnx"), providers=["CPUExecutionProvider"])
    (images_in,), (logits_out,) = session.get_inputs(), session.get_outputs()
    assert (images_in.name, images_in.type, images_in.shape[1:]) == ("images", "tensor(uint8)", [3, 32, 32])
    assert (logits_out.name, logits_out.type, logits_out.shape[1:]) == ("logits", "tensor(float)", [10])
    assert isinstance(images_in.shape[0], str), "any number of images"
    assert onnx.load(exported / "model.onnx").opset_import[0].version >= 18
    images = _test_images(betons)
    expected = _expected(run, images)
    for batch in (1, 7, 90):
        (logits,) = session.run(None, {"images": images[:batch].numpy()})
        np.testing.assert_allclose(logits, expected[:batch].numpy(), atol=1e-4)
    assert json.loads(session.get_modelmeta().custom_metadata_map["config"])["class_names"] == list(SHAPES)


def test_the_torch_program_maps_pixels_to_logits(exported: Path, run: Path, betons: Path) -> None:
    extra = {"config.json": ""}
    program = torch.export.load(exported / "model.pt2", extra_files=extra)
    images = _test_images(betons)
    for batch in (1, 90):
        logits = program.module()(images[:batch])
        assert logits.dtype == torch.float32
        torch.testing.assert_close(logits, _expected(run, images[:batch]), atol=1e-4, rtol=0)
    assert len(json.loads(extra["config.json"])["class_names"]) == 10
    assert program.example_inputs is not None
    assert program.example_inputs[0][0].untyped_storage().nbytes() == 2 * 3 * 32 * 32, "no test images in the file"


def test_weights_and_configuration_recreate_the_network(exported: Path, run: Path, betons: Path) -> None:
    description = json.loads((exported / "config.json").read_text())
    model = create_model(description["config"]["model"], num_classes=len(description["class_names"]))
    model.load_state_dict(safetensors.torch.load_file(exported / "model.safetensors"))
    network = ExportedNetwork(model, description["mean"], description["std"]).eval()
    images = _test_images(betons)
    torch.testing.assert_close(compute(network, images), _expected(run, images), atol=1e-4, rtol=0)
    assert TrainConfig.from_json(description["config"]).epochs == 3
    assert str(betons) not in json.dumps(description), "no paths of the machine"


@pytest.mark.parametrize("name", ["onnx", "torch"])
@pytest.mark.slow
def test_the_biased_network_of_the_exercise_is_exported(name: str) -> None:
    torch.manual_seed(0)
    model = create_model("custom_resnet", conv_bias=True, layer2_residual=True, dropout=0.1)
    with torch.no_grad():
        model(torch.randn(16, 3, 32, 32))  # for running statistics that are not 0 and 1
    network = ExportedNetwork(model, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)).eval()
    images = torch.randint(0, 256, (9, 3, 32, 32), dtype=torch.uint8)
    data = FORMATS[name].write(network, images[:2], {})
    agreement = compare(compute(network, images), compute(FORMATS[name].open(data, {}), images))
    assert agreement.holds
    assert agreement.images == 9


def test_the_command_prints_the_result_of_the_check(run: Path, tmp_path: Path, capsys: Capture) -> None:
    for name, file in (("onnx", "model.onnx"), ("safetensors", "model.safetensors")):
        out = tmp_path / name
        arguments = ["--format", name, "--checkpoint", "best", "--out", str(out)]
        assert main(["export", str(run), *arguments]) == 0
        (line,) = capsys.readouterr().out.splitlines()
        assert line.startswith(f"{out / file}: ")
        assert "on 90 test images the same predictions (0 near-ties aside), logits within " in line
        assert {path.name for path in out.iterdir()} <= {file, "config.json"}


def test_a_file_that_computes_something_else_is_not_written(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = FORMATS["torch"]

    def off_by(amount: float) -> None:
        def open_wrong(data: bytes, description: dict[str, object]) -> Callable[[torch.Tensor], torch.Tensor]:
            return lambda images: real.open(data, description)(images) + amount

        monkeypatch.setitem(FORMATS, "torch", dataclasses.replace(real, open=open_wrong))

    (tmp_path / "model.pt2").write_bytes(b"an earlier one")
    for amount in (2e-4, float("nan")):
        off_by(amount)
        with pytest.raises(ExportError, match="not written, since it differs from the checkpoint: of 90 images"):
            list(export_checkpoint(run, tmp_path, ["torch"]))
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"an earlier one"]
    off_by(5e-5)
    (export,) = export_checkpoint(run, tmp_path, ["torch"])
    assert export.agreement.largest_difference == pytest.approx(5e-5, rel=0.05)


def test_near_ties_are_counted_and_not_compared() -> None:
    expected = torch.tensor([[1.0, 2.0, 0.0], [1.0, 1.00005, 0.0], [3.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    swapped = expected.clone()
    swapped[1] = torch.tensor([1.00003, 1.0, 0.0])
    agreement = compare(expected, swapped)
    assert agreement.holds
    assert (agreement.images, agreement.near_ties, agreement.different_predictions) == (4, 2, 0)
    assert agreement.largest_difference == pytest.approx(5e-5, rel=0.01)
    swapped[0] = torch.tensor([2.0, 1.0, 0.0])
    assert compare(expected, swapped).different_predictions == 1
    assert not compare(expected, swapped).holds


def test_the_normalisation_equals_that_of_the_classifier(run: Path, pictures: np.ndarray) -> None:
    loaded = load_classifier(run, device="cpu", amp=False)
    images = torch.from_numpy(pictures).permute(0, 3, 1, 2)
    normalized = ExportedNetwork(nn.Identity(), loaded.mean, loaded.std)(images)
    torch.testing.assert_close(normalized, loaded.classifier.augmentation(images), atol=1e-6, rtol=0)


@pytest.mark.parametrize("package", ["onnxruntime", "onnxscript", "safetensors"])
def test_a_missing_package_is_one_line(
    package: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["export", str(run), "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("fastcifar: export needs a package ")
    assert package in line
    assert "pip install 'fastcifar[export]'" in line
    assert not (tmp_path / "out").exists()


def test_bad_input_is_one_line(run: Path, pictures: np.ndarray, tmp_path: Path, capsys: Capture) -> None:
    labels = np.arange(len(pictures)) % 2
    write_beton(tmp_path / "test.beton", pictures, labels, class_names=("ant", "bee"), name="other")
    (tmp_path / "file").write_text("not a folder")
    cases = {
        ("--out", str(run)): (2, "is a run folder"),
        ("--data-dir", str(tmp_path)): (1, "test.beton has others"),
        ("--data-dir", str(tmp_path / "none")): (1, "none"),
        ("--out", str(tmp_path / "file")): (1, "file"),
    }
    for arguments, (code, message) in cases.items():
        assert main(["export", str(run), "--format", "torch", *arguments]) == code
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
    assert main(["export", str(tmp_path / "none")]) == 1
    assert "no such checkpoint" in capsys.readouterr().err
    assert json.loads((run / "config.json").read_text())["model"] == "dilated_cnn", (
        "the run's own config.json is unchanged"
    )


@pytest.mark.cifar
@pytest.mark.slow
def test_evaluate_predict_and_the_onnx_graph_agree_on_the_whole_test_set(cifar_betons: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert main(_train(cifar_betons, run, "--epochs", "1", "--resize-sizes", "16", "--resize-fractions", "0.9")) == 0
    (export,) = export_checkpoint(run, tmp_path / "out", ["onnx"])
    assert export.agreement.images == 10_000
    images, labels = decode_all(cifar_betons / "test.beton")
    session = onnxruntime.InferenceSession(str(export.path), providers=["CPUExecutionProvider"])
    logits = session.run(None, {"images": images.transpose(0, 3, 1, 2)})[0]
    highest = np.sort(logits, axis=1)[:, -2:]
    clear = highest[:, 1] - highest[:, 0] > 1e-4
    assert clear.sum() > 9_900
    loaded = load_classifier(run, device="cpu", amp=False)
    top = [loaded.class_names.index(likely[0].class_name) for likely in classify(loaded, images, top=1)]
    assert (np.array(top) == logits.argmax(axis=1))[clear].all()
    accuracy = evaluate_checkpoint(run, device="cpu", amp=False).accuracy
    assert accuracy == pytest.approx((logits.argmax(axis=1) == labels).mean(), abs=(~clear).mean() + 1e-9)
