"""Random numbers that depend on the seed and on the position of an image, and not on the batch it is in."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import torch
from torch import Tensor

_BITS = 24  # of a number in [0, 1), as many as a float32 holds
_GAMMA, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


@dataclass(frozen=True)
class Draws:
    """The random numbers of some images: a hash of a key, the position of the image, and the number's own position.

    So an image gets the same numbers in every batch and on every device, and all of them are computed at once.

    Source of the hash: Steele, Lea and Flood, Fast Splittable Pseudorandom Number Generators, 2014 (SplitMix64).
    """

    indices: Tensor
    """int64 [B], the positions of the images in the data set, on the device."""
    key: str
    """Such as 'fog 3 seed 0'. Other keys give other numbers."""

    def uniform(self, *shape: int, name: str = "") -> Tensor:
        """Return float32 [B, *shape] from 0 up to, but not including, 1. Other names give other numbers."""
        return _to_unit(self._hash(math.prod(shape), name), 64 - _BITS).view(-1, *shape)

    def between(self, low: float, high: float, *shape: int, name: str = "") -> Tensor:
        """Return float32 [B, *shape], uniform from `low` to `high`."""
        return low + (high - low) * self.uniform(*shape, name=name)

    def normal(self, *shape: int, name: str = "") -> Tensor:
        """Return float32 [B, *shape] of the standard normal distribution, two numbers per hash (Box and Muller)."""
        count = math.prod(shape)
        bits = self._hash(-(-count // 2), name)
        radius = (1 - _to_unit(bits, 64 - _BITS)).log_().mul_(-2).sqrt_()  # 1 − u is never 0
        angle = _to_unit(bits, 64 - 2 * _BITS).mul_(2 * math.pi)
        both = torch.cat((radius * angle.cos(), radius * angle.sin()), dim=1)
        return both[:, :count].reshape(-1, *shape)

    def _hash(self, count: int, name: str) -> Tensor:
        """Return 64 random bits for each image and each of `count` numbers: int64 [B, count]."""
        digest = hashlib.sha256(f"{self.key} {name}".encode()).digest()
        start = _mix(self.indices ^ int.from_bytes(digest[:8], "little", signed=True))
        steps = torch.arange(1, count + 1, device=self.indices.device) * _signed(_GAMMA)
        return _mix(start[:, None] + steps)


def _mix(bits: Tensor) -> Tensor:
    """Scramble 64-bit numbers, int64, so that every bit of a result depends on all bits of its input."""
    bits = (bits ^ _shift(bits, 30)).mul_(_signed(_FIRST))
    bits ^= _shift(bits, 27)
    bits = bits.mul_(_signed(_SECOND))
    bits ^= _shift(bits, 31)
    return bits


def _shift(bits: Tensor, places: int) -> Tensor:
    """Shift 64-bit numbers to the right, with zeros from the left (torch's shift repeats the sign)."""
    return (bits >> places).bitwise_and_((1 << (64 - places)) - 1)


def _to_unit(bits: Tensor, places: int) -> Tensor:
    """Return the `_BITS` bits from bit `places` on as float32 from 0 up to, but not including, 1."""
    return (bits >> places).bitwise_and_((1 << _BITS) - 1).float().mul_(2.0**-_BITS)


def _signed(number: int) -> int:
    """Return an unsigned 64-bit number as the signed one with the same bits."""
    return number - (1 << 64) if number >= 1 << 63 else number
