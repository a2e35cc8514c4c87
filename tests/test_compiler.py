from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from fastcifar import compiler
from fastcifar.compiler import compiler_problem


def test_this_machine_compiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CXX", "CC", "TORCHINDUCTOR_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    assert compiler_problem("cpu") is None
    assert compiler_problem("cuda") is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("command", "what"),
    [("no-such-compiler", "there is no compiler no-such-compiler"), ("/bin/false", "the compiler /bin/false fails")],
)
@pytest.mark.parametrize(("variable", "device_type"), [("CXX", "cpu"), ("CC", "cuda")])
def test_a_compiler_that_is_missing_or_fails_is_named(
    monkeypatch: pytest.MonkeyPatch, command: str, what: str, variable: str, device_type: str
) -> None:
    monkeypatch.setenv(variable, command)
    install = "install a C++ compiler and Python's headers: sudo apt-get install g++ python3-dev"
    assert compiler_problem(device_type) == (what, install)


def test_missing_headers_of_python_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "SOURCE", "#include <no_such_header.h>\n")
    monkeypatch.setenv("CXX", "g++ -g")  # a command that no other test has tried
    problem = compiler_problem("cpu")
    assert problem is not None
    assert "no_such_header.h: No such file" in problem.what


@pytest.mark.parametrize("variable", ["TMPDIR", "TORCHINDUCTOR_CACHE_DIR"])
def test_a_folder_in_which_no_library_can_be_loaded_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str
) -> None:
    def refuse(path: str) -> None:
        raise OSError(f"{path}: failed to map segment from shared object")

    monkeypatch.setattr(compiler.ctypes, "CDLL", refuse)  # as on a file system that is mounted noexec
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    if variable == "TORCHINDUCTOR_CACHE_DIR":
        monkeypatch.setenv(variable, str(tmp_path))
    else:
        monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    problem = compiler_problem("cpu")
    assert problem is not None
    assert problem.what.startswith(f"nothing can be compiled and loaded in {tmp_path} (")
    assert problem.remedy.startswith(f"set {variable} to a folder on a file system that is writable")
