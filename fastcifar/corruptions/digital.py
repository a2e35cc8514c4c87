"""Contrast, elastic transform, pixelation and JPEG compression."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from fastcifar.corruptions import filters
from fastcifar.corruptions.draws import Draws
from fastcifar.machine import usable_cores


def contrast(images: Tensor, severity: int, draws: Draws) -> Tensor:
    """Bring all values closer to the mean of their image and channel."""
    share = (0.75, 0.5, 0.4, 0.3, 0.15)[severity - 1]
    means = images.mean((2, 3), keepdim=True)
    return (images - means) * share + means


def elastic_transform(images: Tensor, severity: int, draws: Draws) -> Tensor:
    """Move three corners of each image at random, then every pixel by a smooth random field.

    Source: Simard, Steinkraus and Platt, Best Practices for Convolutional Neural Networks, 2003.
    """
    height, width = images.shape[2:]
    lengths = ((0.0, 0.0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03))
    amplitude, sigma, corner = (length * min(height, width) for length in lengths[severity - 1])
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    here = torch.stack((x, y), dim=-1).to(images)  # [H, W, 2]
    warped = _sample(images, _affine_positions(here, corner, draws), align_corners=True)
    if not amplitude:
        return warped
    field = filters.gaussian_blur(
        draws.between(-1, 1, 2, height, width, name="field"), sigma, border="reflect", truncate=3
    )
    return _sample(warped, here + amplitude * field.permute(0, 2, 3, 1), align_corners=False)


def pixelate(images: Tensor, severity: int, draws: Draws) -> Tensor:
    """Reduce the resolution, and enlarge the pixels again, as Pillow's box filter does."""
    share = (0.95, 0.9, 0.85, 0.75, 0.65)[severity - 1]
    height, width = images.shape[2:]
    rows, columns = (torch.from_numpy(_box_filter(size, int(size * share))).to(images) for size in (height, width))
    narrow = (255 * images @ columns.mT + 0.5).floor()
    small = (rows @ narrow + 0.5).floor() / 255
    return F.interpolate(small, size=(height, width), mode="nearest-exact")


def jpeg_compression(images: Tensor, severity: int, draws: Draws) -> Tensor:
    """Compress the images as JPEG and read them again, with Pillow in threads on the CPU."""
    quality = (80, 65, 58, 50, 40)[severity - 1]
    pixels = (255 * images).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    with ThreadPoolExecutor(usable_cores()) as threads:
        compressed = list(threads.map(lambda image: _compress(image, quality), pixels))
    return torch.from_numpy(np.stack(compressed)).to(images.device).permute(0, 3, 1, 2).float() / 255


def _affine_positions(here: Tensor, corner: float, draws: Draws) -> Tensor:
    """Return where each pixel comes from, [B, H, W, 2] as (x, y), if three corners move by up to `corner` pixels."""
    height, width = here.shape[:2]
    middle, side = here.new_tensor([width // 2, height // 2]), min(height, width) // 3
    before = middle + side * here.new_tensor([[1, 1], [1, -1], [-1, -1]])
    after = before + draws.between(-corner, corner, 3, 2, name="corners")
    matrix = torch.linalg.solve(F.pad(after, (0, 1), value=1.0), before)  # [B, 3, 2], from new places to old ones
    return torch.einsum("hwi,bij->bhwj", F.pad(here, (0, 1), value=1.0), matrix)


def _sample(images: Tensor, positions: Tensor, *, align_corners: bool) -> Tensor:
    """Return the pixels at positions [B, H, W, 2] in pixels, linearly interpolated, with mirrored edges.

    The mirror stands in the middle of the outermost pixel with `align_corners`, and otherwise behind it.
    """
    size = positions.new_tensor([images.shape[3], images.shape[2]])
    grid = 2 * positions / (size - 1) - 1 if align_corners else (2 * positions + 1) / size - 1
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=align_corners)


def _box_filter(size: int, smaller: int) -> npt.NDArray[np.float32]:
    """The weights by which Pillow's box filter reduces `size` pixels: [smaller, size]."""
    identity = Image.fromarray(np.eye(size, dtype=np.float32))
    return np.array(identity.resize((smaller, size), Image.Resampling.BOX)).T.copy()


def _compress(image: npt.NDArray[np.uint8], quality: int) -> npt.NDArray[np.uint8]:
    """Return an image, uint8 [H, W, C], as it is after JPEG compression."""
    file = io.BytesIO()
    Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image).save(file, "JPEG", quality=quality)
    with Image.open(file, formats=["JPEG"]) as decoded:
        return np.asarray(decoded).reshape(image.shape)
