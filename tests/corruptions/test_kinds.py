from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from fastcifar.corruptions.kinds import KINDS, SEVERITIES, corrupt
from fastcifar.data.synthetic import draw_synthetic

GROWING = KINDS.keys() - {"glass_blur", "elastic_transform", "frost", "motion_blur"}
"""Kinds whose difference from the original grows with each severity. The others have several parameters, of which some
fall, or vary more from image to image than from one severity to the next."""


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """uint8 [40, 3, 32, 32], in channels-last memory as from a loader."""
    (images, _), _ = draw_synthetic(train=40, test=10, seed=0)
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def _corrupt(images: torch.Tensor, kind: str, severity: int = 3, seed: int = 0) -> torch.Tensor:
    return corrupt(images, kind, severity, indices=torch.arange(len(images)), seed=seed)


def _constant(*color: int, count: int = 100) -> torch.Tensor:
    return torch.tensor(color, dtype=torch.uint8)[:, None, None].expand(count, -1, 32, 32).contiguous()


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_is_corrupted_in_the_same_way_in_any_batch(kind: str, images: torch.Tensor) -> None:
    whole = _corrupt(images, kind, 4, seed=7)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    parts = [corrupt(images[part], kind, 4, indices=part, seed=7) for part in order.split(17)]
    assert torch.equal(torch.cat(parts), whole[order])
    assert whole.dtype == torch.uint8
    assert whole.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("kind", KINDS)
def test_the_difference_from_the_original_grows_with_the_severity(kind: str, images: torch.Tensor) -> None:
    errors = [(_corrupt(images, kind, severity).float() - images).square().mean().item() for severity in SEVERITIES]
    assert min(errors) > 0.5
    if kind in GROWING:
        assert errors == sorted(errors)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 32, 32), (3, 96, 96), (3, 24, 40)])
def test_images_of_other_sizes_and_with_one_channel_are_corrupted_alike(kind: str, shape: tuple[int, ...]) -> None:
    smooth = torch.nn.functional.interpolate(
        torch.rand(6, shape[0], 4, 4, generator=torch.Generator().manual_seed(0)), size=shape[1:], mode="bicubic"
    )
    images = (255 * smooth.clamp(0, 1)).byte()
    mild, severe = (_corrupt(images, kind, severity) for severity in (1, 5))
    assert mild.shape == severe.shape == images.shape
    subpixel = kind == "defocus_blur" and shape[1] == 8  # a radius of 1.5 / 4 pixels
    assert (0 if subpixel else 0.1) <= (severe.float() - images).abs().mean() < 120


def test_noise_depends_on_the_seed_and_has_the_parameters_of_cifar_10_c(images: torch.Tensor) -> None:
    gray = _constant(100, 100, 100)
    for severity, scale in ((1, 0.04), (5, 0.1)):
        assert _corrupt(gray, "gaussian_noise", severity).float().std().item() == pytest.approx(255 * scale, rel=0.02)
    for severity, photons in ((1, 500), (5, 50)):
        counts = _corrupt(gray, "shot_noise", severity).float() / 255 * photons
        mean = 100 / 255 * photons
        assert counts.mean().item() == pytest.approx(mean, rel=0.01)
        assert counts.var().item() == pytest.approx(mean, rel=0.02)  # Poisson's
    impulses = _corrupt(gray, "impulse_noise", 5)
    assert (impulses == 0).float().mean().item() == pytest.approx(0.035, abs=0.002)
    assert (impulses == 255).float().mean().item() == pytest.approx(0.035, abs=0.002)
    assert ((impulses == 100) | (impulses % 255 == 0)).all()
    assert not torch.equal(_corrupt(images, "gaussian_noise", seed=1), _corrupt(images, "gaussian_noise", seed=2))


def test_black_has_no_shot_noise() -> None:
    assert (_corrupt(_constant(0, 0, 0), "shot_noise", 5) == 0).all()


def test_brightness_raises_the_value_and_keeps_hue_and_saturation() -> None:
    raised = _corrupt(_constant(100, 50, 0, count=1), "brightness", 3)[0, :, 0, 0].tolist()
    assert raised == [138, 69, 0]  # 100 + 0.15 × 255 = 138.25, half of it, none
    assert _corrupt(_constant(0, 0, 0, count=1), "brightness", 1)[0, :, 0, 0].tolist() == [12, 12, 12]
    assert _corrupt(_constant(255, 51, 0, count=1), "brightness", 5)[0, :, 0, 0].tolist() == [255, 51, 0]


