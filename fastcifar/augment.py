"""Batched augmentation on the device with Kornia: crop → flip → normalise → cutout, and optional affine warps.

Kornia's crop copies every box to the host and slices one image at a time, and its flip blends two whole batches.
`GatherCropFlip` does both in one gather on the uint8 pixels; its images equal Kornia's bit for bit for the same
parameters. Each operation subclasses a Kornia base class, so it composes with Kornia's own. Random numbers come from
torch's default generator of the images' device.
"""

from collections.abc import Sequence
from typing import Any

import kornia.augmentation as K
import torch
from torch import Tensor, nn

from fastcifar.parallel import ALONE, Processes
from fastcifar.pixels import scale_pixels
from fastcifar.settings import AugmentSettings

CIFAR10_MEAN = (0.49139968, 0.48215841, 0.44653091)
CIFAR10_STD = (0.24703223, 0.24348513, 0.26158784)
"""Per channel of the 50,000 training images, with pixels in [0, 1]."""

MIN_STD = 1 / 255
"""The standard deviation below which a channel counts as constant: one grey level."""

Params = dict[str, Tensor]
Flags = dict[str, Any]


class GatherCropFlip(K.GeometricAugmentationBase2D):
    """Random crop after padding, to the original size, and random horizontal flip of a batch in one gather.

    From uint8 or float images [B, C, H, W] to the same dtype in channels-last order. Random parameters: `offset`, int64
    [B, 2], the row and column of the crop in the padded image, and `flip`, bool [B].
    """

    _compute_matrix_lazily = True  # Kornia's switch: compute the transform's matrix only when it is read

    def __init__(self, padding: int = 4, padding_mode: str = "constant", flip_p: float = 0.5) -> None:
        super().__init__(p=1.0)
        self.padding, self.padding_mode, self.flip_p = padding, padding_mode, flip_p

    def validate_tensor(self, input: Tensor) -> None:
        """Accept any dtype: pixels are only moved."""

    def transform_tensor(self, input: Tensor, **kwargs: Any) -> Tensor:
        return input

    def compute_transformation(self, input: Tensor, params: Params, flags: Flags) -> Tensor:
        """The matrices, float32 [B, 3, 3], from coordinates (x, y, 1) in the input to those in the result."""
        shift, flip = self.padding - params["offset"].float(), params["flip"].float()
        matrix = torch.zeros(len(shift), 3, 3, device=shift.device)
        matrix[:, 0, 0] = 1 - 2 * flip
        matrix[:, 0, 2] = torch.lerp(shift[:, 1], input.shape[3] - 1 - shift[:, 1], flip)
        matrix[:, 1, 1] = matrix[:, 2, 2] = 1
        matrix[:, 1, 2] = shift[:, 0]
        return matrix

    def generate_parameters(self, batch_shape: tuple[int, ...]) -> Params:
        batch = batch_shape[0]
        return {
            "offset": torch.randint(0, 2 * self.padding + 1, (batch, 2), device=self.device),
            "flip": torch.rand(batch, device=self.device) < self.flip_p,
        }

    def apply_transform(self, input: Tensor, params: Params, flags: Flags, transform: Tensor | None = None) -> Tensor:
        batch, channels, height, width = input.shape
        y = torch.arange(height, device=input.device)
        x = torch.arange(width, device=input.device)
        x = torch.where(params["flip"][:, None], width - 1 - x, x)
        rows = y + (params["offset"][:, :1] - self.padding)  # [B, H], in coordinates of the unpadded image
        columns = x + (params["offset"][:, 1:] - self.padding)
        if self.padding_mode == "reflect":
            inside = None
            rows, columns = _reflect(rows, height), _reflect(columns, width)
        else:
            inside = _within(rows, height)[:, :, None] & _within(columns, width)[:, None, :]
            rows, columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
        pixels = (rows[:, :, None] * width + columns[:, None, :]).view(batch, -1, 1).expand(-1, -1, channels)
        flat = input.permute(0, 2, 3, 1).reshape(batch, height * width, channels)
        moved = flat.gather(1, pixels).view(batch, height, width, channels)
        if inside is not None:
            moved = moved.masked_fill(~inside[..., None], 0)
        return moved.permute(0, 3, 1, 2)


