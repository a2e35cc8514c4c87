"""Predict the time of a training step on several devices, from measurements of a single one.

Each device computes its share of the batch. DistributedDataParallel collects the gradients in buckets. When the
backward pass has completed a bucket, an all-reduce averages it over the devices, one bucket after the other. The
optimizer waits for the last one. Seconds, bytes and images are the units everywhere.

Sources: Li et al., *PyTorch Distributed: Experiences on Accelerating Data Parallel Training*, 2020, for the buckets;
Patarasuk and Yuan, *Bandwidth Optimal All-reduce Algorithms for Clusters of Workstations*, 2009, for the ring.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

FIRST_BUCKET, OTHER_BUCKETS = 1024**2, 25 * 1024**2
"""Bytes at which DistributedDataParallel closes its first bucket, and the others."""
SMALL_MESSAGE = 8
"""Bytes of an all-reduce of two numbers, such as the loss and the number of correct images."""


@dataclass(frozen=True)
class Line:
    """A cost that is fixed plus proportional: of computing images, or of sending bytes."""

    fixed: float
    """Seconds that do not depend on the size."""
    slope: float
    """Seconds per image or byte."""

    def __call__(self, size: float) -> float:
        """Return the seconds for a size."""
        return self.fixed + self.slope * size

    def scaled(self, factor: float) -> Line:
        """Return the line for a device on which everything takes `factor` times as long."""
        return Line(factor * self.fixed, factor * self.slope)

    @classmethod
    def fit(cls, seconds: Mapping[int, float] | Mapping[float, float]) -> Line:
        """Return the line with the least relative errors through measured seconds by size; neither part is negative.

        With a single size, there is no fixed part.
        """
        sizes, values = np.array([*seconds], dtype=float), np.array([*seconds.values()])
        if len(sizes) == 1:
            return cls(0.0, float(values[0] / sizes[0]))
        slope, fixed = np.polyfit(sizes, values, 1, w=1 / values)
        if fixed < 0:  # the best line through the origin
            return cls(0.0, float((sizes / values).sum() / ((sizes / values) ** 2).sum()))
        return cls(float(fixed), max(0.0, float(slope)))


@dataclass(frozen=True)
class Link:
    """A connection between neighbours in a ring."""

    latency: float
    """Seconds that a message of one byte takes."""
    bandwidth: float
    """Bytes per second in one direction."""

    def all_reduce(self, size: float, count: int) -> float:
        """Return the seconds of a ring all-reduce: 2 (count - 1) messages of size / count bytes, in succession."""
        return 2 * (count - 1) * (self.latency + size / count / self.bandwidth)


@dataclass(frozen=True)
class Cluster:
    """Hosts with several devices each."""

    inside: Link
    """The link between devices of one host."""
    between: Link
    """The link between hosts, which the devices of a host share."""
    per_host: int = 8

    def hosts(self, devices: int) -> int:
        """Return the number of hosts with this many devices."""
        return math.ceil(devices / self.per_host)

    def all_reduce(self, size: float, devices: int) -> float:
        """Return the seconds of a hierarchical all-reduce.

        The devices of a host divide the sum of their gradients, each exchanges its part with the other hosts, and
        at the end they exchange the parts. So each byte passes between hosts once, whatever the number of devices.
        """
        within = self.inside.all_reduce(size, min(devices, self.per_host))
        return within + self.between.all_reduce(size, self.hosts(devices))


@dataclass(frozen=True)
class Bucket:
    """Gradients that are averaged by one all-reduce."""

    size: int
    """Bytes."""
    ready: float
    """Fraction of the backward pass after which all of its gradients are computed."""


@dataclass(frozen=True)
class Step:
    """The work of one device in a step."""

    forward: float
    backward: float
    rest: float
    """Seconds of work after the gradients are averaged, such as the optimizer's."""
    buckets: Sequence[Bucket]
    """In the order in which they are averaged."""
    messages: int = 0
    """All-reduces of a few bytes after the backward pass."""

    @property
    def computing(self) -> float:
        """Seconds of the step on a single device."""
        return self.forward + self.backward + self.rest


def step_seconds(step: Step, all_reduce: Callable[[float], float], *, overlap: bool = True) -> float:
    """Return the seconds of a step, given those of an all-reduce by its bytes.

    Without `overlap`, the processor that computes also moves the bytes, as on a CPU, so that nothing runs meanwhile.
    """
    computed = step.forward + step.backward
    averaged = 0.0
    for bucket in step.buckets:
        ready = step.forward + bucket.ready * step.backward if overlap else computed
        averaged = max(averaged, ready) + all_reduce(bucket.size)
    return max(averaged, computed) + step.rest + step.messages * all_reduce(SMALL_MESSAGE)


def fill_buckets(gradients: Sequence[Bucket], *, by_readiness: bool) -> list[Bucket]:
    """Return DistributedDataParallel's buckets, given the gradients of all parameters in the order of the network.

    A bucket is closed when it has reached its limit. With `by_readiness`, they are filled in the order in which
    the backward pass computes the gradients. Otherwise, as with `find_unused_parameters`, they are filled in the
    order of the network, and averaged from the last one to the first.
    """
    ordered = sorted(gradients, key=lambda gradient: gradient.ready) if by_readiness else list(gradients)
    buckets: list[list[Bucket]] = [[]]
    for gradient in ordered:
        limit = FIRST_BUCKET if len(buckets) == 1 else OTHER_BUCKETS
        buckets[-1].append(gradient)
        if sum(each.size for each in buckets[-1]) >= limit:
            buckets.append([])
    merged = [
        Bucket(sum(each.size for each in bucket), max(each.ready for each in bucket)) for bucket in buckets if bucket
    ]
    return merged if by_readiness else merged[::-1]