def test_contrast_moves_the_values_towards_the_mean_of_their_channel() -> None:
    image = _constant(0, 200, 40, count=1)
    image[0, 0, :, 16:] = 100
    lowered = _corrupt(image, "contrast", 2)[0, :, 0]
    assert lowered[0, [0, 31]].tolist() == [25, 75]
    assert lowered[1:, 0].tolist() == [200, 40]


@pytest.mark.parametrize(("severity", "side"), [(1, 30), (5, 20)])
def test_pixelate_equals_pillow(severity: int, side: int, images: torch.Tensor) -> None:
    pixels = images.permute(0, 2, 3, 1).numpy()
    small = [Image.fromarray(image).resize((side, side), Image.Resampling.BOX) for image in pixels]
    expected = np.stack([np.asarray(image.resize((32, 32), Image.Resampling.BOX)) for image in small])
    assert np.array_equal(_corrupt(images, "pixelate", severity).permute(0, 2, 3, 1).numpy(), expected)


def test_jpeg_compression_equals_pillow(images: torch.Tensor) -> None:
    file = io.BytesIO()
    Image.fromarray(images[5].permute(1, 2, 0).numpy()).save(file, "JPEG", quality=40)
    assert np.array_equal(_corrupt(images, "jpeg_compression", 5)[5].permute(1, 2, 0).numpy(), Image.open(file))


@pytest.mark.parametrize("kind", [name for name in KINDS if name.endswith("blur") or name == "elastic_transform"])
def test_blurs_and_warps_keep_an_image_of_one_color(kind: str) -> None:
    image = _constant(200, 77, 13, count=3)
    assert torch.equal(_corrupt(image, kind, 5), image)


def test_glass_blur_copies_pixels_from_above_and_from_the_left() -> None:
    row, column = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    image = torch.stack((row, column, row))[None].byte()
    moved = image.float() - _corrupt(image, "glass_blur", 1).float()  # a sigma of 0.05 does not blur
    assert set(moved[0, 0].unique().tolist()) == {0.0, 1.0}
    assert torch.equal(moved[0, 0], moved[0, 2])
    assert (moved[0, :, :2, :] == 0).all()
    assert (moved[0, :, :, :2] == 0).all()
    assert moved[0, :2, 2:, 2:].mean((1, 2)).tolist() == pytest.approx([0.5, 0.5], abs=0.06)


def test_an_elastic_transform_moves_pixels_smoothly() -> None:
    ramp = (torch.arange(32) * 8).byte().expand(20, 3, 32, 32).contiguous()
    for severity, farthest in ((1, 6.0), (5, 5.0)):  # pixels
        moved = (_corrupt(ramp, "elastic_transform", severity).float() - ramp)[..., 8:24] / 8
        assert 0.3 < moved.abs().mean() < moved.abs().max() < farthest


def test_weather_is_white_bluish_or_gray() -> None:
    dark = _constant(20, 20, 20)
    frosted, foggy, snowy = (_corrupt(dark, kind, 5).float().mean((0, 2, 3)) for kind in ("frost", "fog", "snow"))
    assert frosted[0] < frosted[1] < frosted[2]
    assert frosted.mean().item() == pytest.approx(0.75 * 20 + 0.45 * 0.65 * 255, abs=12)
    for color in (foggy, snowy):
        assert color[0] == color[1] == color[2] > 0
    assert snowy.mean() > 60


def test_a_black_image_in_fog_stays_black() -> None:
    assert (_corrupt(_constant(0, 0, 0, count=1), "fog", 5) == 0).all()


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_a_gpu_makes_the_same_images(kind: str, images: torch.Tensor) -> None:
    indices = torch.arange(len(images))
    made = corrupt(images.cuda(), kind, 5, indices=indices.cuda()).cpu()
    difference = (made.int() - corrupt(images, kind, 5, indices=indices).int()).abs()
    assert (difference > 1).float().mean() < 1e-3
