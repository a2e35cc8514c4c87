"""The machine's side of a run: device, precision, memory layout, compilation, seeds."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

import numpy as np
import torch
from torch import nn

from fastcifar.config import RuntimeSettings
from fastcifar.errors import ConfigError, DeviceError
from fastcifar.machine import cpu_name, keep_freed_memory

P = ParamSpec("P")
R = TypeVar("R")

MOST_FORMS = 128
"""Compiled forms that torch keeps of one piece of code, all runs of a process together: of each image size, frozen part
and batch size, in training and evaluation. Its own limit is 8; beyond it, it computes uncompiled, with a warning only.
"""


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """Where and how the network computes, resolved from the settings and the machine."""

    device: torch.device
    amp_dtype: torch.dtype | None
    """Precision of automatic mixed precision; None when it is off."""
    memory_format: torch.memory_format
    compile_mode: str | None
    """torch.compile's mode; None when it is off."""
    cuda_graphs: bool = False
    """Replay steps as CUDA graphs; never on the CPU."""

    def autocast(self) -> AbstractContextManager[None]:
        """The context in which the network is called."""
        return torch.autocast(self.device.type, dtype=self.amp_dtype, enabled=self.amp_dtype is not None)

    def scaler(self) -> torch.amp.GradScaler:
        """Loss scaling for float16; does nothing in other precisions."""
        return torch.amp.GradScaler(self.device.type, enabled=self.amp_dtype is torch.float16)

    def place(self, module: nn.Module) -> nn.Module:
        """Move a module to the device and its layout, and compile it in place if asked to."""
        module.to(self.device)
        if any(parameter.dim() == 4 for parameter in module.parameters()):
            module.to(memory_format=self.memory_format)
        if self.compile_mode is not None:
            torch._dynamo.config.recompile_limit = MOST_FORMS
            module.compile(mode=self.compile_mode)
        return module

    def compiled(self, function: Callable[P, R]) -> Callable[P, R]:
        """The function, compiled for fixed shapes if asked to."""
        if self.compile_mode is None:
            return function
        return torch.compile(function, mode=self.compile_mode, dynamic=False)

    def synchronize(self) -> None:
        """Wait until the device has done what it was given."""
        if self.device.type == "cuda":  # only on a GPU
            torch.cuda.synchronize(self.device)

    def describe_device(self) -> str:
        """Such as "CUDA: NVIDIA H200" or "CPU: AMD EPYC, 2 threads"."""
        if self.device.type == "cuda":  # only on a GPU
            return f"CUDA: {torch.cuda.get_device_name(self.device)}"
        return f"CPU: {cpu_name()}, {torch.get_num_threads()} threads"

    def describe_precision(self) -> str:
        """Such as "bfloat16 (AMP), channels-last, compiled"."""
        precision = "float32" if self.amp_dtype is None else f"{str(self.amp_dtype).removeprefix('torch.')} (AMP)"
        layout = "channels-last" if self.memory_format == torch.channels_last else "contiguous"
        compiled = ["compiled"] if self.compile_mode else []
        return ", ".join([precision, layout, *compiled, *(["CUDA graphs"] if self.cuda_graphs else [])])


def resolve_runtime(settings: RuntimeSettings) -> Runtime:
    """What the settings mean on this machine; on the CPU, memory that is freed is kept for the next step,
    on CUDA the fastest convolutions are searched for, for the whole process.

    Raises:
        ConfigError: the device's name cannot be read, or the precision does not go with CUDA graphs.
        DeviceError: the device is not there.
    """
    device = _resolve_device(settings.device)
    if device.type == "cpu":
        keep_freed_memory()
    else:
        _choose_algorithms(settings.deterministic)
    amp_dtype = _resolve_amp_dtype(settings, device) if settings.amp else None
    cuda_graphs = settings.cuda_graphs and device.type == "cuda"
    if cuda_graphs and amp_dtype is torch.float16:  # only on a GPU
        raise ConfigError("cuda_graphs is set; loss scaling, which float16 needs, cannot be recorded: take bfloat16")
    return Runtime(
        device=device,
        amp_dtype=amp_dtype,
        memory_format=torch.channels_last if settings.channels_last else torch.contiguous_format,
        compile_mode=settings.compile_mode if settings.compile else None,
        cuda_graphs=cuda_graphs,
    )


def _choose_algorithms(deterministic: bool) -> None:
    """Search for the fastest convolutions, or take only those that repeat. Shapes do not change within a run."""
    torch.backends.cudnn.benchmark = not deterministic
    torch.use_deterministic_algorithms(deterministic)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without which cuBLAS refuses


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's generators, those of every device included."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def random_state() -> dict[str, object]:
    """The state of torch's generators, from which every random choice of a run is drawn, as plain tensors."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def restore_random_state(state: dict[str, object]) -> None:
    """Put back what `random_state` took."""
    torch.set_rng_state(state["cpu"])  # type: ignore[arg-type]
    if torch.cuda.is_available() and state["cuda"]:  # only on a GPU
        torch.cuda.set_rng_state_all(state["cuda"])  # type: ignore[arg-type]


def _resolve_device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device is {name!r}; it must be 'auto', 'cpu', 'cuda' or 'cuda:N'")
    count = torch.cuda.device_count() if device.type == "cuda" else 0
    if device.type == "cuda" and (device.index or 0) >= count:
        raise DeviceError(
            f"device {name} is not there: torch {torch.__version__} sees {count} CUDA devices; "
            "use --device cpu, or run `fastcifar doctor` to see what is missing"
        )
    return device


def _resolve_amp_dtype(settings: RuntimeSettings, device: torch.device) -> torch.dtype:
    if settings.amp_dtype != "auto":
        return torch.bfloat16 if settings.amp_dtype == "bfloat16" else torch.float16
    # On the CPU torch computes in bfloat16 everywhere; float16 has fast kernels on few processors.
    has_bfloat16 = device.type == "cpu" or torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if has_bfloat16 else torch.float16
