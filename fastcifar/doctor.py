"""The checks of `fastcifar doctor`: versions, FFCV, devices and data, and how to fix each problem.

Only this module catches every exception of an import, since its purpose is to report them.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from fastcifar.compiler import compiler_command, compiler_problem
from fastcifar.machine import cpu_name, has_fast_bfloat16, usable_cores
from fastcifar.settings import DataSettings
from fastcifar.version import FFCV_VERSION

Status = Literal["ok", "warning", "missing"]

REINSTALL_TORCH = "python -m pip install --upgrade --force-reinstall torch torchvision"
REINSTALL_FFCV = f"python -m pip install --force-reinstall --no-cache-dir --no-deps ffcv=={FFCV_VERSION}"
INSTALL_FFCV = "python -m pip install 'fastcifar[ffcv]'"
BUILD_PACKAGES = "g++ pkg-config libopencv-dev libturbojpeg0-dev"
BETONS = DataSettings.data_dir
FREE_SPACE = 2e9
"""Bytes for the archive, its unpacked copy, both .beton files and the checkpoints of a few runs together."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The result of one check. `remedy` says how to fix a problem; it is empty if the status is "ok"."""

    name: str
    status: Status
    detail: str
    remedy: str = ""


def examine() -> list[Finding]:
    """Run all checks. A problem is returned as a finding and raises nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside a library are not a problem of this machine
        return [finding for check in CHECKS for finding in check()]


def show(findings: list[Finding], console: Console) -> None:
    """Print one line per finding, then the remedies, each on one unwrapped line so that it can be copied."""
    colours: dict[Status, str] = {"ok": "green", "warning": "yellow", "missing": "red"}
    table = Table(*(Column(overflow="fold") for _ in range(3)), box=None, pad_edge=False, show_header=False)
    for finding in findings:
        table.add_row(Text(finding.status, style=colours[finding.status]), Text(finding.name), Text(finding.detail))
    console.print(table)
    todo = [finding for finding in findings if finding.status != "ok"]
    console.print("\nWhat to do:" if todo else "\nNothing is missing.")
    for finding in todo:
        console.print(f"  {finding.name}: {finding.remedy}", soft_wrap=True, markup=False, highlight=False)


def _system() -> list[Finding]:
    python = sys.version_info >= (3, 11)
    newer = "install Python 3.11 or later, and create the virtual environment with it"
    return [
        _finding(python, "Python", platform.python_version(), newer),
        _finding(True, "platform", platform.platform(terse=True), ""),
    ]


def _finding(
    healthy: bool, name: str, detail: str, remedy: str, otherwise: Literal["warning", "missing"] = "missing"
) -> Finding:
    if healthy:
        return Finding(name=name, status="ok", detail=detail)
    return Finding(name=name, status=otherwise, detail=detail, remedy=remedy)


def _package(name: str, probe: Callable[[], str], remedy: str) -> Finding:
    """Import a package, try it with `probe`, and report its version and the result of `probe`."""
    try:
        import_module(name)
        detail = ", ".join(filter(None, [metadata.version(name), probe()]))
    except Exception as error:  # mismatched binaries raise almost any exception
        reason = next(iter(str(error).splitlines()), "")
        return _finding(False, name, f"{type(error).__name__}: {reason}".rstrip(": "), remedy)
    return _finding(True, name, detail, remedy)


def _packages() -> list[Finding]:
    plain = ("numpy", "numba", "kornia", "rich", "tyro")
    return [
        _package("torch", _torch_build, REINSTALL_TORCH),
        _package("torchvision", _try_torchvision, f"{REINSTALL_TORCH}  # both must come from one build"),
        *(_package(name, str, f"python -m pip install --upgrade {name}") for name in plain),
        _ffcv(),
    ]


def _torch_build() -> str:
    cuda = import_module("torch").version.cuda
    return f"built for CUDA {cuda}" if cuda else "built for the CPU only"


def _try_torchvision() -> str:
    torch = import_module("torch")
    kept = import_module("torchvision.ops").nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1), 0.5)
    if kept.tolist() != [0]:
        raise RuntimeError("its operations give wrong results")
    return "fits torch"


def _ffcv() -> Finding:
    """Report FFCV, without which a memory map decodes the same batches."""
    finding = _package("ffcv", _try_ffcv, "")
    if finding.status == "ok":
        return finding
    absent = importlib.util.find_spec("ffcv") is None
    reason = "not installed" if absent else f"cannot be used ({finding.detail})"
    return Finding(
        name="ffcv",
        status="warning",
        detail=f"{reason}; the loader reads .beton files by memory map instead: the same batches, about as fast",
        remedy=_ffcv_remedy(INSTALL_FFCV if absent else REINSTALL_FFCV),
    )


def _try_ffcv() -> str:
    """Check FFCV's version, and copy a few bytes with its compiled library."""
    if (version := metadata.version("ffcv")) != FFCV_VERSION:
        raise RuntimeError(f"it is version {version}, and fastcifar uses the internals of {FFCV_VERSION}")
    numpy, libffcv = import_module("numpy"), import_module("ffcv.libffcv")
    source = numpy.arange(16, dtype=numpy.uint8)
    copy = numpy.zeros_like(source)
    libffcv.memcpy(source, copy)
    if copy.tolist() != source.tolist():
        raise RuntimeError("its compiled library copies bytes wrongly")
    return "its compiled library works"


