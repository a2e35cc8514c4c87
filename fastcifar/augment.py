"""Batched augmentation on the device, as Kornia operations: crop → flip → normalise → cutout, and others beside.

Kornia's stock crop reads every box back to the host and slices sample by sample, and its stock flip blends two whole
batches. `GatherCropFlip` does both in one gather on the uint8 pixels and gives the same images, bit for bit, for the
same parameters. Each operation is a subclass of Kornia's bases, so it composes with Kornia's own. Random choices are
drawn on the images' device from torch's generator there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from kornia.augmentation import (
    GeometricAugmentationBase2D,
    IntensityAugmentationBase2D,
    RandomAffine,
    RandomCrop,
    RandomHorizontalFlip,
)
from torch import nn

from fastcifar.errors import ConfigError
from fastcifar.settings import AugmentSettings

CIFAR10_MEAN = (0.49139968, 0.48215841, 0.44653091)
CIFAR10_STD = (0.24703223, 0.24348513, 0.26158784)
"""Per channel over the 50,000 training images, pixels in [0, 1]."""

Params = dict[str, torch.Tensor]


class GatherCropFlip(GeometricAugmentationBase2D):
    """Random crop after padding, then a horizontal flip, of a whole batch in one gather; the size stays.

    Takes uint8 or float images [B, C, H, W] and gives the same dtype in channels-last order. Parameters: `offset`,
    int64 [B, 2], row and column of the crop in the padded image, and `flip`, bool [B].
    """

    def __init__(self, padding: int = 4, padding_mode: str = "constant", flip_p: float = 0.5) -> None:
        super().__init__(p=1.0)
        self.padding, self.padding_mode, self.flip_p = padding, padding_mode, flip_p

    def validate_tensor(self, input: torch.Tensor) -> None:
        """Any dtype will do: pixels are only moved."""

    def transform_tensor(self, input: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        return input

    def compute_transformation(self, input: torch.Tensor, params: Params, flags: dict[str, Any]) -> torch.Tensor:
        """float32 [B, 3, 3]: from coordinates (x, y, 1) of the input to those of the result."""
        offset, flip = params["offset"].float(), params["flip"].float()
        matrix = torch.zeros(len(offset), 3, 3, device=offset.device)
        matrix[:, 0, 0] = 1 - 2 * flip
        matrix[:, 0, 2] = torch.lerp(
            self.padding - offset[:, 1], input.shape[3] - 1 - self.padding + offset[:, 1], flip
        )
        matrix[:, 1, 1] = matrix[:, 2, 2] = 1
        matrix[:, 1, 2] = self.padding - offset[:, 0]
        return matrix

    _compute_matrix_lazily = True

    def generate_parameters(self, batch_shape: tuple[int, ...]) -> Params:
        batch = batch_shape[0]
        return {
            "offset": torch.randint(0, 2 * self.padding + 1, (batch, 2), device=self.device),
            "flip": torch.rand(batch, device=self.device) < self.flip_p,
        }

    def apply_transform(
        self, input: torch.Tensor, params: Params, flags: dict[str, Any], transform: torch.Tensor | None = None
    ) -> torch.Tensor:
        batch, channels, height, width = input.shape
        y = torch.arange(height, device=input.device)
        x = torch.arange(width, device=input.device)
        x = torch.where(params["flip"][:, None], width - 1 - x, x)
        rows = y + (params["offset"][:, :1] - self.padding)  # [B, H], in the coordinates of the image before padding
        columns = x + (params["offset"][:, 1:] - self.padding)
        if self.padding_mode == "reflect":
            inside = None
            rows, columns = _reflected(rows, height), _reflected(columns, width)
        else:
            inside = _within(rows, height)[:, :, None] & _within(columns, width)[:, None, :]
            rows, columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
        pixels = (rows[:, :, None] * width + columns[:, None, :]).view(batch, -1, 1).expand(-1, -1, channels)
        flat = input.permute(0, 2, 3, 1).reshape(batch, height * width, channels)
        moved = flat.gather(1, pixels).view(batch, height, width, channels)
        if inside is not None:
            moved = moved.masked_fill(~inside[..., None], 0)
        return moved.permute(0, 3, 1, 2)


class PixelNormalize(IntensityAugmentationBase2D):
    """uint8 images [B, 3, H, W] to `dtype`, (pixel / 255 - mean) / std a channel, computed in float32."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float], dtype: torch.dtype = torch.float32) -> None:
        super().__init__(p=1.0, same_on_batch=True)
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)
        self.out_dtype = dtype

    def validate_tensor(self, input: torch.Tensor) -> None:
        """uint8, or a float image that holds 0 to 255."""

    def transform_tensor(self, input: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        return input

    def apply_transform(
        self, input: torch.Tensor, params: Params, flags: dict[str, Any], transform: torch.Tensor | None = None
    ) -> torch.Tensor:
        return ((input.float() / 255 - self.mean) / self.std).to(self.out_dtype)


class RandomCutout(IntensityAugmentationBase2D):
    """Set one `size` × `size` square of each image to zero, wholly inside the image, all places alike likely.

    After normalisation zero is the training set's mean. Parameter: `corner`, int64 [B, 2], its first row and column.
    Source: DeVries and Taylor, *Improved Regularization of Convolutional Neural Networks with Cutout*, 2017, whose
    squares may reach over the edge; these do not.
    """

    def __init__(self, size: int = 8) -> None:
        super().__init__(p=1.0)
        self.size = size

    def generate_parameters(self, batch_shape: tuple[int, ...]) -> Params:
        batch, _, height, width = batch_shape
        rows = torch.randint(0, height - self.size + 1, (batch,), device=self.device)
        columns = torch.randint(0, width - self.size + 1, (batch,), device=self.device)
        return {"corner": torch.stack((rows, columns), dim=1)}

    def apply_transform(
        self, input: torch.Tensor, params: Params, flags: dict[str, Any], transform: torch.Tensor | None = None
    ) -> torch.Tensor:
        height, width = input.shape[2:]
        corner = params["corner"]
        rows = _within(torch.arange(height, device=input.device) - corner[:, :1], self.size)
        columns = _within(torch.arange(width, device=input.device) - corner[:, 1:], self.size)
        square = (rows[:, :, None] & columns[:, None, :])[..., None]  # [B, H, W, 1]
        return input.permute(0, 2, 3, 1).masked_fill(square, 0).permute(0, 3, 1, 2)  # in the order of the pixels


class Augmentation(nn.Module):
    """uint8 images [B, 3, H, W] to normalised images; in eval mode it only normalises."""

    def __init__(self, stages: Sequence[nn.Module], normalize: nn.Module) -> None:
        super().__init__()
        self.stages, self.normalize = nn.Sequential(*stages), normalize

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        with torch.autocast(images.device.type, enabled=False):  # Kornia would cast the result back to uint8 in one
            return self.stages(images) if self.training else self.normalize(images)  # type: ignore[no-any-return]


def hflip(images: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Images [B, C, H, W], flipped horizontally where `mask`, bool [B], is set."""
    return torch.where(mask[:, None, None, None], images.flip(-1), images)


def create_augmentation(
    settings: AugmentSettings | None = None,
    *,
    mean: Sequence[float] = CIFAR10_MEAN,
    std: Sequence[float] = CIFAR10_STD,
    dtype: torch.dtype = torch.float32,
    size: int = 32,
) -> Augmentation:
    """The augmentation of training batches, a module from uint8 images [B, 3, size, size] to normalised ones.

    Crop and flip → normalise → shift, scale and rotate → cutout → rotate; an operation with probability or size 0 is
    left out.

    Args:
        settings: the operations; the defaults if not given.
        mean: per channel, pixels in [0, 1].
        std: per channel, pixels in [0, 1].
        dtype: of the result.
        size: height and width of the images.

    Raises:
        ConfigError: the images are too small for the settings.
    """
    settings = settings or AugmentSettings()
    padding, cutout, flip_p = settings.padding, settings.cutout, settings.flip_p
    if max(cutout, padding + 1) > size:
        raise ConfigError(
            f"padding is {padding} and cutout {cutout}; images of {size} pixels per side are too small for that"
        )
    border = "constant" if settings.padding_mode == "mean" else settings.padding_mode
    geometry: nn.Module = GatherCropFlip(padding, border, flip_p)
    if settings.stock_kornia:
        crop = RandomCrop((size, size), padding=padding or None, padding_mode=border)
        geometry = nn.Sequential(_ToFloat(), crop, RandomHorizontalFlip(p=flip_p))
    normalize = PixelNormalize(mean, std, dtype)
    stages = [normalize, geometry] if settings.padding_mode == "mean" else [geometry, normalize]
    if settings.shift_scale_rotate_p:
        stages.append(
            _affine(settings.shift_scale_rotate_p, settings.rotate_limit, settings.shift_limit, settings.scale_limit)
        )
    if cutout:
        stages.append(RandomCutout(cutout))
    if settings.rotate_p:
        stages.append(_affine(settings.rotate_p, settings.rotate_limit, 0.0, 0.0))
    return Augmentation(stages, normalize)


def _affine(p: float, rotate_limit: float, shift_limit: float, scale_limit: float) -> nn.Module:
    """Kornia's affine warp of a batch, bilinear, the border mirrored."""
    shift = (shift_limit, shift_limit) if shift_limit else None
    scale = (1 - scale_limit, 1 + scale_limit) if scale_limit else None
    warp: nn.Module = RandomAffine(rotate_limit, translate=shift, scale=scale, padding_mode="reflection", p=p)
    return warp


class _ToFloat(nn.Module):
    """Kornia's stock operations take no uint8."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.float()


def _within(index: torch.Tensor, size: int) -> torch.Tensor:
    return (index >= 0) & (index < size)


def _reflected(index: torch.Tensor, size: int) -> torch.Tensor:
    """Mirror indices outside [0, size) about the first and the last pixel, which are not repeated."""
    return size - 1 - (size - 1 - index.abs()).abs()
