"""Export a run's network to ONNX, torch.export and safetensors files, and check each file on the test set.

The ONNX and torch.export files take a batch of any number of uint8 images [N, 3, H, W] ("images" in ONNX), include the
normalisation, and return float32 logits [N, classes] ("logits"). The safetensors file holds only the weights; the
config.json beside it describes the network and its normalisation.
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

from fastcifar.augment import normalization_scale
from fastcifar.config import TrainConfig
from fastcifar.errors import ConfigError, ExportError
from fastcifar.extras import needs_extra
from fastcifar.files import atomic_write, write_json
from fastcifar.inference.evaluate import LoadedCheckpoint, load_classifier, open_test_loader
from fastcifar.models import model_from_config
from fastcifar.runs.checkpoint import CheckpointName
from fastcifar.runs.data import require_betons

TOLERANCE = 1e-4
"""Largest allowed absolute difference of a logit. Images with two highest logits this close may get another class."""
OPSET = 18
BATCH = 250
FORMAT_VERSION = 1

Logits = Callable[[torch.Tensor], torch.Tensor]
"""A function from uint8 images [N, 3, H, W] to float32 logits [N, classes]."""


class ExportedNetwork(nn.Module):
    """A network that includes the normalisation: uint8 images [N, 3, H, W] to float32 logits [N, classes]."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, model: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(normalization_scale(std)).view(1, -1, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits of images."""
        logits: torch.Tensor = self.model((images.float() / 255 - self.mean) / self.std)
        return logits


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """The comparison of an exported file with the network of its checkpoint, over a test set."""

    images: int
    """Images in the test set."""
    largest_difference: float
    """Largest absolute difference of a logit."""
    near_ties: int
    """Images whose two highest logits differ by at most `TOLERANCE`; their predictions are not compared."""
    different_predictions: int
    """Other images for which the predicted classes differ."""

    @property
    def holds(self) -> bool:
        """Whether the file's logits and predictions agree with the checkpoint's, so that it may be kept."""
        return self.different_predictions == 0 and self.largest_difference <= TOLERANCE  # False for NaN


@dataclass(frozen=True, kw_only=True)
class Export:
    """An exported file."""

    path: Path
    bytes: int
    """The size of the file."""
    agreement: Agreement | None
    """The result of the check, which the file passed; None if it was not checked."""


@dataclass(frozen=True)
class Format:
    """A file format: its file name, the packages it needs, and functions to write and to open a file."""

    file: str
    packages: tuple[str, ...]
    write: Callable[[ExportedNetwork, torch.Tensor, dict[str, Any]], bytes]
    """Returns the content of the file, given the network, example images and the description from `describe`."""
    open: Callable[[bytes, dict[str, Any]], Logits]
    """Returns the function that computes logits, given the content of the file and the description."""


def export_checkpoint(
    run: Path,
    out: Path,
    formats: Sequence[str],
    checkpoint: CheckpointName = "last",
    *,
    data_dir: Path | None = None,
    check: bool = True,
) -> Iterator[Export]:
    """Write a run's network to one file in `out` per format, and yield each file after it passed the check.

    `formats` are keys of `FORMATS`. The check reads test.beton in `data_dir`; in the run's `data_dir` if not given.
    Without `check`, no data is needed, and nothing is checked.

    Raises:
        CheckpointError: the checkpoint is missing or damaged, or the data has other classes or another image size.
        ConfigError: a package is not installed, or `out` is a run folder.
        DataError: the .beton is missing or damaged.
        ExportError: the logits of an exported file differ from the checkpoint's; the file is not written.
    """
    _require_packages([package for name in formats for package in FORMATS[name].packages])
    if (out / "metrics.jsonl").exists():
        raise ConfigError(f"{out}: is a run folder, whose config.json would be overwritten; choose another folder")
    changes = {} if data_dir is None else {"data_dir": data_dir}
    loaded = load_classifier(run, checkpoint, device="cpu", amp=False, channels_last=False, **changes)
    images = _read_test_images(loaded) if check else None
    expected = None if images is None else compute(loaded.classifier.logits, images)
    network, description = ExportedNetwork(loaded.classifier.model, loaded.mean, loaded.std).eval(), describe(loaded)
    height, width, channels = loaded.image_shape
    example = torch.zeros(2, channels, height, width, dtype=torch.uint8)
    out.mkdir(parents=True, exist_ok=True)
    for name in formats:
        file_format = FORMATS[name]
        path, data = out / file_format.file, file_format.write(network, example, description)
        agreement = None
        if images is not None and expected is not None:
            agreement = _require_agreement(path, expected, compute(file_format.open(data, description), images))
        with atomic_write(path) as temporary:
            temporary.write_bytes(data)
        if name == "safetensors":
            write_json(out / "config.json", description)
        yield Export(path=path, bytes=len(data), agreement=agreement)