class PixelNormalize(K.IntensityAugmentationBase2D):
    """Normalise uint8 images [B, 3, H, W]: (pixel / 255 - mean) / std per channel in float32, converted to `dtype`.

    A channel without variance is not scaled (`normalization_scale`).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float], dtype: torch.dtype = torch.float32) -> None:
        super().__init__(p=1.0, same_on_batch=True)
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(normalization_scale(std)).view(1, -1, 1, 1), persistent=False)
        self.out_dtype = dtype

    def validate_tensor(self, input: Tensor) -> None:
        """Accept uint8, and floats from 0 to 255."""

    def transform_tensor(self, input: Tensor, **kwargs: Any) -> Tensor:
        return input

    def apply_transform(self, input: Tensor, params: Params, flags: Flags, transform: Tensor | None = None) -> Tensor:
        return ((input.float() / 255 - self.mean) / self.std).to(self.out_dtype)


class RandomCutout(K.IntensityAugmentationBase2D):
    """Set one `size` × `size` square of each image to zero; its position inside the image is uniformly random.

    After normalisation, zero is the training set's mean. Random parameter: `corner`, int64 [B, 2], the square's first
    row and column. Source: DeVries and Taylor, *Improved Regularization of Convolutional Neural Networks with Cutout*,
    2017; their squares may extend beyond the image, these do not.
    """

    def __init__(self, size: int = 8) -> None:
        super().__init__(p=1.0)
        self.size = size

    def generate_parameters(self, batch_shape: tuple[int, ...]) -> Params:
        batch, _, height, width = batch_shape
        rows = torch.randint(0, height - self.size + 1, (batch,), device=self.device)
        columns = torch.randint(0, width - self.size + 1, (batch,), device=self.device)
        return {"corner": torch.stack((rows, columns), dim=1)}

    def apply_transform(self, input: Tensor, params: Params, flags: Flags, transform: Tensor | None = None) -> Tensor:
        height, width = input.shape[2:]
        corner = params["corner"]
        rows = _within(torch.arange(height, device=input.device) - corner[:, :1], self.size)
        columns = _within(torch.arange(width, device=input.device) - corner[:, 1:], self.size)
        square = (rows[:, :, None] & columns[:, None, :])[..., None]  # [B, H, W, 1]
        return input.permute(0, 2, 3, 1).masked_fill(square, 0).permute(0, 3, 1, 2)  # in channels-last memory order


class Augmentation(nn.Module):
    """Augment and normalise uint8 images [B, 3, H, W]; in eval mode, only normalise.

    Of several processes, each draws the random numbers of the whole batch and uses those of its share: together they
    augment the batch as one process does.
    """

    def __init__(self, stages: Sequence[nn.Module], normalize: nn.Module, processes: Processes = ALONE) -> None:
        super().__init__()
        self.stages, self.normalize, self.processes = nn.Sequential(*stages), normalize, processes

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, enabled=False):  # otherwise Kornia casts the result back to uint8
            if not self.training:
                return self.normalize(images)  # type: ignore[no-any-return]
            return self._augment_share(images) if self.processes.count > 1 else self.stages(images)

    def _augment_share(self, images: Tensor) -> Tensor:
        batch = len(images) * self.processes.count
        share = self.processes.share(batch)
        for stage in self.stages:
            if not isinstance(stage, K.AugmentationBase2D):
                images = stage(images)
                continue
            params = stage.forward_parameters(torch.Size((batch, *images.shape[1:])))
            own = {name: value[share] for name, value in params.items() if name != "forward_input_shape"}
            images = stage(images, params=own | {"forward_input_shape": torch.tensor(images.shape)})
        return images


def is_constant(std: float) -> bool:
    """Tell whether a channel of this standard deviation, for pixels in [0, 1], is constant but for rounding errors."""
    return std < MIN_STD


def normalization_scale(std: Sequence[float]) -> list[float]:
    """Return what to divide each channel by: its standard deviation, or 1 for a constant channel.

    Division by a standard deviation of almost 0 would turn padding, and other pixels in a test image, into huge inputs.
    Source: scikit-learn's StandardScaler.
    """
    return [1.0 if is_constant(value) else value for value in std]


def hflip(images: Tensor, mask: Tensor) -> Tensor:
    """Flip the images [B, C, H, W] horizontally where `mask`, bool [B], is set."""
    return torch.where(mask[:, None, None, None], images.flip(-1), images)


def create_augmentation(
    settings: AugmentSettings | None = None,
    *,
    mean: Sequence[float] = CIFAR10_MEAN,
    std: Sequence[float] = CIFAR10_STD,
    dtype: torch.dtype = torch.float32,
    size: int = 32,
    processes: Processes = ALONE,
) -> Augmentation:
    """Create the augmentation of training batches, a module from uint8 images [B, 3, size, size] to normalised ones.

    Crop and flip → normalise → shift, scale and rotate → cutout → rotate; an operation with probability or size 0 is
    omitted. Padding and cutout are those of the settings for 32 × 32 images, and in proportion for other sizes.

    Args:
        settings: the settings of the operations; the defaults if not given.
        mean: mean per channel, with pixels in [0, 1].
        std: standard deviation per channel, with pixels in [0, 1].
        dtype: dtype of the result.
        size: height and width of the images.
        processes: the processes that share each batch.
    """
    settings = settings or AugmentSettings()
    padding, cutout = min(scale_pixels(settings.padding, size), size - 1), scale_pixels(settings.cutout, size)
    flip_p, rotate_limit = settings.flip_p, settings.rotate_limit
    border = "constant" if settings.padding_mode == "mean" else settings.padding_mode
    geometry: list[nn.Module] = [GatherCropFlip(padding, border, flip_p)]
    if settings.stock_kornia:
        crop = K.RandomCrop((size, size), padding=padding or None, padding_mode=border)
        geometry = [_ToFloat(), crop, K.RandomHorizontalFlip(p=flip_p)]
    normalize = PixelNormalize(mean, std, dtype)
    stages = [normalize, *geometry] if settings.padding_mode == "mean" else [*geometry, normalize]
    if settings.shift_scale_rotate_p:
        stages.append(_affine(settings.shift_scale_rotate_p, rotate_limit, settings.shift_limit, settings.scale_limit))
    if cutout:
        stages.append(RandomCutout(cutout))
    if settings.rotate_p:
        stages.append(_affine(settings.rotate_p, rotate_limit, 0.0, 0.0))
    return Augmentation(stages, normalize, processes)


def _affine(p: float, rotate_limit: float, shift_limit: float, scale_limit: float) -> nn.Module:
    """Kornia's affine warp of a batch: bilinear, with mirrored borders."""
    shift = (shift_limit, shift_limit) if shift_limit else None
    scale = (1 - scale_limit, 1 + scale_limit) if scale_limit else None
    warp: nn.Module = K.RandomAffine(rotate_limit, translate=shift, scale=scale, padding_mode="reflection", p=p)
    return warp


class _ToFloat(nn.Module):
    """Convert to float32, since Kornia's crop and flip do not accept uint8."""

    def forward(self, images: Tensor) -> Tensor:
        return images.float()


def _within(index: Tensor, size: int) -> Tensor:
    return (index >= 0) & (index < size)


def _reflect(index: Tensor, size: int) -> Tensor:
    """Mirror indices outside [0, size) at the first and last pixel, without repeating these."""
    return size - 1 - (size - 1 - index.abs()).abs()
