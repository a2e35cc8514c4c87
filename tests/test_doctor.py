from __future__ import annotations

import importlib
import importlib.metadata
import io
from pathlib import Path
from types import ModuleType

import pytest
from rich.console import Console

from fastcifar import doctor
from fastcifar.doctor import Finding, examine, show
from fastcifar.gpu import missing_kernels
from tests.helpers import imitate_gpus

UNHEALTHY = [
    Finding(name="Python", status="ok", detail="3.11.2"),
    Finding(name="CPU", status="warning", detail="a slow one, " * 12, remedy="train with --no-amp"),
    Finding(name="ffcv", status="missing", detail="ImportError: [gone]", remedy=f"type {'this and ' * 20}[no markup]"),
]


def fail_to_import(monkeypatch: pytest.MonkeyPatch, broken: str, error: Exception) -> None:
    def import_module(name: str) -> ModuleType:
        if name.partition(".")[0] == broken:
            raise error
        return importlib.import_module(name)

    monkeypatch.setattr(doctor, "import_module", import_module)


def found(name: str) -> Finding:
    return next(finding for finding in examine() if finding.name == name)


def rendered(findings: list[Finding]) -> str:
    console = Console(file=io.StringIO(), width=80, no_color=True)
    show(findings, console)
    return console.file.getvalue()


def test_a_healthy_machine_lacks_nothing() -> None:
    findings = examine()
    assert [finding for finding in findings if finding.status == "missing"] == []
    names = {finding.name for finding in findings}
    assert {"Python", "platform", "torch", "torchvision", "ffcv", "numba", "kornia", "CPU", "disk"} <= names


@pytest.mark.parametrize(("fast", "shown"), [(True, "in hardware"), (False, "emulated: --amp trains in float32")])
def test_a_cpu_without_bfloat16_needs_no_remedy(monkeypatch: pytest.MonkeyPatch, fast: bool, shown: str) -> None:
    monkeypatch.setattr(doctor, "has_fast_bfloat16", lambda: fast)
    assert found("CPU").status == "ok"
    assert found("CPU").detail.endswith(f"bfloat16 {shown}")


def test_every_finding_that_is_not_ok_has_a_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FASTCIFAR_DATA", str(tmp_path / "absent"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(doctor, "FREE_SPACE", float("inf"))
    monkeypatch.setattr(doctor, "import_module", lambda name: pytest.importorskip("no_such_package", exc_type=KeyError))
    findings = examine()
    assert {finding.name for finding in findings if finding.status == "warning"} >= {"disk", "FASTCIFAR_DATA"}
    for finding in findings:
        assert bool(finding.remedy) == (finding.status != "ok"), finding


@pytest.mark.parametrize(
    ("broken", "error", "typed"),
    [
        ("torch", ImportError("libcudart.so.13: cannot open shared object file"), "pip install --upgrade --force-rein"),
        ("torchvision", RuntimeError("operator torchvision::nms does not exist"), "must come from one build"),
        ("kornia", ModuleNotFoundError("No module named 'kornia'"), "python -m pip install --upgrade kornia"),
    ],
)
def test_a_package_that_does_not_load_is_named_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, broken: str, error: Exception, typed: str
) -> None:
    fail_to_import(monkeypatch, broken, error)
    finding = found(broken)
    assert finding.status == "missing"
    assert str(error) in finding.detail
    assert type(error).__name__ in finding.detail
    assert typed in finding.remedy


def test_a_missing_ffcv_is_a_warning_that_says_what_it_costs(no_ffcv: None, monkeypatch: pytest.MonkeyPatch) -> None:
    finding = found("ffcv")
    assert finding.status == "warning"
    assert finding.detail.startswith("not installed; the loader reads .beton files by memory map instead")
    assert finding.remedy.endswith("python -m pip install 'fastcifar[ffcv]'")
    monkeypatch.setattr("sys.platform", "darwin")
    assert found("ffcv").remedy == "none is needed; FFCV runs on Linux only"
    assert found("platform").status == "ok"


