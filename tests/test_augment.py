from __future__ import annotations

import dataclasses
import inspect
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
    mirror,
)
from fastcifar.settings import AugmentSettings
from fastcifar.errors import ConfigError
from tests.helpers import no_wait_for_the_device


@pytest.fixture
def images(pictures: np.ndarray) -> torch.Tensor:
    """uint8 [64, 3, 32, 32] in channels-last order."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2)


def _coordinates(count: int) -> torch.Tensor:
    """uint8 images [count, 3, 32, 32] whose pixels tell their own row and column, from 1, and the number 1."""
    row, column = torch.meshgrid(torch.arange(1, 33), torch.arange(1, 33), indexing="ij")
    return torch.stack((row, column, torch.ones_like(row))).to(torch.uint8).expand(count, 3, 32, 32)


def _chi_square(counts: torch.Tensor) -> float:
    expected = counts.sum() / len(counts)
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("padding_mode", ["constant", "reflect"])
@pytest.mark.parametrize("padding", [4, 2])
def test_the_gather_is_the_stock_crop_and_flip_bit_for_bit(
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


def test_the_gathers_matrix_maps_the_pixels_as_the_image_moved() -> None:
    torch.manual_seed(3)
    images = _coordinates(32).contiguous()
    gather = GatherCropFlip()
    moved = gather(images)
    matrix = gather.transform_matrix
    assert matrix is not None
    for image, transform in zip(moved, matrix, strict=True):
        x, y = transform.inverse() @ torch.tensor([15.0, 16.0, 1.0]) @ torch.eye(3)[:, :2]
        assert (image[0, 16, 15] - 1, image[1, 16, 15] - 1) == (round(float(y)), round(float(x)))


def test_normalising_is_kornias_bit_for_bit(images: torch.Tensor) -> None:
    stock = Normalize(torch.tensor(CIFAR10_MEAN), torch.tensor(CIFAR10_STD))(images.float() / 255)
    assert torch.equal(PixelNormalize(CIFAR10_MEAN, CIFAR10_STD)(images), stock)


def test_the_whole_pipeline_with_and_without_stock_operations_has_the_same_distribution() -> None:
    images = _coordinates(4000).contiguous()
    for padding_mode in ("constant", "reflect"):
        means = []
        for stock_kornia in (False, True):
            torch.manual_seed(1)
            options: dict[str, Any] = {"padding_mode": padding_mode, "stock_kornia": stock_kornia, "cutout": 0}
            means.append(create_augmentation(**options)(images).mean(dim=0))
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


def test_each_sample_has_choices_of_its_own() -> None:
    torch.manual_seed(0)
    result = create_augmentation()(_coordinates(100).contiguous())
    assert len({tuple(image.flatten().tolist()) for image in result}) > 95


def test_exactly_64_pixels_a_sample_are_cut_and_all_625_places_occur() -> None:
    torch.manual_seed(0)
    cutout = RandomCutout(8)
    places: set[tuple[int, int]] = set()
    counts = torch.zeros(625)
    for _ in range(10):
        cut = cutout(torch.ones(10_000, 3, 32, 32)) == 0
        assert (cut.sum(dim=(2, 3)) == 64).all(), "in each channel"
        assert (cut == cut[:, :1]).all(), "at the same place"
        corner = cut[:, 0].flatten(1).int().argmax(dim=1)
        row, column = corner // 32, corner % 32
        for step in (0, 7):  # wholly inside, and square
            index = torch.arange(len(cut))
            assert cut[index, 0, row + step, column + step].all()
        counts += torch.bincount(row * 25 + column, minlength=625)
        places.update(zip(row.tolist(), column.tolist(), strict=True))
    assert len(places) == 625
    assert _chi_square(counts) < 739.8, "the 99.9 % quantile for 624 degrees of freedom"


def test_the_cut_pixels_are_exactly_zero_in_every_precision(images: torch.Tensor) -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        torch.manual_seed(0)
        result = create_augmentation(dtype=dtype)(images)
        assert result.dtype == dtype
        assert ((result == 0).all(dim=1).sum(dim=(1, 2)) >= 64).all()


def test_the_seed_repeats_every_choice(images: torch.Tensor) -> None:
    augmentation = create_augmentation()
    results = []
    for seed in (7, 7, 8):
        torch.manual_seed(seed)
        results.append(augmentation(images))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


@pytest.mark.parametrize("stock_kornia", [False, True])
def test_in_eval_mode_it_only_normalises(images: torch.Tensor, stock_kornia: bool) -> None:
    augmentation = create_augmentation(stock_kornia=stock_kornia).eval()
    state = torch.get_rng_state()
    expected = (images.float() / 255 - torch.tensor(CIFAR10_MEAN).view(3, 1, 1)) / torch.tensor(CIFAR10_STD).view(
        3, 1, 1
    )
    assert torch.equal(augmentation(images), expected)
    assert torch.equal(torch.get_rng_state(), state), "and draws nothing"


def test_the_result_is_in_channels_last_order_and_the_input_is_left_alone(images: torch.Tensor) -> None:
    before = images.clone()
    result = create_augmentation()(images)
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images, before)


def test_padding_with_the_mean_leaves_zeros_after_normalisation() -> None:
    torch.manual_seed(0)
    padded = create_augmentation(padding_mode="mean", flip_p=0.0, cutout=0)
    result = padded(torch.full((200, 3, 32, 32), 255, dtype=torch.uint8))
    white = padded.eval()(torch.full((1, 3, 32, 32), 255, dtype=torch.uint8))
    assert ((result == 0) | (result == white)).all()
    assert ((result == 0).any(dim=1) == (result == 0).all(dim=1)).all()
    assert (result == 0).any()


def test_shifting_scaling_and_rotating_moves_about_half_of_the_images_a_little(images: torch.Tensor) -> None:
    torch.manual_seed(0)
    smooth = torch.nn.functional.interpolate(images[:, :, ::8, ::8].float(), (32, 32), mode="bicubic")
    smooth = smooth.clamp(0, 255).to(torch.uint8)
    warp = create_augmentation(padding=0, flip_p=0.0, cutout=0, shift_scale_rotate_p=0.5)
    moved = (warp(smooth) - warp.eval()(smooth)).abs().mean(dim=(1, 2, 3))
    assert 16 <= int((moved > 0).sum()) <= 48
    assert float(moved.max()) < 0.8
    assert torch.equal(warp(smooth), warp.eval()(smooth)), "not in eval mode"


MOVED = {
    "shift": ({"shift_scale_rotate_p": 1.0, "shift_limit": 0.1, "scale_limit": 0.0, "rotate_limit": 0.0}, 3.2),
    "scale": ({"shift_scale_rotate_p": 1.0, "shift_limit": 0.0, "scale_limit": 0.2, "rotate_limit": 0.0}, 0.2),
    "turn": ({"shift_scale_rotate_p": 1.0, "shift_limit": 0.0, "scale_limit": 0.0, "rotate_limit": 30.0}, 30.0),
    "turn alone": ({"rotate_p": 1.0, "rotate_limit": 30.0}, 30.0),
}
"""Settings, and the farthest that they move an image in pixels, scale or degrees."""


@pytest.mark.parametrize("what", MOVED)
def test_shift_scale_and_rotation_each_move_as_far_as_their_limit_and_nothing_else(what: str) -> None:
    settings, limit = MOVED[what]
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
    measured = {"shift": (x, y), "scale": ((mass / 64).sqrt() - 1,), "turn": (degrees,)}
    slack = {"shift": 0.05, "scale": 0.03, "turn": 1.5}
    for name, values in measured.items():
        for value in values:
            if what.startswith(name):
                assert value.min() < -0.7 * limit
                assert value.max() > 0.7 * limit
                assert value.abs().max() < limit + slack[name]
            else:
                assert value.abs().max() < slack[name]


def test_the_border_of_what_is_moved_is_mirrored() -> None:
    moves = {"shift_scale_rotate_p": 1.0, "shift_limit": 0.3, "scale_limit": 0.3, "rotate_limit": 30.0}
    white = torch.full((50, 3, 32, 32), 255, dtype=torch.uint8)
    assert torch.allclose(_bare(**moves)(white), torch.ones(50, 3, 32, 32), atol=1e-4)


@pytest.mark.parametrize("setting", ["shift_scale_rotate_p", "rotate_p"])
@pytest.mark.parametrize("chance", [0.1, 0.9])
def test_as_many_images_are_moved_as_their_chance_says(setting: str, chance: float) -> None:
    torch.manual_seed(0)
    images = torch.randint(0, 256, (400, 3, 32, 32), dtype=torch.uint8)
    moved = (_bare(**{setting: chance})(images) != images / 255).flatten(1).any(dim=1)
    assert abs(float(moved.float().mean()) - chance) < 0.06  # four standard deviations


def _bare(**moves: float) -> Augmentation:
    """Those moves alone, of pixels in [0, 1]."""
    return create_augmentation(padding=0, flip_p=0.0, cutout=0, mean=(0, 0, 0), std=(1, 1, 1), **moves)  # type: ignore[arg-type]


def test_a_rotation_after_the_cutout_turns_the_hole_too() -> None:
    torch.manual_seed(0)
    white = torch.full((300, 3, 32, 32), 255, dtype=torch.uint8)
    options: dict[str, Any] = {"padding": 0, "flip_p": 0.0, "cutout": 16}
    straight = create_augmentation(**options)(white)
    turned = create_augmentation(**options, rotate_p=1.0)(white)
    levels = [len(result[:, 0].unique()) for result in (straight, turned)]
    assert levels[0] == 2
    assert levels[1] > 2, "edges between pixels are blended"


def test_settings_of_nothing_change_nothing(images: torch.Tensor) -> None:
    nothing = create_augmentation(padding=0, flip_p=0.0, cutout=0)
    assert torch.equal(nothing(images), nothing.eval()(images))
    assert torch.equal(create_augmentation(padding=0, flip_p=1.0, cutout=0)(images), nothing(images).flip(3))


def test_its_defaults_are_those_of_the_settings() -> None:
    given = inspect.signature(create_augmentation).parameters
    for field in dataclasses.fields(AugmentSettings):
        assert given[field.name].default == field.default, field.name


@pytest.mark.parametrize("stock_kornia", [False, True])
@pytest.mark.parametrize(
    ("padding_mode", "levels"), [("constant", {-0.5, 0.5}), ("mean", {0.0, 0.5}), ("reflect", {0.5})]
)
def test_what_is_added_at_the_edges_is_black_the_mean_or_the_image_mirrored(
    padding_mode: Any, levels: set[float], stock_kornia: bool
) -> None:
    torch.manual_seed(0)
    white = torch.full((64, 3, 32, 32), 255, dtype=torch.uint8)
    options: dict[str, Any] = {"mean": (0.5, 0.5, 0.5), "std": (1, 1, 1), "cutout": 0}
    augmentation = create_augmentation(padding_mode=padding_mode, stock_kornia=stock_kornia, **options)
    assert set(augmentation(white).unique().tolist()) == levels


def test_only_crop_and_flip_are_kornias_own_if_asked_for(images: torch.Tensor) -> None:
    def kinds(**options: Any) -> set[type]:
        return {type(module) for module in create_augmentation(**options).modules()}

    assert GatherCropFlip in kinds()
    assert kinds(stock_kornia=True) >= {RandomCrop, RandomHorizontalFlip, PixelNormalize, RandomCutout}
    assert GatherCropFlip not in kinds(stock_kornia=True)


def test_images_just_larger_than_the_padding_will_do() -> None:
    images = torch.zeros(2, 3, 5, 5, dtype=torch.uint8)
    assert create_augmentation(padding=4, cutout=5, size=5)(images).shape == images.shape


def test_it_has_nothing_that_a_checkpoint_would_keep() -> None:
    assert create_augmentation().state_dict() == {}


def test_autocast_around_it_leaves_the_result_a_float(images: torch.Tensor) -> None:
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
        ({"cutout": 9, "size": 8}, "images of 8 pixels a side are too small"),
        ({"padding": 8, "cutout": 0, "size": 8}, "images of 8 pixels a side are too small"),
        ({"shift_scale_rotate_p": 2.0}, "shift_scale_rotate_p is 2.0"),
        ({"rotate_p": -0.1}, "rotate_p is -0.1"),
        ({"shift_limit": 1.0}, "shift_limit is 1.0"),
        ({"scale_limit": 1.0}, "scale_limit is 1.0"),
        ({"rotate_limit": 200.0}, "rotate_limit is 200.0"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        create_augmentation(**settings)


@pytest.mark.slow
def test_compiled_it_gives_what_it_gives_eagerly(images: torch.Tensor) -> None:
    eager, compiled = create_augmentation().eval(), create_augmentation().eval()
    compiled.compile()
    assert torch.allclose(compiled(images), eager(images), atol=1e-6)
    compiled.train()
    torch.manual_seed(0)
    result = compiled(images)
    assert ((result == 0).all(dim=1).sum(dim=(1, 2)) >= 64).all()


@pytest.mark.gpu
def test_on_the_gpu_nothing_waits_for_the_host_and_nothing_is_drawn_there() -> None:
    augmentation = create_augmentation().cuda()
    images = _coordinates(512).contiguous().cuda()
    augmentation(images)
    state = torch.get_rng_state()
    with no_wait_for_the_device():
        result = augmentation(images)
    assert torch.equal(torch.get_rng_state(), state)
    assert result.is_cuda


def test_the_chosen_images_are_mirrored() -> None:
    images = torch.arange(2 * 3 * 4 * 5).view(2, 3, 4, 5).to(memory_format=torch.channels_last)
    mirrored = mirror(images, torch.tensor([False, True]))
    assert torch.equal(mirrored, torch.stack((images[0], images[1].flip(-1))))
    assert mirrored.is_contiguous(memory_format=torch.channels_last)
