from __future__ import annotations

import pytest
import torch

from fastcifar.gpu import missing_kernels, native_dtype, runs_on
from tests.helpers import imitate_gpus


@pytest.mark.parametrize(
    ("architecture", "capability", "runs"),
    [
        ("sm_80", (8, 0), True),
        ("sm_80", (8, 9), True),
        ("sm_86", (8, 0), False),
        ("sm_80", (9, 0), False),
        ("sm_75", (7, 0), False),
        ("sm_120", (12, 1), True),
        ("sm_100", (12, 0), False),
        ("compute_70", (9, 0), True),
        ("compute_70", (6, 1), False),
        ("sm_90a", (9, 0), True),
        ("sm_100a", (10, 3), False),
        ("compute_90a", (10, 0), False),
        ("sm_100f", (10, 3), True),
        ("gfx90a", (9, 0), True),
    ],
)
def test_code_runs_on_its_own_generation_and_ptx_on_newer_ones(
    architecture: str, capability: tuple[int, int], runs: bool
) -> None:
    assert runs_on(architecture, capability) is runs


@pytest.mark.parametrize(
    ("capability", "remedy"),
    [
        ((3, 7), "no wheel of a supported torch has kernels for it"),
        ((6, 0), "install torch 2.11 and its torchvision, built for CUDA 12.6 (cu126)"),
        ((7, 0), "install torch 2.11 and its torchvision, built for CUDA 12.6 (cu126)"),
        ((13, 0), "install a newer torch: python -m pip install --upgrade torch torchvision"),
    ],
)
def test_a_gpu_without_kernels_is_named_with_what_torch_was_built_for_and_a_wheel_that_works(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], remedy: str
) -> None:
    imitate_gpus(monkeypatch, capability, built_for=("sm_75", "sm_120"))
    major, minor = capability
    assert missing_kernels(0) == (
        f"GPU of a test has compute capability {major}.{minor} (sm_{major}{minor}), and torch {torch.__version__} was "
        "built for sm_75, sm_120 only",
        remedy,
    )


@pytest.mark.parametrize("capability", [(7, 5), (8, 9), (12, 1)])
def test_other_gpus_have_kernels(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int]) -> None:
    imitate_gpus(monkeypatch, capability)
    assert missing_kernels(0) is None


@pytest.mark.gpu
def test_the_gpu_of_this_machine_computes_in_its_native_type() -> None:
    assert missing_kernels(0) is None
    dtype = native_dtype(0) or torch.float32
    square = torch.eye(16, device="cuda", dtype=dtype)
    assert torch.equal(square @ square, square)
