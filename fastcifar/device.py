"""Device, precision, memory format, compilation and seeds."""

import os
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from torch import nn

from fastcifar.errors import ConfigError, DeviceError
from fastcifar.machine import cpu_name, has_fast_bfloat16, keep_freed_memory, unbind, usable_cores
from fastcifar.settings import RuntimeSettings

P = ParamSpec("P")
R = TypeVar("R")

CPU = torch.device("cpu")

RECOMPILE_LIMIT = 128
"""Recompilations that torch.compile may keep per function. We need one per image size, set of frozen modules and batch
size, in training and evaluation. torch's default is 8; above it, torch silently runs the function eagerly."""

NO_BFLOAT16_ON_CPU = (
    "This CPU has no bfloat16 instructions: computing in float32 (to force bfloat16: train --amp-dtype bfloat16)"
)
NO_BFLOAT16_ON_GPU = (
    "This GPU has no bfloat16 instructions: computing in float16 with loss scaling, without CUDA graphs"
)
NO_GRAPHS_IN_FLOAT16 = "CUDA graphs are off: they cannot capture the loss scaling that float16 needs"


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """Device, precision, memory format and compilation, resolved from the settings and the machine."""

    device: torch.device
    amp_dtype: torch.dtype | None
    """Precision of automatic mixed precision; None if it is off."""
    memory_format: torch.memory_format
    compile_mode: str | None
    """Mode of torch.compile; None if it is off."""
    cuda_graphs: bool = False
    """Whether steps are replayed as CUDA graphs; never on the CPU."""
    notes: tuple[str, ...] = ()
    """A sentence, without a final full stop, for each setting that was asked for and is not used, and why."""

    def autocast(self) -> AbstractContextManager[None]:
        """The context in which the network is called."""
        return torch.autocast(self.device.type, dtype=self.amp_dtype, enabled=self.amp_dtype is not None)

    @property
    def scales_loss(self) -> bool:
        """Whether the loss must be scaled, since small gradients would become zero: in float16."""
        return self.amp_dtype is torch.float16

    def place(self, module: nn.Module) -> nn.Module:
        """Move a module to the device and its memory format, and compile it in place if compilation is on."""
        module.to(self.device)
        if any(parameter.dim() == 4 for parameter in module.parameters()):
            module.to(memory_format=self.memory_format)
        if self.compile_mode is not None:
            module.compile(mode=self.compile_mode)
        return module

    def compiled(self, function: Callable[P, R]) -> Callable[P, R]:
        """The function, compiled for fixed shapes if compilation is on."""
        if self.compile_mode is None:
            return function
        return torch.compile(function, mode=self.compile_mode, dynamic=False)

    def synchronize(self) -> None:
        """Wait until the device has finished its work."""
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
    """The settings as they apply on this machine. Changes nothing in the process.

    Raises:
        ConfigError: the device's name cannot be read, or the process is not set up for deterministic algorithms.
        DeviceError: the device is not available.
    """
    device = _resolve_device(settings.device)
    if settings.deterministic and device.type == "cuda" and not torch.are_deterministic_algorithms_enabled():
        raise ConfigError("deterministic is set; call fastcifar.apply_process_settings(config.runtime) before training")
    amp_dtype, cuda_graphs, notes = choose_precision(settings, device.type, has_bfloat16(device))
    return Runtime(
        device=device,
        amp_dtype=amp_dtype,
        memory_format=torch.channels_last if settings.channels_last else torch.contiguous_format,
        compile_mode=settings.compile_mode if settings.compile else None,
        cuda_graphs=cuda_graphs,
        notes=notes,
    )


def apply_process_settings(settings: RuntimeSettings) -> None:
    """Apply the settings that hold for the whole process. Call it once, before training; the command line does.

    Threads follow the cores that the process may use, also where OMP_PROC_BIND has bound them to one core. On the CPU
    freed memory is kept for the next step; on CUDA the fastest convolutions are searched for, or, with
    `deterministic`, only deterministic algorithms are allowed; torch.compile keeps as many variants as a run needs.

    Raises:
        ConfigError: the device's name cannot be read.
        DeviceError: the device is not available.
    """
    torch.compiler.config.recompile_limit = RECOMPILE_LIMIT
    unbind()
    if torch.get_num_threads() > usable_cores():  # torch does not know the quotas of control groups
        torch.set_num_threads(usable_cores())
    if _resolve_device(settings.device).type == "cpu":
        keep_freed_memory()
        return
    torch.backends.cudnn.benchmark = not settings.deterministic  # shapes do not change within a run
    torch.use_deterministic_algorithms(settings.deterministic)
    if settings.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS refuses to run without it


def choose_precision(
    settings: RuntimeSettings, device_type: str, bfloat16: bool
) -> tuple[torch.dtype | None, bool, tuple[str, ...]]:
    """The dtype of AMP (None for float32), whether to use CUDA graphs, and notes on settings that are not used.

    `device_type` is 'cpu' or 'cuda'; `bfloat16` says whether the device multiplies bfloat16 in hardware.
    """
    cuda_graphs = settings.cuda_graphs and device_type == "cuda"
    if not settings.amp:
        return None, cuda_graphs, ()
    if settings.amp_dtype == "bfloat16" or (settings.amp_dtype == "auto" and bfloat16):
        return torch.bfloat16, cuda_graphs, ()
    if settings.amp_dtype == "auto" and device_type == "cpu":  # few processors have fast float16 kernels
        return None, False, (NO_BFLOAT16_ON_CPU,)
    if not cuda_graphs:
        return torch.float16, False, ()
    # Loss scaling reads from the device whether to skip a step, which a CUDA graph cannot do.
    return torch.float16, False, (NO_BFLOAT16_ON_GPU if settings.amp_dtype == "auto" else NO_GRAPHS_IN_FLOAT16,)


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 in hardware. Elsewhere torch emulates it, several times slower."""
    if device.type == "cuda":  # only on a GPU
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return has_fast_bfloat16()


def seed_everything(seed: int, device: torch.device = CPU) -> None:
    """Seed the generators of Python, NumPy, and torch on the CPU and on a device; those of other devices stay as is."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":  # only on a GPU
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


def get_random_state(device: torch.device = CPU) -> dict[str, Any]:
    """The state of torch's generators on the CPU and on a run's device, from which all its random choices are drawn.

    The values are plain tensors: "cpu", and "cuda", a list with the state of a CUDA device.
    """
    cuda = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def set_random_state(state: dict[str, Any], device: torch.device = CPU) -> None:
    """Restore the state that `get_random_state` returned, perhaps on another device or another machine.

    Checkpoints of earlier versions have one state per CUDA device of their machine. A CUDA device whose state is not
    there keeps its own.
    """
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and state["cuda"]:
        index = device.index or 0
        torch.cuda.set_rng_state(state["cuda"][index if index < len(state["cuda"]) else 0], device)


@contextmanager
def preserve_random_state(device: torch.device = CPU) -> Iterator[None]:
    """Restore the state of torch's generators, on the CPU and on a device, after the block."""
    state = get_random_state(device)
    try:
        yield
    finally:
        set_random_state(state, device)


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
            f"device {name} is not available: torch {torch.__version__} sees {count} CUDA devices; "
            "use --device cpu, or run `fastcifar doctor` to find the cause"
        )
    return device
