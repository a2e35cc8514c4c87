from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastcifar import TrainConfig, create_model, fit, load_checkpoint
from fastcifar.data.writer import write_beton
from fastcifar.data.loader import decode_all
from fastcifar.errors import CheckpointError
from fastcifar.analysis.mistakes import Analysis, analyze, draw_augmented, most_confident_mistakes
from fastcifar.inference.evaluate import Predictions, open_network
from fastcifar.analysis.grad_cam import grad_cam
from tests.helpers import TinyNet, write_pair


@pytest.fixture(scope="module")
def run(betons: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    config = TrainConfig(betons=betons, batch_size=100, epochs=1, device="cpu", run_dir=folder)
    list(fit(config))
    return folder


@pytest.fixture(scope="module")
def analysis(run: Path) -> Analysis:
    return analyze(open_network(run, device="cpu"), top=5)


def _logits(predicted: list[int], margins: list[float], classes: int = 3) -> torch.Tensor:
    logits = torch.zeros(len(predicted), classes)
    for row, (label, margin) in enumerate(zip(predicted, margins, strict=True)):
        logits[row, label] = margin
    return logits


def _independent(head: nn.Module, features: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The definition, an image and a channel at a time, without hooks."""
    maps = []
    for feature, target in zip(features, targets.tolist(), strict=True):
        leaf = feature.detach()[None].requires_grad_()
        head(leaf)[0, target].backward()
        weighted = torch.zeros_like(feature[0])
        for channel in range(len(feature)):
            weighted += leaf.grad[0, channel].mean() * feature[channel].detach()
        maps.append(weighted.clamp(min=0))
    large = F.interpolate(torch.stack(maps)[:, None], size=(32, 32), mode="bilinear", align_corners=False)[:, 0]
    return torch.stack([one / one.max() if one.max() > 0 else one for one in large])


def test_confusion_and_loss_are_what_one_counts_by_hand() -> None:
    labels = torch.tensor([0, 0, 1, 1, 1, 2])
    predictions = Predictions(logits=_logits([0, 1, 1, 1, 2, 0], [1.0] * 6), labels=labels)
    assert predictions.confusion().tolist() == [[1, 1, 0], [0, 2, 1], [1, 0, 0]]
    right, wrong = np.log(np.e + 2) - 1, np.log(np.e + 2)
    assert predictions.loss() == pytest.approx((3 * right + 3 * wrong) / 6)


def test_the_most_confident_mistakes_come_first_and_of_equal_ones_the_first() -> None:
    labels = torch.tensor([0, 0, 1, 2, 2, 2, 0])
    margins = [9.0, 2.0, 5.0, 2.0, 1.0, 8.0, 5.0]
    predictions = Predictions(logits=_logits([0, 1, 2, 1, 1, 2, 2], margins), labels=labels)
    found = most_confident_mistakes(predictions, 4)
    assert [(each.index, each.truth, each.predicted) for each in found] == [(2, 1, 2), (6, 0, 2), (1, 0, 1), (3, 2, 1)]
    assert found[0].confidence == pytest.approx(np.exp(5) / (np.exp(5) + 2))
    assert len(most_confident_mistakes(predictions, 100)) == 5
    assert most_confident_mistakes(Predictions(logits=_logits([0], [1.0]), labels=torch.tensor([0])), 3) == ()


def test_the_analysis_agrees_with_a_count_over_the_whole_test_set(run: Path, betons: Path, analysis: Analysis) -> None:
    images, labels = decode_all(betons / "test.beton")
    model, _ = load_checkpoint(run, "last")
    values = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
    mean, std = np.array(values["mean"], dtype=np.float32), np.array(values["std"], dtype=np.float32)
    pixels = torch.from_numpy((images.astype(np.float32) / 255 - mean) / std).permute(0, 3, 1, 2)
    with torch.no_grad():
        probabilities = model(pixels).double().softmax(dim=1).numpy()
    said = probabilities.argmax(axis=1)
    counts = Counter(zip(labels.tolist(), said.tolist(), strict=True))
    assert {place: int(count) for place, count in np.ndenumerate(analysis.confusion) if count} == dict(counts)
    for label in range(10):
        right = sum(1 for truth, guess in zip(labels, said, strict=True) if truth == guess == label)
        assert analysis.class_accuracy[label] == pytest.approx(right / int((labels == label).sum()))
    assert analysis.accuracy == pytest.approx(float((labels == said).mean()))
    wrong = sorted(np.flatnonzero(labels != said), key=lambda index: -probabilities[index].max())[:5]
    assert [mistake.index for mistake in analysis.mistakes] == wrong
    assert np.array_equal(analysis.images, images[wrong])


def test_a_class_without_images_has_no_accuracy(analysis: Analysis) -> None:
    confusion = analysis.confusion.copy()
    confusion[3] = 0
    shares = dataclasses.replace(analysis, confusion=confusion).class_accuracy
    assert np.isnan(shares[3])
    assert not np.isnan(np.delete(shares, 3)).any()


def test_grad_cam_is_its_definition_on_a_small_network() -> None:
    torch.manual_seed(0)
    model = TinyNet().eval()
    images, targets = torch.randn(6, 3, 32, 32), torch.arange(6)
    layers = list(model)
    features, head = nn.Sequential(*layers[:3]), nn.Sequential(*layers[3:])
    expected = _independent(head, features(images), targets)
    assert torch.allclose(grad_cam(model, images, targets), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["custom_resnet", "dilated_cnn"])
def test_grad_cam_explains_the_last_stage_by_the_weights_of_the_head(name: str) -> None:
    """Behind a pooling over all places, the mean gradient of a feature map is its weight by the number of places."""
    torch.manual_seed(0)
    model = create_model(name).eval()
    images, targets = torch.randn(6, 3, 32, 32), torch.tensor([1, 9, 4, 4, 0, 7])
    outputs: list[torch.Tensor] = []
    stage = model.get_submodule("layer3" if name == "custom_resnet" else "block4")
    hook = stage.register_forward_hook(lambda module, inputs, output: outputs.append(output.detach()))
    with torch.no_grad():
        model(images)
    hook.remove()
    weight = model.get_submodule("head")[-1].weight.detach()[targets]
    maps = torch.einsum("bk,bkhw->bhw", weight, outputs[0]).clamp(min=0)
    large = F.interpolate(maps[:, None], size=(32, 32), mode="bilinear", align_corners=False)[:, 0]
    expected = large / large.amax(dim=(1, 2), keepdim=True).clamp(min=1e-9)
    assert expected.any()
    assert torch.allclose(grad_cam(model, images, targets), expected, atol=1e-5)
    assert not any(module._forward_hooks for module in model.modules())


def test_grad_cam_leaves_no_gradients_and_needs_none_of_the_weights() -> None:
    model = TinyNet().eval().requires_grad_(False)
    maps = grad_cam(model, torch.randn(2, 3, 32, 32), torch.tensor([0, 1]))
    assert maps.shape == (2, 32, 32)
    assert float(maps.min()) >= 0
    assert all(parameter.grad is None for parameter in model.parameters())


def test_where_nothing_speaks_for_a_class_the_map_is_zero() -> None:
    model = TinyNet().eval()
    with torch.no_grad():
        model[-1].weight.fill_(-1)
    assert not grad_cam(model, torch.randn(2, 3, 32, 32), torch.tensor([0, 1])).any()


def test_grad_cam_needs_feature_maps() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10)).eval()
    with pytest.raises(ValueError, match="feature maps"):
        grad_cam(model, torch.randn(1, 3, 32, 32), torch.tensor([0]))


def test_augmented_samples_use_the_runs_settings_and_leave_the_generators(run: Path, betons: Path) -> None:
    images, labels = decode_all(betons / "train.beton")
    saved = open_network(run, device="cpu")
    torch.manual_seed(5)
    before = torch.get_rng_state()
    samples = draw_augmented(saved, samples=3, variants=4)
    assert torch.equal(torch.get_rng_state(), before)
    assert samples.variants.shape == (3, 4, 32, 32, 3)
    for row in range(3):
        assert np.array_equal(samples.originals[row], images[np.flatnonzero(labels == row)[0]])
    again = draw_augmented(saved, samples=3, variants=4)
    assert np.array_equal(samples.variants, again.variants)
    still = dataclasses.replace(saved.config, padding=0, flip_p=0.0, cutout=0)
    same = draw_augmented(dataclasses.replace(saved, config=still), samples=3, variants=2)
    assert np.array_equal(same.variants, np.repeat(same.originals[:, None], 2, axis=1))
    alternating = dataclasses.replace(still, alternate_flip=True)
    turned = draw_augmented(dataclasses.replace(saved, config=alternating), samples=2, variants=3).variants
    assert np.array_equal(turned[:, 1], samples.originals[:2, :, ::-1])
    assert np.array_equal(turned[:, ::2], np.repeat(samples.originals[:2, None], 2, axis=1))


def test_data_of_other_classes_is_refused(run: Path, tmp_path: Path) -> None:
    write_pair(tmp_path, train=20, test=20)
    images, labels = decode_all(tmp_path / "train.beton")
    write_beton(tmp_path / "train.beton", images, labels % 2, class_names=("ant", "bee"), name="other")
    with pytest.raises(CheckpointError, match="has others"):
        draw_augmented(open_network(run, device="cpu", betons=tmp_path))