def _read_test_images(loaded: LoadedCheckpoint) -> torch.Tensor:
    """Read the whole test set: uint8 [N, 3, H, W]."""
    require_betons(loaded.path, loaded.config.data.data_dir, ["test"], otherwise="use --no-check")
    with open_test_loader(loaded) as loader:
        return torch.cat([batch for batch, _ in loader.batches()]).contiguous()


def _require_agreement(path: Path, expected: torch.Tensor, logits: torch.Tensor) -> Agreement:
    agreement = compare(expected, logits)
    if not agreement.holds:
        raise ExportError(
            f"{path}: not written, since it differs from the checkpoint: of {agreement.images:,} images "
            f"{agreement.different_predictions} get another class, and logits differ by up to "
            f"{agreement.largest_difference:.2g}"
        )
    return agreement


@torch.no_grad()
def compute(network: Logits, images: torch.Tensor) -> torch.Tensor:
    """Compute the float32 logits [N, classes] of uint8 images [N, 3, H, W] in batches; the last may be smaller."""
    return torch.cat([network(batch) for batch in images.split(BATCH)])


def compare(expected: torch.Tensor, logits: torch.Tensor) -> Agreement:
    """Compare the logits [N, classes] of an exported file with the checkpoint's, for the same images."""
    highest = expected.topk(2, dim=1).values
    near_tie = highest[:, 0] - highest[:, 1] <= TOLERANCE
    different = (expected.argmax(dim=1) != logits.argmax(dim=1)) & ~near_tie
    return Agreement(
        images=len(expected),
        largest_difference=(expected - logits).abs().max().item(),
        near_ties=int(near_tie.sum()),
        different_predictions=int(different.sum()),
    )


def describe(loaded: LoadedCheckpoint) -> dict[str, Any]:
    """Describe the network and its data as plain JSON values, including all settings except paths."""
    config = loaded.config.to_json()
    return {
        "format_version": FORMAT_VERSION,
        "config": {name: value for name, value in config.items() if name not in ("data_dir", "run_dir")},
        "epoch": loaded.epoch,
        "class_names": list(loaded.class_names),
        "image_shape": list(loaded.image_shape),
        "mean": list(loaded.mean),
        "std": list(loaded.std),
    }


def _require_packages(packages: Sequence[str]) -> None:
    for package in packages:
        with needs_extra("export", "export"):
            importlib.import_module(package)


def _write_torch(network: ExportedNetwork, images: torch.Tensor, description: dict[str, Any]) -> bytes:
    program = torch.export.export(network, (images,), dynamic_shapes={"images": {0: torch.export.Dim("batch")}})
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={"config.json": json.dumps(description)})
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
    "onnx": Format("model.onnx", ("onnx", "onnxscript", "onnxruntime"), _write_onnx, _open_onnx),
    "torch": Format("model.pt2", (), _write_torch, _open_torch),
    "safetensors": Format("model.safetensors", ("safetensors",), _write_safetensors, _open_safetensors),
}
