"""CUDA devices: whether torch has kernels for them, and which 16-bit type their hardware multiplies."""

import os
import re

import torch

from fastcifar.errors import Problem

LAST_WHEELS = "torch 2.11 and its torchvision, built for CUDA 12.6 (cu126)"
"""The last wheels known to have kernels for devices before Turing (sm_75); they begin with Maxwell (sm_50)."""


def missing_kernels(index: int) -> Problem | None:
    """Compare a CUDA device's compute capability with those that torch was built for; None if torch has kernels."""
    built_for, capability = torch.cuda.get_arch_list(), torch.cuda.get_device_capability(index)
    if not built_for or any(runs_on(architecture, capability) for architecture in built_for):
        return None
    if capability >= (7, 5):
        remedy = "install a newer torch: python -m pip install --upgrade torch torchvision"
    elif capability >= (5, 0):
        remedy = f"install {LAST_WHEELS}"
    else:
        remedy = "no wheel of a supported torch has kernels for it"
    name = torch.cuda.get_device_name(index)
    what = (
        f"{name} has compute capability {capability[0]}.{capability[1]} ({architecture_name(index)}), and torch "
        f"{torch.__version__} was built for {', '.join(built_for)} only"
    )
    return Problem(what, remedy)


def runs_on(architecture: str, capability: tuple[int, int]) -> bool:
    """Whether code for an architecture, such as "sm_80" or "compute_90", runs on devices of a compute capability.

    Machine code (sm) runs on devices of the same major version, from its own minor version on; PTX (compute) on all
    newer devices; code whose architecture ends in "a" on its own devices only. Source: CUDA C++ Programming Guide,
    "Application Compatibility". True for names that are not NVIDIA's, such as "gfx90a".
    """
    match = re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", architecture)
    if match is None:
        return True
    kind, own, suffix = match[1], (int(match[2]), int(match[3])), match[4]
    if suffix == "a":
        return own == capability
    return own <= capability and (own[0] == capability[0] or (kind == "compute" and not suffix))


def hidden_devices() -> str | None:
    """Say that the environment hides CUDA devices from torch; None if it does not."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return None if visible is None else f"CUDA_VISIBLE_DEVICES is {visible!r}"


def architecture_name(index: int) -> str:
    """Return the architecture of a CUDA device, such as "sm_75"."""
    return "sm_{}{}".format(*torch.cuda.get_device_capability(index))


def native_dtype(index: int) -> torch.dtype | None:
    """Return the 16-bit type for mixed precision on a CUDA device; None if float32 is as fast or faster.

    Tensor cores multiply bfloat16 from Ampere (sm_80) on, and float16 from Volta (sm_70) on. What torch computes in
    bfloat16 on older devices is emulated, several times slower.
    """
    capability = torch.cuda.get_device_capability(index)
    if capability >= (8, 0):
        return torch.bfloat16
    return torch.float16 if capability >= (7, 0) else None
