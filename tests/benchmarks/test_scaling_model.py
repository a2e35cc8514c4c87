from __future__ import annotations

import pytest

from benchmarks.scaling_model import (
    FIRST_BUCKET,
    OTHER_BUCKETS,
    Bucket,
    Cluster,
    Line,
    Link,
    Step,
    fill_buckets,
    step_seconds,
)

MIB = 1024**2


def test_a_line_is_fitted_and_has_no_negative_part() -> None:
    line = Line.fit({100: 3.0, 200: 5.0, 400: 9.0})
    assert (line.fixed, line.slope) == pytest.approx((1.0, 0.02))
    assert line(300) == pytest.approx(7.0)
    assert line.scaled(2)(300) == pytest.approx(14.0)
    through_origin = Line.fit({1: 1.0, 2: 3.0})
    assert through_origin.fixed == 0
    assert through_origin.slope == pytest.approx((1 + 2 / 3) / (1 + 4 / 9)), "the least relative errors"
    assert Line.fit({4: 2.0}) == Line(0.0, 0.5)


def test_a_ring_sends_each_byte_twice_less_a_share() -> None:
    link = Link(latency=0.001, bandwidth=100.0)
    assert link.all_reduce(60.0, 1) == 0
    assert link.all_reduce(60.0, 2) == pytest.approx(2 * (0.001 + 0.3))
    assert link.all_reduce(60.0, 3) == pytest.approx(4 * (0.001 + 0.2))


def test_hosts_exchange_after_their_devices() -> None:
    network = Cluster(inside=Link(0.0, 1000.0), between=Link(0.5, 100.0), per_host=4)
    assert [network.hosts(count) for count in (1, 4, 5, 8)] == [1, 1, 2, 2]
    within = 2 * 3 * 250 / 1000
    assert network.all_reduce(1000.0, 4) == pytest.approx(within)
    assert network.all_reduce(1000.0, 8) == pytest.approx(within + 2 * (0.5 + 500 / 100))


def test_an_all_reduce_hides_behind_the_backward_pass_that_is_left() -> None:
    buckets = [Bucket(10, 0.25), Bucket(20, 1.0)]
    step = Step(forward=1.0, backward=4.0, rest=0.5, buckets=buckets)

    def all_reduce(size: float) -> float:
        return size / 10

    # the first one, from 2 to 3, ends before the backward pass does, at 5; the second one takes until 7
    assert step_seconds(step, all_reduce) == pytest.approx(7.5)
    assert step_seconds(step, all_reduce, overlap=False) == pytest.approx(5 + 3 + 0.5)
    assert step_seconds(step, lambda size: size) == pytest.approx(2 + 10 + 20 + 0.5), "the second waits for the first"
    assert step_seconds(step, lambda _: 0.0) == step.computing == 5.5


def test_small_messages_come_after_the_backward_pass() -> None:
    step = Step(forward=1.0, backward=2.0, rest=0.0, buckets=[], messages=3)
    assert step_seconds(step, lambda _: 0.1) == pytest.approx(3.3)


def test_buckets_are_filled_in_the_order_of_the_gradients() -> None:
    gradients = [Bucket(20 * MIB, 1.0), Bucket(10 * MIB, 0.5), Bucket(1000, 0.2), Bucket(2 * MIB, 0.1)]
    assert fill_buckets(gradients, by_readiness=True) == [
        Bucket(2 * MIB, 0.1),
        Bucket(30 * MIB + 1000, 1.0),
    ]
    assert fill_buckets(gradients, by_readiness=False) == [
        Bucket(12 * MIB + 1000, 0.5),
        Bucket(20 * MIB, 1.0),
    ]


def test_buckets_have_the_limits_of_torch() -> None:
    import torch.distributed as dist
    from torch.nn.parallel import distributed

    assert FIRST_BUCKET == dist._DEFAULT_FIRST_BUCKET_BYTES
    assert getattr(distributed, "_DEFAULT_BUCKET_CAP_MB", 25) * MIB == OTHER_BUCKETS  # not in older versions
