from __future__ import annotations

import resource
import subprocess
import sys

import torch

from fastcifar.machine import anonymous_bytes, give_back_freed_memory, keep_freed_memory, peak_memory_bytes

PAGES = 16_384  # of 4 KiB: 64 MiB


def test_most_freed_memory_is_reused_without_page_faults() -> None:
    keep_freed_memory()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(30):
        torch.ones(PAGES * 4096, dtype=torch.uint8)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 10 * PAGES


def test_the_peak_memory_of_a_process_does_not_include_its_parents() -> None:
    held = torch.ones(PAGES * 4096 * 8, dtype=torch.uint8)  # 512 MiB
    code = "from fastcifar.machine import peak_memory_bytes; print(peak_memory_bytes())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert peak_memory_bytes() > len(held)
    assert 1 << 20 < int(done.stdout) < len(held) // 2


def test_freed_memory_is_returned_on_request() -> None:
    keep_freed_memory()
    give_back_freed_memory()
    before = anonymous_bytes()
    large, small = zip(*((torch.ones(1 << 20), torch.ones(1 << 10)) for _ in range(32)), strict=True)  # 4 MiB, 4 KiB
    assert anonymous_bytes() - before > 120 << 20
    del large
    assert anonymous_bytes() - before > 60 << 20
    give_back_freed_memory()
    assert anonymous_bytes() - before < 8 << 20
    assert len(small) == 32
