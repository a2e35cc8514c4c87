from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from kornia.augmentation import Normalize, RandomCrop, RandomHorizontalFlip

from fastcifar import create_augmentation
from fastcifar.augment import (
    CIFAR10_MEAN,
    CIFAR10_STD,
    Augmentation,
    GatherCropFlip,
    PixelNormalize,
    RandomCutout,
    hflip,
)
from fastcifar.errors import ConfigError
from fastcifar.settings import AugmentSettings
from tests.helpers import no_wait_for_the_device


@pytest.fixture
def images(pictures: np.ndarray) -> torch.Tensor:
    """uint8 [64, 3, 32, 32] in channels-last order."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2)


def _coordinates(count: int) -> torch.Tensor:
    """uint8 images [count, 3, 32, 32] whose channels are the row, the column (both from 1) and the number 1."""
    row, column = torch.meshgrid(torch.arange(1, 33), torch.arange(1, 33), indexing="ij")
    return torch.stack((row, column, torch.ones_like(row))).to(torch.uint8).expand(count, 3, 32, 32)


def _chi_square(counts: torch.Tensor) -> float:
    expected = counts.sum() / len(counts)
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("padding_mode", ["constant", "reflect"])
@pytest.mark.parametrize("padding", [4, 2])
def test_the_gather_equals_kornias_crop_and_flip_bit_for_bit(
    images: torch.Tensor, padding: int, padding_mode: str
) -> None:
    torch.manual_seed(0)
    pixels = images.float() / 255
    crop = RandomCrop((32, 32), padding=padding, padding_mode=padding_mode)
    flip = RandomHorizontalFlip(p=0.5)
    stock = flip(crop(pixels))
    parameters: dict[str, Any] = {
        "offset": crop._params["src"][:, 0].long().flip(1),  # Kornia's boxes begin with x, y of the top left corner
        "flip": flip._params["batch_prob"] > 0.5,
        "batch_prob": torch.ones(len(images)),
        "forward_input_shape": torch.tensor(images.shape),
    }
    gather = GatherCropFlip(padding, padding_mode)
    assert parameters["flip"].any()
    assert not parameters["flip"].all()
    assert torch.equal(gather(pixels, params=parameters), stock)
    assert torch.equal(gather(images, params=parameters).float() / 255, stock)


def test_the_transform_matrix_maps_pixels_as_the_image_moved() -> None:
    torch.manual_seed(3)
    images = _coordinates(32).contiguous()
    gather = GatherCropFlip()
    moved = gather(images)
    matrix = gather.transform_matrix
    assert matrix is not None
    for image, transform in zip(moved, matrix, strict=True):
        x, y = transform.inverse() @ torch.tensor([15.0, 16.0, 1.0]) @ torch.eye(3)[:, :2]
        assert (image[0, 16, 15] - 1, image[1, 16, 15] - 1) == (round(float(y)), round(float(x)))


def test_kornia_computes_the_transform_matrix_only_when_it_is_read() -> None:
    computed = []

    class Counting(GatherCropFlip):
        def compute_transformation(self, *arguments: Any, **options: Any) -> torch.Tensor:
            computed.append(1)
            return super().compute_transformation(*arguments, **options)

    gather = Counting()
    gather(_coordinates(8).contiguous())
    assert not computed
    assert gather.transform_matrix.shape == (8, 3, 3)
    assert len(computed) == 1


def test_normalising_equals_kornias_bit_for_bit(images: torch.Tensor) -> None:
    stock = Normalize(torch.tensor(CIFAR10_MEAN), torch.tensor(CIFAR10_STD))(images.float() / 255)
    assert torch.equal(PixelNormalize(CIFAR10_MEAN, CIFAR10_STD)(images), stock)


def test_a_channel_without_variance_is_centred_and_not_scaled(images: torch.Tensor) -> None:
    mean, std = (0.5, 7 / 255, 0.25), (0.0, 1e-17, 1 / 255)
    for channel, scale in enumerate((1.0, 1.0, 1 / 255)):
        expected = (images[:, channel].float() / 255 - mean[channel]) / scale
        assert torch.allclose(PixelNormalize(mean, std)(images)[:, channel], expected)


def test_the_pipeline_has_the_same_distribution_with_kornias_crop_and_flip() -> None:
    images = _coordinates(4000).contiguous()
    for padding_mode in ("constant", "reflect"):
        means = []
        for stock_kornia in (False, True):
            torch.manual_seed(1)
            settings = AugmentSettings(padding_mode=padding_mode, stock_kornia=stock_kornia, cutout=0)  # type: ignore[arg-type]
            means.append(create_augmentation(settings)(images).mean(dim=0))
        assert torch.allclose(*means, atol=0.02)


def test_all_81_offsets_and_both_flips_occur_evenly() -> None:
    torch.manual_seed(0)
    gather = GatherCropFlip()
    offsets, flips = torch.zeros(81), torch.zeros(2)
    for _ in range(10):
        moved = gather(_coordinates(10_000))
        flip = moved[:, 1, 16, 16] < moved[:, 1, 16, 15]
        row = moved[:, 0, 16, 15].long() - 13  # row 17, counted from 1, when the offset is 4
        column = torch.where(flip, moved[:, 1, 16, 16], moved[:, 1, 16, 15]).long() - 12
        offsets += torch.bincount(row * 9 + column, minlength=81)
        flips += torch.bincount(flip.long(), minlength=2)
    assert len(offsets) == 81
    assert (offsets > 0).all()
    assert _chi_square(offsets) < 124.84, "the 99.9 % quantile for 80 degrees of freedom"
    assert _chi_square(flips) < 10.83, "the 99.9 % quantile for 1 degree of freedom"


def test_each_image_has_its_own_random_parameters() -> None:
    torch.manual_seed(0)
    result = create_augmentation()(_coordinates(100).contiguous())
    assert len({tuple(image.flatten().tolist()) for image in result}) > 95


def test_exactly_64_pixels_per_image_are_cut_and_all_625_positions_occur() -> None:
    torch.manual_seed(0)
    cutout = RandomCutout(8)
    positions: set[tuple[int, int]] = set()
    counts = torch.zeros(625)
    for _ in range(10):
        cut = cutout(torch.ones(10_000, 3, 32, 32)) == 0
        assert (cut.sum(dim=(2, 3)) == 64).all(), "in each channel"
        assert (cut == cut[:, :1]).all(), "at the same position"
        corner = cut[:, 0].flatten(1).int().argmax(dim=1)
        row, column = corner // 32, corner % 32
        for step in (0, 7):  # inside the image, and square
            index = torch.arange(len(cut))
            assert cut[index, 0, row + step, column + step].all()
        counts += torch.bincount(row * 25 + column, minlength=625)
        positions.update(zip(row.tolist(), column.tolist(), strict=True))
    assert len(positions) == 625
    assert _chi_square(counts) < 739.8, "the 99.9 % quantile for 624 degrees of freedom"


def test_the_cut_pixels_are_exactly_zero_in_every_precision(images: torch.Tensor) -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        torch.manual_seed(0)
        result = create_augmentation(dtype=dtype)(images)
        assert result.dtype == dtype
        assert ((result == 0).all(dim=1).sum(dim=(1, 2)) >= 64).all()


def test_equal_seeds_give_equal_results(images: torch.Tensor) -> None:
    augmentation = create_augmentation()
    results = []
    for seed in (7, 7, 8):
        torch.manual_seed(seed)
        results.append(augmentation(images))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


@pytest.mark.parametrize("stock_kornia", [False, True])
def test_in_eval_mode_it_only_normalises(images: torch.Tensor, stock_kornia: bool) -> None:
    augmentation = create_augmentation(AugmentSettings(stock_kornia=stock_kornia)).eval()
    state = torch.get_rng_state()
    expected = (images.float() / 255 - torch.tensor(CIFAR10_MEAN).view(3, 1, 1)) / torch.tensor(CIFAR10_STD).view(
        3, 1, 1
    )
    assert torch.equal(augmentation(images), expected)
    assert torch.equal(torch.get_rng_state(), state), "without random numbers"


def test_the_result_is_channels_last_and_the_input_is_unchanged(images: torch.Tensor) -> None:
    before = images.clone()
    result = create_augmentation()(images)
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images, before)


def test_padding_with_the_mean_leaves_zeros_after_normalisation() -> None:
    torch.manual_seed(0)
    padded = create_augmentation(AugmentSettings(padding_mode="mean", flip_p=0.0, cutout=0))
    result = padded(torch.full((200, 3, 32, 32), 255, dtype=torch.uint8))
    white = padded.eval()(torch.full((1, 3, 32, 32), 255, dtype=torch.uint8))
    assert ((result == 0) | (result == white)).all()
    assert ((result == 0).any(dim=1) == (result == 0).all(dim=1)).all()
    assert (result == 0).any()


def test_shifting_scaling_and_rotating_moves_about_half_of_the_images_a_little(images: torch.Tensor) -> None:
    torch.manual_seed(0)
    smooth = torch.nn.functional.interpolate(images[:, :, ::8, ::8].float(), (32, 32), mode="bicubic")
    smooth = smooth.clamp(0, 255).to(torch.uint8)
    warp = create_augmentation(AugmentSettings(padding=0, flip_p=0.0, cutout=0, shift_scale_rotate_p=0.5))
    moved = (warp(smooth) - warp.eval()(smooth)).abs().mean(dim=(1, 2, 3))
    assert 16 <= int((moved > 0).sum()) <= 48
    assert float(moved.max()) < 0.8
    assert torch.equal(warp(smooth), warp.eval()(smooth)), "not in eval mode"


MOVED = {
    "shift": ({"shift_scale_rotate_p": 1.0, "shift_limit": 0.1, "scale_limit": 0.0, "rotate_limit": 0.0}, 3.2),
    "scale": ({"shift_scale_rotate_p": 1.0, "shift_limit": 0.0, "scale_limit": 0.2, "rotate_limit": 0.0}, 0.2),
    "rotation": ({"shift_scale_rotate_p": 1.0, "shift_limit": 0.0, "scale_limit": 0.0, "rotate_limit": 30.0}, 30.0),
    "rotation after the cutout": ({"rotate_p": 1.0, "rotate_limit": 30.0}, 30.0),
}
"""Settings, and the largest change that they allow, in pixels, scale or degrees."""


@pytest.mark.parametrize("change", MOVED)
def test_shift_scale_and_rotation_reach_their_limit_and_change_nothing_else(change: str) -> None:
    settings, limit = MOVED[change]
    bar = torch.zeros(400, 3, 32, 32, dtype=torch.uint8)
    bar[:, :, 14:18, 8:24] = 255
    augmentation = _bare(**settings)
    torch.manual_seed(0)
    moved = augmentation(bar).mean(dim=1).double()
    mass = moved.sum(dim=(1, 2))
    grid = torch.arange(32, dtype=torch.float64) - 15.5
    x = (moved.sum(dim=1) * grid).sum(dim=1) / mass
    y = (moved.sum(dim=2) * grid).sum(dim=1) / mass
    xx = (moved.sum(dim=1) * grid**2).sum(dim=1) / mass - x**2
    yy = (moved.sum(dim=2) * grid**2).sum(dim=1) / mass - y**2
    xy = (moved * grid[:, None] * grid).sum(dim=(1, 2)) / mass - x * y
    degrees = torch.rad2deg(torch.atan2(2 * xy, xx - yy) / 2)
    measured = {"shift": (x, y), "scale": ((mass / 64).sqrt() - 1,), "rotation": (degrees,)}
    tolerance = {"shift": 0.05, "scale": 0.03, "rotation": 1.5}
    for name, values in measured.items():
        for value in values:
            if change.startswith(name):
                assert value.min() < -0.7 * limit
                assert value.max() > 0.7 * limit
                assert value.abs().max() < limit + tolerance[name]
            else:
                assert value.abs().max() < tolerance[name]


def test_warped_images_have_mirrored_borders() -> None:
    moves = {"shift_scale_rotate_p": 1.0, "shift_limit": 0.3, "scale_limit": 0.3, "rotate_limit": 30.0}
    white = torch.full((50, 3, 32, 32), 255, dtype=torch.uint8)
    assert torch.allclose(_bare(**moves)(white), torch.ones(50, 3, 32, 32), atol=1e-4)


@pytest.mark.parametrize("setting", ["shift_scale_rotate_p", "rotate_p"])
@pytest.mark.parametrize("probability", [0.1, 0.9])
def test_images_are_warped_with_the_configured_probability(setting: str, probability: float) -> None:
    torch.manual_seed(0)
    images = torch.randint(0, 256, (400, 3, 32, 32), dtype=torch.uint8)
    moved = (_bare(**{setting: probability})(images) != images / 255).flatten(1).any(dim=1)
    assert abs(float(moved.float().mean()) - probability) < 0.06  # four standard deviations


def _bare(**warps: Any) -> Augmentation:
    """These warps only, for pixels in [0, 1]."""
    return create_augmentation(AugmentSettings(padding=0, flip_p=0.0, cutout=0, **warps), mean=(0, 0, 0), std=(1, 1, 1))


def test_a_rotation_after_the_cutout_rotates_the_square_too() -> None:
    torch.manual_seed(0)
    white = torch.full((300, 3, 32, 32), 255, dtype=torch.uint8)
    options: dict[str, Any] = {"padding": 0, "flip_p": 0.0, "cutout": 16}
    plain = create_augmentation(AugmentSettings(**options))(white)
    rotated = create_augmentation(AugmentSettings(**options, rotate_p=1.0))(white)
    levels = [len(result[:, 0].unique()) for result in (plain, rotated)]
    assert levels[0] == 2
    assert levels[1] > 2, "edges between pixels are blended"


def test_settings_of_zero_change_nothing(images: torch.Tensor) -> None:
    nothing = create_augmentation(AugmentSettings(padding=0, flip_p=0.0, cutout=0))
    assert torch.equal(nothing(images), nothing.eval()(images))
    flipped = create_augmentation(AugmentSettings(padding=0, flip_p=1.0, cutout=0))
    assert torch.equal(flipped(images), nothing(images).flip(3))


@pytest.mark.parametrize("stock_kornia", [False, True])
@pytest.mark.parametrize(
    ("padding_mode", "levels"), [("constant", {-0.5, 0.5}), ("mean", {0.0, 0.5}), ("reflect", {0.5})]
)
def test_padding_is_black_the_mean_or_the_mirrored_image(
    padding_mode: Any, levels: set[float], stock_kornia: bool
) -> None:
    torch.manual_seed(0)
    white = torch.full((64, 3, 32, 32), 255, dtype=torch.uint8)
    settings = AugmentSettings(padding_mode=padding_mode, stock_kornia=stock_kornia, cutout=0)
    augmentation = create_augmentation(settings, mean=(0.5, 0.5, 0.5), std=(1, 1, 1))
    assert set(augmentation(white).unique().tolist()) == levels


def test_stock_kornia_replaces_only_crop_and_flip(images: torch.Tensor) -> None:
    def kinds(**options: Any) -> set[type]:
        return {type(module) for module in create_augmentation(AugmentSettings(**options)).modules()}

    assert GatherCropFlip in kinds()
    assert kinds(stock_kornia=True) >= {RandomCrop, RandomHorizontalFlip, PixelNormalize, RandomCutout}
    assert GatherCropFlip not in kinds(stock_kornia=True)


@pytest.mark.parametrize(("size", "padding", "cutout"), [(8, 1, 2), (28, 4, 7), (32, 4, 8), (96, 12, 24)])
def test_padding_and_cutout_are_in_proportion_to_the_size(size: int, padding: int, cutout: int) -> None:
    augmentation = create_augmentation(AugmentSettings(padding_mode="mean"), size=size)
    crop = next(module for module in augmentation.modules() if isinstance(module, GatherCropFlip))
    assert crop.padding == padding
    augmented = augmentation(torch.full((4, 3, size, size), 255, dtype=torch.uint8))
    assert ((augmented == 0).all(dim=1).sum(dim=(1, 2)) >= cutout**2).all()
    unpadded = create_augmentation(AugmentSettings(padding=0), size=size)
    augmented = unpadded(torch.full((4, 3, size, size), 255, dtype=torch.uint8))
    assert ((augmented == 0).all(dim=1).sum(dim=(1, 2)) == cutout**2).all()


@pytest.mark.parametrize("mode", ["constant", "reflect", "mean"])
def test_the_largest_settings_fit_the_smallest_images(mode: Any) -> None:
    images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    settings = AugmentSettings(padding=31, padding_mode=mode, cutout=32)
    assert create_augmentation(settings, size=8)(images).shape == images.shape


def test_it_has_no_state_for_a_checkpoint() -> None:
    assert create_augmentation().state_dict() == {}


def test_the_result_in_autocast_is_float32(images: torch.Tensor) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert create_augmentation()(images).dtype == torch.float32


def test_it_composes_with_kornias_own_operations(images: torch.Tensor) -> None:
    from kornia.augmentation import AugmentationSequential, RandomVerticalFlip

    pipeline = AugmentationSequential(GatherCropFlip(), RandomVerticalFlip(p=0.5), RandomCutout(8))
    assert pipeline(images.float() / 255).shape == images.shape


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"padding": -1}, "padding is -1"),
        ({"padding_mode": "mirror"}, "padding_mode is 'mirror'; it must be one of"),
        ({"flip_p": 1.5}, "flip_p is 1.5"),
        ({"cutout": 33}, "cutout is 33"),
        ({"shift_scale_rotate_p": 2.0}, "shift_scale_rotate_p is 2.0"),
        ({"rotate_p": -0.1}, "rotate_p is -0.1"),
        ({"shift_limit": 1.0}, "shift_limit is 1.0"),
        ({"scale_limit": 1.0}, "scale_limit is 1.0"),
        ({"rotate_limit": 200.0}, "rotate_limit is 200.0"),
    ],
)
def test_impossible_settings_are_an_error(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AugmentSettings(**settings)


@pytest.mark.slow
def test_compiled_and_eager_results_are_equal(images: torch.Tensor) -> None:
    eager, compiled = create_augmentation().eval(), create_augmentation().eval()
    compiled.compile()
    assert torch.allclose(compiled(images), eager(images), atol=1e-6)
    compiled.train()
    torch.manual_seed(0)
    result = compiled(images)
    assert ((result == 0).all(dim=1).sum(dim=(1, 2)) >= 64).all()


@pytest.mark.gpu
def test_on_the_gpu_the_host_neither_waits_nor_draws_random_numbers() -> None:
    augmentation = create_augmentation().cuda()
    images = _coordinates(512).contiguous().cuda()
    augmentation(images)
    state = torch.get_rng_state()
    with no_wait_for_the_device():
        result = augmentation(images)
    assert torch.equal(torch.get_rng_state(), state)
    assert result.is_cuda


def test_hflip_flips_the_images_in_the_mask() -> None:
    images = torch.arange(2 * 3 * 4 * 5).view(2, 3, 4, 5).to(memory_format=torch.channels_last)
    flipped = hflip(images, torch.tensor([False, True]))
    assert torch.equal(flipped, torch.stack((images[0], images[1].flip(-1))))
    assert flipped.is_contiguous(memory_format=torch.channels_last)
