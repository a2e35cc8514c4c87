from __future__ import annotations

import resource

import torch

from fastcifar.machine import keep_freed_memory

PAGES = 16_384  # of 4 KiB: 64 MiB


def test_most_memory_that_was_freed_is_taken_again_without_page_faults() -> None:
    keep_freed_memory()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(30):
        torch.ones(PAGES * 4096, dtype=torch.uint8)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 10 * PAGES