def test_ffcv_without_its_libraries_says_which_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("ffcv")
    monkeypatch.setenv("PATH", str(tmp_path))
    fail_to_import(monkeypatch, "ffcv", OSError("libopencv_core.so.406: cannot open shared object file"))
    finding = found("ffcv")
    assert finding.status == "warning"
    assert "OSError: libopencv_core.so.406: cannot open shared object file" in finding.detail
    assert finding.remedy.startswith("sudo apt-get install -y --no-install-recommends g++ pkg-config libopencv")
    assert finding.remedy.endswith("--no-deps ffcv==1.0.2")


def test_another_version_of_ffcv_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ffcv")
    versions = {"ffcv": "0.0.3"}
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: versions.get(name) or version(name))
    assert "it is version 0.0.3, and fastcifar uses the internals of 1.0.2" in found("ffcv").detail


def test_a_gpu_that_torch_does_not_see_is_a_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert found("CUDA").status == "ok"
    (tmp_path / "nvidia-smi").touch(mode=0o755)
    assert found("CUDA").status == "warning"
    assert "driver" in found("CUDA").remedy


@pytest.mark.parametrize("hidden", ["", "-1", "7"])
def test_gpus_that_are_hidden_are_not_a_reason_to_install_torch_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, hidden: str
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "nvidia-smi").touch(mode=0o755)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    (finding,) = doctor._cuda()
    assert finding.detail == f"no device is visible: CUDA_VISIBLE_DEVICES is {hidden!r}"
    assert finding.remedy == "unset CUDA_VISIBLE_DEVICES, to train on a GPU"


@pytest.mark.parametrize(
    ("capability", "detail"),
    [
        ((9, 0), "GPU of a test (sm_90), 16 GB, --amp trains in bfloat16"),
        ((7, 5), "GPU of a test (sm_75), 16 GB, --amp trains in float16"),
    ],
)
def test_a_gpu_is_described_with_the_precision_of_amp(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], detail: str
) -> None:
    imitate_gpus(monkeypatch, capability)
    assert doctor._cuda() == [Finding(name="cuda:0", status="ok", detail=detail)]


def test_a_gpu_without_kernels_is_a_warning_in_the_words_of_training(monkeypatch: pytest.MonkeyPatch) -> None:
    imitate_gpus(monkeypatch, (8, 0), (6, 0))
    what, remedy = missing_kernels(1)
    usable, unusable = doctor._cuda()
    assert usable.status == "ok"
    assert unusable == Finding(name="cuda:1", status="warning", detail=what, remedy=remedy)


def test_a_missing_compiler_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/bin/false")
    (finding,) = doctor._compiler()
    assert finding.status == "warning"
    assert finding.detail == "the compiler /bin/false fails: training runs without --compile"
    assert finding.remedy.startswith("install a C++ compiler")


@pytest.mark.gpu
def test_every_cuda_device_is_described() -> None:
    torch = pytest.importorskip("torch")
    devices = [finding for finding in examine() if finding.name.startswith("cuda:")]
    assert len(devices) == torch.cuda.device_count()
    assert all("--amp trains in" in device.detail for device in devices)


def test_betons_and_the_source_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FASTCIFAR_DATA", str(tmp_path))
    assert found("FASTCIFAR_DATA").status == "ok"
    assert found("data/betons").status == "warning"
    (tmp_path / "data/betons").mkdir(parents=True)
    for name in ("train.beton", "test.beton"):
        (tmp_path / "data/betons" / name).touch()
    assert found("data/betons").status == "ok"


def test_the_page_is_readable_at_80_columns_without_colour() -> None:
    text = rendered(UNHEALTHY)
    table, todo = text.split("\nWhat to do:\n")
    assert "\x1b" not in text
    assert max(map(len, table.splitlines())) <= 80
    assert "missing  ffcv    ImportError: [gone]" in table
    assert f"  ffcv: {UNHEALTHY[2].remedy}" in todo.splitlines()  # one line, so that it can be copied
    assert "Python" not in todo


def test_a_machine_without_problems_is_reported_as_such() -> None:
    assert rendered(UNHEALTHY[:1]).endswith("Nothing is missing.\n")
