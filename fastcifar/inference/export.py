"""A run's network in files that other programs read, each of them checked on the test set before it is kept.

Each computes in float32, for any number of images at once. The graphs take uint8 images [N, 3, H, W] (in ONNX "images")
and give float32 logits [N, classes] ("logits"), the normalisation inside; the weights lie beside what it takes to make
the same of them.
"""

from __future__ import annotations

import importlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fastcifar.config import TrainConfig
from fastcifar.errors import ConfigError, ExportError
from fastcifar.files import atomic_write
from fastcifar.inference.evaluate import LoadedCheckpoint, load_classifier, open_test_loader
from fastcifar.models import model_from_config
from fastcifar.runs.checkpoint import CheckpointName

TOLERANCE = 1e-4
"""Largest difference of a logit that passes; also the distance of the two highest below which either may win."""
OPSET = 18
BATCH = 250
FORMAT_VERSION = 1

Logits = Callable[[torch.Tensor], torch.Tensor]
"""From uint8 images [N, 3, H, W] to float32 logits [N, classes]."""


class ExportedNetwork(nn.Module):
    """A network with its normalisation inside: uint8 images [N, 3, H, W] to float32 logits [N, classes]."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, model: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model((images.float() / 255 - self.mean) / self.std)
        return logits


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How an exported file does beside the network it was made of."""

    images: int
    largest_difference: float
    """Of any logit."""
    near_ties: int
    """Images whose two highest logits are within `TOLERANCE`; their predictions are not compared."""
    different_predictions: int
    """Among the others."""

    @property
    def holds(self) -> bool:
        """Whether the file may be kept."""
        return self.different_predictions == 0 and self.largest_difference <= TOLERANCE  # NaN is no agreement


@dataclass(frozen=True, kw_only=True)
class Export:
    """A file that was checked and kept."""

    path: Path
    bytes: int
    agreement: Agreement


@dataclass(frozen=True, kw_only=True)
class Format:
    """How a network becomes the bytes of a file, and how those become a function again."""

    file: str
    packages: tuple[str, ...]
    write: Callable[[ExportedNetwork, torch.Tensor, dict[str, Any]], bytes]
    """From the network, example images and the description."""
    open: Callable[[bytes, dict[str, Any]], Logits]


def export_checkpoint(
    run: Path,
    out: Path,
    formats: Sequence[str],
    checkpoint: CheckpointName = "last",
    *,
    data_dir: Path | None = None,
) -> Iterator[Export]:
    """Write a run's network to `out`, a file a format, and yield each when it has been checked and kept.

    Args:
        run: the run's folder.
        out: the folder to write to.
        formats: keys of `FORMATS`.
        checkpoint: the checkpoint.
        data_dir: folder with the test.beton to check on; the run's own if not given.

    Raises:
        CheckpointError: the checkpoint is missing or damaged, or the data has other classes or another image size.
        ConfigError: a package is not installed, or `out` is a run's folder.
        DataError: the .beton is missing or damaged.
        ExportError: what was exported does not compute what the network does; the file is not kept.
    """
    _require_packages([package for name in formats for package in FORMATS[name].packages])
    if (out / "metrics.jsonl").exists():
        raise ConfigError(f"{out}: is the folder of a run, whose config.json would be lost; choose another")
    changes = {} if data_dir is None else {"data_dir": data_dir}
    saved = load_classifier(run, checkpoint, device="cpu", amp=False, channels_last=False, **changes)
    with open_test_loader(saved) as loader:
        images = torch.cat([batch for batch, _ in loader.batches()]).contiguous()
    expected = compute(saved.classifier.logits, images)
    network, description = ExportedNetwork(saved.classifier.model, saved.mean, saved.std).eval(), describe(saved)
    example = images.new_zeros(2, *images.shape[1:])  # not a view: torch.export keeps its whole storage in the file
    out.mkdir(parents=True, exist_ok=True)
    for name in formats:
        form = FORMATS[name]
        data = form.write(network, example, description)
        agreement = compare(expected, compute(form.open(data, description), images))
        path = out / form.file
        if not agreement.holds:
            raise ExportError(
                f"{path}: not kept: of {agreement.images:,} images {agreement.different_predictions} are classified "
                f"otherwise than by the checkpoint, and a logit differs by {agreement.largest_difference:.2g}"
            )
        with atomic_write(path) as temporary:
            temporary.write_bytes(data)
        if name == "safetensors":
            with atomic_write(out / "config.json") as temporary:
                temporary.write_text(json.dumps(description, indent=2) + "\n")
        yield Export(path=path, bytes=len(data), agreement=agreement)


