"""Lengths in pixels, such as the padding of a crop, that follow the size of the images."""

REFERENCE_SIZE = 32
"""Side in pixels of the images that settings in pixels are meant for: CIFAR-10's."""

MIN_SIZE = 8
"""The smallest side in pixels to which images are reduced."""


def scale_pixels(pixels: int, size: int, *, least: int = 0) -> int:
    """Return a length of 32 × 32 images in proportion for images with a side of `size` pixels, at least `least`."""
    return max(least, round(pixels * size / REFERENCE_SIZE))
