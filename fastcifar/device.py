"""Device, precision, memory format, compilation and seeds."""

import os
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, ParamSpec, TypeVar

import numpy as np
import torch
from torch import nn

from fastcifar import gpu
from fastcifar.compiler import compiler_problem
from fastcifar.errors import ConfigError, DeviceError
from fastcifar.machine import (
    cpu_name,
    has_fast_bfloat16,
    keep_freed_memory,
    require_threads,
    unbind,
    usable_cores,
)
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
NO_TENSOR_CORES = (
    "This GPU ({}) has no tensor cores: computing in float32 (to force float16: train --amp-dtype float16)"
)


class Precision(NamedTuple):
    """The precision of a run."""

    amp_dtype: torch.dtype | None
    """None for float32."""
    reason: str
    """Why this one, in a few words; empty for float32 that was asked for."""
    note: str | None = None
    """A sentence if mixed precision was asked for and is not used."""


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """Device, precision, memory format and compilation, resolved from the settings and the machine."""

    device: torch.device
    amp_dtype: torch.dtype | None
    """Precision of automatic mixed precision; None if it is off."""
    precision_reason: str = ""
    """Why it was chosen, in a few words."""
    memory_format: torch.memory_format
    compile_mode: str | None
    """Mode of torch.compile; None if it is off."""
    cuda_graphs: bool = False
    """Whether steps are replayed as CUDA graphs; never on the CPU."""
    unavailable: tuple[str, ...] = ()
    """Names of the settings of speed that were asked for and cannot be used on this machine."""
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
        """Such as "CUDA: NVIDIA H200" or "CPU: AMD EPYC 9354, 2 threads"."""
        if self.device.type == "cuda":  # only on a GPU
            return f"CUDA: {torch.cuda.get_device_name(self.device)}"
        return f"CPU: {cpu_name()}, {torch.get_num_threads()} threads"

    def describe_precision(self) -> str:
        """Such as "float16 (AMP, no bfloat16 on sm_75), channels-last, CUDA graphs"."""
        reason = f" ({self.precision_reason})" if self.precision_reason else ""
        layout = "channels-last" if self.memory_format == torch.channels_last else "contiguous"
        speed = [*(["compiled"] if self.compile_mode else []), *(["CUDA graphs"] if self.cuda_graphs else [])]
        return ", ".join([self.dtype_name + reason, layout, *speed, *(f"no {name}" for name in self.unavailable)])

    @property
    def dtype_name(self) -> str:
        """The precision's name: "float32", "bfloat16" or "float16"."""
        return str(self.amp_dtype or torch.float32).removeprefix("torch.")


def resolve_runtime(settings: RuntimeSettings) -> Runtime:
    """The settings as they apply on this machine.

    Raises:
        ConfigError: the device's name cannot be read, or the process is not set up for deterministic algorithms.
        DeviceError: the device is not available, or this process was forked from one that has computed.
    """
    require_threads(torch.get_num_threads())
    device, fallback = _resolve_device(settings.device)
    if settings.deterministic and device.type == "cuda" and not torch.are_deterministic_algorithms_enabled():
        raise ConfigError("deterministic is set; call fastcifar.apply_process_settings(config.runtime) before training")
    precision = choose_precision(settings, device)
    no_graphs = settings.cuda_graphs and device.type == "cpu"
    no_compiler = compiler_problem(device.type) if settings.compile else None
    return Runtime(
        device=device,
        amp_dtype=precision.amp_dtype,
        precision_reason=precision.reason,
        memory_format=torch.channels_last if settings.channels_last else torch.contiguous_format,
        compile_mode=settings.compile_mode if settings.compile and no_compiler is None else None,
        cuda_graphs=settings.cuda_graphs and not no_graphs,
        unavailable=(*(["torch.compile"] if no_compiler else []), *(["CUDA graphs"] if no_graphs else [])),
        notes=tuple(filter(None, (fallback, precision.note, no_compiler and f"torch.compile is off: {no_compiler}"))),
    )


