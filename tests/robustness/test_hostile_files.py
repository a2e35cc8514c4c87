from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.robustness.hostile_files import write_checkpoint_with_payload


@pytest.mark.parametrize("seed", range(4))
def test_a_load_without_protection_runs_the_payload(tmp_path: Path, seed: int) -> None:
    trap = tmp_path / "trap"
    write_checkpoint_with_payload(tmp_path / "file", trap, np.random.default_rng(seed))
    torch.load(tmp_path / "file", weights_only=False)
    assert trap.exists()
