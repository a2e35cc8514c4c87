"""The shapes and dtypes that public docstrings promise, checked by jaxtyping and beartype.

Each function here is a call of a public one with annotated arguments and result; a dimension's name, such as B, must
stand for the same size throughout one call.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from beartype import beartype
from jaxtyping import Bool, Float, Float32, Int64, UInt8, jaxtyped
from torch import Tensor, nn

from fastcifar import TrainConfig, create_augmentation, create_loader, create_model
from fastcifar.analysis.grad_cam import grad_cam
from fastcifar.inference.model import ImageClassifier, pad_batch, resize
from fastcifar.inference.tta import NO_TTA, tta_views
from fastcifar.models import MODELS
from fastcifar.models.init import whitening_filters
from fastcifar.models.ops.conv3x3 import conv3x3_as_matmul, conv3x3_packed
from fastcifar.optim.muon import orthogonalize
from fastcifar.optim.schedule import lr_table
from fastcifar.settings import AugmentSettings, OptimSettings, TTASettings
from fastcifar.training.step import train_step
from tests.helpers import TinyNet, tiny_state

checked = jaxtyped(typechecker=beartype)

Images = UInt8[Tensor, "B 3 H W"]
Normalized = Float32[Tensor, "B 3 H W"]
Labels = Int64[Tensor, " B"]
Scalar = Float32[Tensor, ""]


def noise(batch: int = 6, side: int = 32) -> Tensor:
    return torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8)


@checked
def batch_of(loader: object) -> tuple[Images, Labels]:
    return next(loader.batches())  # type: ignore[attr-defined, no-any-return]


@checked
def augment(augmentation: nn.Module, images: Images) -> Normalized:
    return augmentation(images)  # type: ignore[no-any-return]


@checked
def forward(model: nn.Module, images: Normalized) -> Float32[Tensor, "B 10"]:
    return model(images)  # type: ignore[no-any-return]


@checked
def classify(classifier: ImageClassifier, images: Images, tta: TTASettings) -> Float32[Tensor, "B 10"]:
    return classifier.fixed_batch_logits(images, 8, tta)


@checked
def loss_of(
    classifier: ImageClassifier, images: Images, labels: Labels
) -> tuple[Scalar, Int64[Tensor, ""], Float32[Tensor, "3 B"]]:
    return classifier.loss(images, labels, None, 16, 0.0, True)  # type: ignore[return-value]


@checked
def pad(images: Images) -> tuple[UInt8[Tensor, "8 3 H W"], Int64[Tensor, ""]]:
    return pad_batch(images, 8)


@checked
def views_of(images: Normalized, tta: str) -> tuple[list[float], list[Normalized]]:
    return tta_views(images, tta)


@checked
def heat_maps(model: nn.Module, images: Normalized, targets: Labels) -> Float32[Tensor, "B H W"]:
    return grad_cam(model, images, targets)


@checked
def patch_filters(images: Float32[Tensor, "N 3 H W"]) -> Float32[Tensor, "12 3 2 2"]:
    return whitening_filters(images, 2)


@checked
def convolve(
    algorithm: object, images: Float[Tensor, "B I H W"], weight: Float[Tensor, "O I 3 3"]
) -> Float[Tensor, "B O H W"]:
    return algorithm(images, weight)  # type: ignore[operator, no-any-return]


@checked
def orthogonal(filters: Float32[Tensor, "O I 3 3"]) -> Float32[Tensor, "O I 3 3"]:
    return orthogonalize([filters])[0]


def test_loader_batches(betons: Path) -> None:
    with create_loader(betons / "train.beton", batch_size=32, train=True) as loader:
        batch_of(loader)


@pytest.mark.parametrize("settings", [AugmentSettings(), AugmentSettings(padding_mode="mean", rotate_p=0.5)])
def test_augmentation(settings: AugmentSettings) -> None:
    augment(create_augmentation(settings), noise())
    augment(create_augmentation(settings).eval(), noise())


@pytest.mark.parametrize("name", MODELS)
def test_models(name: str) -> None:
    images = torch.randn(2, 3, 32, 32)
    forward(create_model(name).eval(), images)
    heat_maps(create_model(name).eval(), images, torch.tensor([0, 9]))


@pytest.mark.parametrize("tta", ["none", "flip", "flip-shift"])
def test_classifier(config: TrainConfig, tta: str) -> None:
    with tiny_state(config) as state:
        state.classifier.train(False)
        with torch.no_grad():
            classify(state.classifier, noise(), TTASettings(tta=tta, tta_fraction=0.5))  # type: ignore[arg-type]
            classify(state.classifier, noise(), NO_TTA)
        loss_of(state.classifier, noise(), torch.arange(6))


def test_train_step(config: TrainConfig) -> None:
    @checked
    def step(images: Images, labels: Labels) -> tuple[Scalar, Scalar, Scalar]:
        return tuple(train_step(state, images, labels, size=16))  # type: ignore[return-value]

    with tiny_state(config) as state:
        step(noise(), torch.arange(6))


def test_batches_are_padded_and_resized() -> None:
    @checked
    def reduced(images: Normalized) -> Float32[Tensor, "B 3 16 16"]:
        return resize(images, 16)

    pad(noise())
    reduced(torch.randn(2, 3, 32, 32))


@pytest.mark.parametrize("tta", ["flip", "flip-shift"])
def test_views(tta: str) -> None:
    weights, views = views_of(torch.randn(4, 3, 32, 32), tta)
    assert len(weights) == len(views)


@pytest.mark.parametrize(("algorithm", "side"), [(conv3x3_as_matmul, 2), (conv3x3_packed, 4)])
def test_convolutions(algorithm: object, side: int) -> None:
    convolve(algorithm, torch.randn(4, 5, side, side), torch.randn(7, 5, 3, 3))


def test_whitening_and_orthogonal_filters() -> None:
    patch_filters(torch.randn(4, 3, 16, 16))
    orthogonal(torch.randn(8, 4, 3, 3))


def test_lr_table() -> None:
    @checked
    def table(steps: int) -> Float32[Tensor, "{steps} 2"]:
        optimizer = torch.optim.SGD(TinyNet().parameters(), lr=0.1)
        return lr_table(optimizer, steps, OptimSettings())

    table(7)


def test_a_wrong_shape_is_noticed() -> None:
    @checked
    def wrong(images: Images) -> Bool[Tensor, " B"]:
        return images.sum(dim=(1, 2, 3)) > 0, 1  # type: ignore[return-value]

    with pytest.raises(Exception, match=r"Images|B"):
        forward(nn.Identity(), torch.randn(2, 3, 32, 32))
    with pytest.raises(Exception, match="wrong"):
        wrong(noise())
