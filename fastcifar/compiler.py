"""Whether torch.compile works here: it compiles C++ or C, and loads the result from a temporary folder."""

import ctypes
import functools
import os
import shutil
import subprocess
import sysconfig
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

from fastcifar.errors import Problem

SOURCE = "#include <Python.h>\nint fastcifar_probe(void) { return 1; }\n"
SECONDS = 60
"""Longest time to wait for a compiler, which takes a fraction of a second."""


def compiler_problem(device_type: str) -> Problem | None:
    """Compile and load a library of a few lines, as torch.compile does for "cpu" or "cuda"; None if that works."""
    return _try_compiler(compiler_command(device_type), *_build_folder())


def compiler_command(device_type: str) -> str:
    """The command of the compiler that torch uses: a C++ compiler for the CPU, a C compiler (Triton's) for CUDA."""
    if device_type == "cpu":
        return os.environ.get("CXX", "").strip() or "g++"
    return os.environ.get("CC", "").strip() or ("clang" if shutil.which("clang") and not shutil.which("gcc") else "gcc")


def _build_folder() -> tuple[str, str]:
    """The folder in which torch.compile creates its own, and the name of the variable that chooses it."""
    chosen = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    return (chosen, "TORCHINDUCTOR_CACHE_DIR") if chosen and Path(chosen).is_dir() else (gettempdir(), "TMPDIR")


@functools.cache
def _try_compiler(compiler: str, folder: str, variable: str) -> Problem | None:
    install = "install a C++ compiler and Python's headers: sudo apt-get install g++ python3-dev"
    if shutil.which(compiler.split(maxsplit=1)[0]) is None:
        return Problem(f"there is no compiler {compiler}", install)
    try:
        with TemporaryDirectory(dir=folder) as build:
            source, library = Path(build) / "probe.c", Path(build) / "probe.so"
            source.write_text(SOURCE)
            flags = ["-shared", "-fPIC", f"-I{sysconfig.get_path('include')}", str(source), "-o", str(library)]
            command = [*compiler.split(), *flags]
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=SECONDS)
            ctypes.CDLL(str(library))
    except subprocess.SubprocessError as error:
        return Problem(f"the compiler {compiler} fails{_first_error(error)}", install)
    except OSError as error:
        what = f"nothing can be compiled and loaded in {folder} ({error.strerror or str(error)})"
        return Problem(what, f"set {variable} to a folder on a file system that is writable and not mounted noexec")
    return None


def _first_error(error: subprocess.SubprocessError) -> str:
    """Return the first error in a compiler's output, in brackets."""
    lines = (getattr(error, "stderr", "") or "").splitlines()
    found = next((line for line in lines if "error" in line), "")
    return f" ({found.strip()})" if found else ""