def _ffcv_remedy(install: str) -> str:
    """Return the command that installs FFCV, and first the libraries it is compiled with if they are missing."""
    if sys.platform != "linux":
        return "none is needed; FFCV runs on Linux only"
    tools = shutil.which("g++") and shutil.which("pkg-config")
    if tools and subprocess.run(["pkg-config", "--exists", "opencv4", "libturbojpeg"], check=False).returncode == 0:
        return install
    return f"sudo apt-get install -y --no-install-recommends {BUILD_PACKAGES} && {install}"


def _cpu() -> list[Finding]:
    fast = has_fast_bfloat16()
    bfloat16 = "in hardware" if fast else "emulated: --amp trains in float32"
    return [_finding(True, "CPU", f"{cpu_name()}, {usable_cores()} usable cores, bfloat16 {bfloat16}", "")]


def _compiler() -> list[Finding]:
    problem = compiler_problem("cpu")
    if problem is None:
        return [_finding(True, "compiler", f"{compiler_command('cpu')} works: training can use --compile", "")]
    detail = f"{problem.what}: training runs without --compile"
    return [Finding(name="compiler", status="warning", detail=detail, remedy=problem.remedy)]


def _cuda() -> list[Finding]:
    try:
        torch, gpu = import_module("torch"), import_module("fastcifar.gpu")
        if torch.cuda.is_available():
            return [_cuda_device(index) for index in range(torch.cuda.device_count())]
        if torch.version.cuda and (hidden := gpu.hidden_devices()):
            remedy = "unset CUDA_VISIBLE_DEVICES, to train on a GPU"
            return [Finding(name="CUDA", status="warning", detail=f"no device is visible: {hidden}", remedy=remedy)]
        reason = "torch sees no CUDA device" if torch.version.cuda else "this torch is built for the CPU only"
    except Exception as error:
        reason = f"torch cannot query it ({type(error).__name__})"
    if shutil.which("nvidia-smi") is None:
        return [_finding(True, "CUDA", "no device; training runs on the CPU", "")]
    remedy = f"update the NVIDIA driver if nvidia-smi shows an older CUDA version than torch; else {REINSTALL_TORCH}"
    return [_finding(False, "CUDA", f"nvidia-smi is installed, but {reason}", remedy, "warning")]


def _cuda_device(index: int) -> Finding:
    torch, gpu = import_module("torch"), import_module("fastcifar.gpu")
    properties = torch.cuda.get_device_properties(index)
    missing = gpu.missing_kernels(index)
    if missing is not None:
        return Finding(name=f"cuda:{index}", status="warning", detail=missing.what, remedy=missing.remedy)
    amp = str(gpu.native_dtype(index) or torch.float32).removeprefix("torch.")
    name = f"{properties.name} ({gpu.architecture_name(index)})"
    return _finding(True, f"cuda:{index}", f"{name}, {properties.total_memory / 1e9:.0f} GB, --amp trains in {amp}", "")


def _disk() -> list[Finding]:
    free = shutil.disk_usage(".").free
    remedy = f"free {FREE_SPACE / 1e9:.0f} GB, or work in a folder on another disk"
    return [_finding(free >= FREE_SPACE, "disk", f"{free / 1e9:.1f} GB free in {Path.cwd()}", remedy, "warning")]


def _source() -> list[Finding]:
    name = "FASTCIFAR_DATA"
    if not (folder := os.environ.get(name)):
        return [_finding(True, name, "not set; CIFAR-10 is downloaded when it is needed", "")]
    remedy = f"set it to the folder that contains CIFAR-10: export {name}=/folder/with/cifar-10-batches-py"
    exists = Path(folder).is_dir()
    detail = folder if exists else f"{folder}: there is no such folder"
    return [_finding(exists, name, detail, remedy, "warning")]


def _betons() -> list[Finding]:
    betons = [BETONS / "train.beton", BETONS / "test.beton"]
    absent = [path.name for path in betons if not path.is_file()]
    detail = f"missing: {', '.join(absent)}" if absent else "train.beton and test.beton exist"
    remedy = "fastcifar write-beton  # fastcifar train also does it"
    return [_finding(not absent, str(BETONS), detail, remedy, "warning")]


CHECKS: tuple[Callable[[], list[Finding]], ...] = (
    _system, _packages, _cpu, _compiler, _cuda, _disk, _source, _betons,
)  # fmt: skip
