from __future__ import annotations

import torch

from fastcifar import TrainConfig
from fastcifar.device import resolve_runtime


def test_amp_and_devices_are_resolved_from_the_machine(config: TrainConfig) -> None:
    assert resolve_runtime(config.runtime).amp_dtype is None
    assert resolve_runtime(config.replace(amp=True).runtime).amp_dtype is torch.bfloat16
    forced = config.replace(amp=True, amp_dtype="float16")
    assert resolve_runtime(forced.runtime).amp_dtype is torch.float16
    described = resolve_runtime(config.replace(amp=True, compile=True).runtime).describe_precision()
    assert described == "bfloat16 (AMP), channels-last, compiled"