def apply_process_settings(settings: RuntimeSettings) -> None:
    """Apply the settings that hold for the whole process. Call it once, before training; the command line does.

    Threads follow the cores that the process may use, also where OMP_PROC_BIND has bound them to one core. On the CPU
    freed memory is kept for the next step; on CUDA the fastest convolutions are searched for, or, with
    `deterministic`, only deterministic algorithms are allowed. With `compile`, torch keeps as many compiled variants as
    a run needs.

    Raises:
        ConfigError: the device's name cannot be read.
        DeviceError: the device is not available.
    """
    if settings.compile:  # this imports the compiler, which takes a second
        torch.compiler.config.recompile_limit = RECOMPILE_LIMIT
    unbind()
    if torch.get_num_threads() > usable_cores():  # torch does not know the quotas of control groups
        torch.set_num_threads(usable_cores())
    if _resolve_device(settings.device)[0].type == "cpu":
        keep_freed_memory()
        return
    torch.backends.cudnn.benchmark = not settings.deterministic  # shapes do not change within a run
    torch.use_deterministic_algorithms(settings.deterministic)
    if settings.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS refuses to run without it


def choose_precision(settings: RuntimeSettings, device: torch.device) -> Precision:
    """Choose the precision: with `amp`, the fastest one that the device computes in hardware, unless one is named."""
    if not settings.amp:
        return Precision(None, "")
    if settings.amp_dtype != "auto":
        return Precision(getattr(torch, settings.amp_dtype), "AMP, --amp-dtype")
    native = native_dtype(device)
    if native is torch.bfloat16:
        return Precision(native, "AMP, native")
    if device.type == "cpu":  # few processors have fast float16 kernels
        return Precision(None, "no bfloat16 on this CPU", NO_BFLOAT16_ON_CPU)
    name = gpu.architecture_name(device.index)
    if native is torch.float16:
        return Precision(native, f"AMP, no bfloat16 on {name}")
    return Precision(None, f"no tensor cores on {name}", NO_TENSOR_CORES.format(name))


def native_dtype(device: torch.device) -> torch.dtype | None:
    """The 16-bit type that a device multiplies fastest in hardware; None if it has none."""
    if device.type == "cuda":
        return gpu.native_dtype(device.index or 0)
    return torch.bfloat16 if has_fast_bfloat16() else None


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 in hardware. Elsewhere torch emulates it, several times slower."""
    return native_dtype(device) is torch.bfloat16


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


def _resolve_device(name: str) -> tuple[torch.device, str | None]:
    """The device of that name, and a note if 'auto' had to pass over a GPU."""
    if name == "auto":
        return _choose_device()
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device is {name!r}; it must be 'auto', 'cpu', 'cuda' or 'cuda:N'")
    return (_require_cuda(name, device), None) if device.type == "cuda" else (device, None)


def _choose_device() -> tuple[torch.device, str | None]:
    """The current or the first CUDA device that torch has kernels for; the CPU if there is none."""
    if not torch.cuda.is_available():
        return CPU, None
    current = torch.cuda.current_device()
    indices = sorted(range(torch.cuda.device_count()), key=lambda index: index != current)
    missing = {index: gpu.missing_kernels(index) for index in indices}
    usable = next((torch.device("cuda", index) for index in indices if missing[index] is None), CPU)
    passed_over = missing[indices[0]]
    return usable, f"Computing on {'the CPU' if usable == CPU else usable}: {passed_over}" if passed_over else None


def _require_cuda(name: str, device: torch.device) -> torch.device:
    """The CUDA device with its index; an error if torch cannot use it."""
    count = torch.cuda.device_count()
    if (device.index or 0) >= count:
        hidden = gpu.hidden_devices()
        raise DeviceError(
            f"device {name} is not available: torch {torch.__version__} sees {count} CUDA devices"
            f"{f', since {hidden}' if hidden else ''}; "
            "use --device cpu, or run `fastcifar doctor` to find the cause"
        )
    index = torch.cuda.current_device() if device.index is None else device.index
    missing = gpu.missing_kernels(index)
    if missing is not None:
        raise DeviceError(f"device {name} cannot be used: {missing}; or use --device cpu")
    return torch.device("cuda", index)