@torch.no_grad()
def compute(network: Logits, images: torch.Tensor) -> torch.Tensor:
    """float32 logits [N, classes] of uint8 images [N, 3, H, W], a batch at a time; the last may be smaller."""
    return torch.cat([network(batch) for batch in images.split(BATCH)])


def compare(expected: torch.Tensor, logits: torch.Tensor) -> Agreement:
    """Two networks' logits [N, classes] of the same images."""
    highest = expected.topk(2, dim=1).values
    near_tie = highest[:, 0] - highest[:, 1] <= TOLERANCE
    different = (expected.argmax(dim=1) != logits.argmax(dim=1)) & ~near_tie
    return Agreement(
        images=len(expected),
        largest_difference=(expected - logits).abs().max().item(),
        near_ties=int(near_tie.sum()),
        different_predictions=int(different.sum()),
    )


def describe(saved: LoadedCheckpoint) -> dict[str, Any]:
    """What goes with the weights, as plain JSON values; the settings but for the folders of the run's machine."""
    config = saved.config.to_json()
    return {
        "format_version": FORMAT_VERSION,
        "config": {name: value for name, value in config.items() if name not in ("data_dir", "run_dir")},
        "epoch": saved.epoch,
        "class_names": list(saved.class_names),
        "image_shape": list(saved.image_shape),
        "mean": list(saved.mean),
        "std": list(saved.std),
    }


def _require_packages(packages: Sequence[str]) -> None:
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise ConfigError(f"export needs {package} ({error}); pip install 'fastcifar[export]'") from error


def _trace(network: ExportedNetwork, images: torch.Tensor) -> torch.export.ExportedProgram:
    return torch.export.export(network, (images,), dynamic_shapes={"images": {0: torch.export.Dim("batch")}})


def _write_torch(network: ExportedNetwork, images: torch.Tensor, description: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.export.save(_trace(network, images), buffer, extra_files={"config.json": json.dumps(description)})
    return buffer.getvalue()


def _open_torch(data: bytes, description: dict[str, Any]) -> Logits:
    module: Logits = torch.export.load(io.BytesIO(data)).module()
    return module


def _write_onnx(network: ExportedNetwork, images: torch.Tensor, description: dict[str, Any]) -> bytes:
    program = torch.onnx.export(
        network,
        (images,),
        dynamo=True,
        opset_version=OPSET,
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
        verbose=False,
    )
    assert program is not None
    program.model.metadata_props["config"] = json.dumps(description)
    return program.model_proto.SerializeToString()  # type: ignore[no-any-return]


def _open_onnx(data: bytes, description: dict[str, Any]) -> Logits:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


def _write_safetensors(network: ExportedNetwork, images: torch.Tensor, description: dict[str, Any]) -> bytes:
    from safetensors.torch import save

    tensors = {name: tensor.contiguous() for name, tensor in network.model.state_dict().items()}
    return save(tensors, metadata={"format": "pt"})


def _open_safetensors(data: bytes, description: dict[str, Any]) -> Logits:
    from safetensors.torch import load

    model = model_from_config(TrainConfig.from_json(description["config"]).model, len(description["class_names"]))
    model.load_state_dict(load(data))
    return ExportedNetwork(model, description["mean"], description["std"]).eval()


FORMATS = {
    "onnx": Format(
        file="model.onnx", packages=("onnx", "onnxscript", "onnxruntime"), write=_write_onnx, open=_open_onnx
    ),
    "torch": Format(file="model.pt2", packages=(), write=_write_torch, open=_open_torch),
    "safetensors": Format(
        file="model.safetensors", packages=("safetensors",), write=_write_safetensors, open=_open_safetensors
    ),
}
