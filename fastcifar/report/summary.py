"""Tables on the console: the layers of a network, an evaluation, predictions, and the content of a .beton file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from fastcifar.analysis.model_summary import LayerSummary, ModelSummary
from fastcifar.data.beton_format import BetonIndex
from fastcifar.data.manifest import Manifest, open_beton, read_true_labels
from fastcifar.files import atomic_write
from fastcifar.inference.evaluate import Evaluation
from fastcifar.inference.predict import PicturePrediction
from fastcifar.names import list_names
from fastcifar.report.units import format_percent

PER_CLASS = 10
"""Images in a row of the PNG."""
SCALE = 2
"""Side of the square that a pixel is drawn as."""
GAP = 4
"""Pixels between two images."""
MAX_CLASSES = 20
"""Of more classes than this, only those with the lowest recall are shown."""


def show_summary(title: str, summary: ModelSummary, console: Console) -> None:
    """Print one row per layer, stages in bold with their totals, then the shapes after the stages and the totals."""
    console.print(Text(title, style="bold"), soft_wrap=True)
    numbers = (Column(name, justify="right") for name in ("parameters", "multiply-adds", "field"))
    table = Table("layer", "output", *numbers)
    for layer in summary.layers:
        table.add_row(*map(Text, _row(layer)), style="bold" if layer.depth == 1 else None)
    console.print(table)
    for name, value in _facts(summary).items():
        console.print(f"{name:<16}  {value}", markup=False, soft_wrap=True)
    notes = (
        "\nfield: side of the theoretical receptive field in pixels, along the longest path, including padding.\n"
        "multiply-adds: convolutions and linear layers, one per output with a bias, one per batch-norm parameter.\n"
        "MB: 1,000,000 bytes; MiB: 1,048,576 bytes."
    )
    console.print(notes, markup=False, soft_wrap=True)


def _row(layer: LayerSummary) -> list[str]:
    indent = " " * (layer.depth - 1)  # one column per level: the rows of custom_resnet fit into 80 columns
    label = f"{indent}{layer.name.rpartition('.')[2]}: {layer.kind}"
    if layer.has_children and layer.depth > 1:
        return [label, "", "", "", ""]  # its children have the numbers
    return [
        label,
        _shape(layer.output_shape),
        f"{layer.parameters:,}" if layer.parameters else "",
        f"{layer.multiply_adds:,}" if layer.multiply_adds else "",
        _field(layer),
    ]


def _facts(summary: ModelSummary) -> dict[str, str]:
    batch, *image = summary.input_shape
    counts = {"trainable": summary.trainable_parameters, "fixed": summary.parameters - summary.trainable_parameters}
    split = " (" + ", ".join(f"{count:,} {name}" for name, count in counts.items()) + ")" if counts["fixed"] else ""
    total = summary.input_bytes + summary.forward_backward_bytes + summary.parameter_bytes
    stages = (f"{stage.name} {_shape(stage.output_shape)}" for stage in summary.stages)
    return {
        "shapes": " → ".join([_shape(tuple(image)), *stages]),
        "batch": f"{batch} image" + ("s" if batch > 1 else ""),
        "parameters": f"{summary.parameters:,}{split}",
        "multiply-adds": f"{summary.multiply_adds / 1e6:,.2f} M",
        "input": _size(summary.input_bytes),
        "forward/backward": _size(summary.forward_backward_bytes),
        "weights": _size(summary.parameter_bytes),
        "total": _size(total),
    }


def _shape(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))


def _field(layer: LayerSummary) -> str:
    if layer.receptive_field is None:
        return ""
    height, width = layer.receptive_field
    return str(height) if height == width else f"{height} × {width}"


def _size(count: int) -> str:
    return f"{count / 1e6:.2f} MB ({count / 2**20:.2f} MiB)"


def show_evaluation(evaluation: Evaluation, console: Console) -> None:
    """Print recall and precision per class, worst first where there are many classes, and the overall figures."""
    console.print(f"{evaluation.checkpoint}, epoch {evaluation.epoch}", markup=False)
    console.print(f"{evaluation.device}; {evaluation.precision}", markup=False)
    names = [name for name, count in evaluation.class_images.items() if count]
    table = Table("class", *(Column(name, justify="right") for name in ("images", "recall", "precision")))
    for name in _shown_classes(evaluation, names):
        shares = (format_percent(share[name]) for share in (evaluation.class_accuracy, evaluation.class_precision))
        table.add_row(Text(name), f"{evaluation.class_images[name]:,}", *shares)  # a class may be called [red]
    console.print(table)
    if len(names) > MAX_CLASSES:
        console.print(f"The {MAX_CLASSES} of {len(names)} classes with the lowest recall; --json has all.")
    if missing := [name for name, count in evaluation.class_images.items() if not count]:
        console.print(f"Left out, without test images: {list_names(missing, MAX_CLASSES)}", markup=False)
    for label, value in _overall(evaluation).items():
        console.print(f"{label:<26}  {value}", markup=False)


def _shown_classes(evaluation: Evaluation, names: list[str]) -> list[str]:
    if len(names) <= MAX_CLASSES:
        return names
    return sorted(names, key=evaluation.class_accuracy.__getitem__)[:MAX_CLASSES]


def _overall(evaluation: Evaluation) -> dict[str, str]:
    top5 = {} if evaluation.top5_accuracy is None else {"top-5 accuracy": format_percent(evaluation.top5_accuracy)}
    return {
        "accuracy": format_percent(evaluation.accuracy),
        "balanced accuracy": format_percent(evaluation.balanced_accuracy),
        **top5,
        "expected calibration error": format_percent(evaluation.calibration_error),
        "test loss": f"{evaluation.loss:.4f}",
        "images": f"{evaluation.samples:,} in {evaluation.seconds:.1f} s",
    }


def show_predictions(predictions: Iterable[PicturePrediction], console: Console) -> None:
    """Print each picture's path, and one line per class with its probability, as soon as it is predicted."""
    for prediction in predictions:
        console.print(prediction.image, markup=False, soft_wrap=True)
        width = max(cell_len(each.class_name) for each in prediction.likely)
        for each in prediction.likely:
            name = set_cell_size(each.class_name, width)
            console.print(f"  {name}  {format_percent(each.probability):>8}", markup=False, soft_wrap=True)


def show_beton(path: Path, console: Console, *, verify: bool = True) -> None:
    """Check a .beton file, then print its manifest and the number of images per class.

    Raises:
        DataError: the file or its manifest is missing or damaged, or they disagree.
    """
    layout, manifest = open_beton(path, verify=verify)
    height, width, channels = manifest.image_shape
    facts = {
        "content": f"{manifest.name}, {manifest.samples:,} images of {height} × {width} × {channels}, uint8",
        "mean": "  ".join(f"{value:.8f}" for value in manifest.mean),
        "std": "  ".join(f"{value:.8f}" for value in manifest.std),
        "source": manifest.source or "not known",
        **_variation_facts(layout, manifest),
        "file": f"{manifest.file_size:,} bytes, manifest version {manifest.format_version}",
        "file SHA-256": manifest.file_sha256 if verify else f"{manifest.file_sha256} (not checked)",
        "content SHA-256": manifest.content_sha256,
    }
    console.print(str(path), markup=False, soft_wrap=True)
    for name, value in facts.items():
        console.print(f"  {name:<16}{value}", markup=False, soft_wrap=True)
    table = Table("label", "class", "images")
    counts = np.bincount(layout.labels, minlength=len(manifest.class_names))
    for label, (name, count) in enumerate(zip(manifest.class_names, counts.tolist(), strict=True)):
        table.add_row(str(label), Text(name), f"{count:,}")
    console.print(table)


def _variation_facts(layout: BetonIndex, manifest: Manifest) -> dict[str, str]:
    """Return how the data set was made from another one, and the number of its labels that are wrong on purpose."""
    facts = {"variation": manifest.describe_variations()} if manifest.variations else {}
    true = read_true_labels(manifest)
    if true is None:
        return facts
    wrong = int((true != layout.labels).sum())
    return facts | {"wrong labels": f"{wrong:,} ({format_percent(wrong / manifest.samples)}), put in on purpose"}


def draw_samples(path: Path, png: Path) -> None:
    """Draw the first images of each class as a PNG, one row per class in the order of the labels.

    Raises:
        DataError: the file or its manifest is missing or damaged.
    """
    layout, manifest = open_beton(path, verify=False)
    height, width = layout.height * SCALE + GAP, layout.width * SCALE + GAP
    sheet = np.full((len(manifest.class_names) * height + GAP, PER_CLASS * width + GAP, 3), 255, dtype=np.uint8)
    for label in range(len(manifest.class_names)):
        for column, index in enumerate(np.flatnonzero(layout.labels == label)[:PER_CLASS]):
            image = layout.images([index])[0].repeat(SCALE, axis=0).repeat(SCALE, axis=1)
            top, left = label * height + GAP, column * width + GAP
            sheet[top : top + image.shape[0], left : left + image.shape[1]] = image
    png.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(png) as temporary:
        Image.fromarray(sheet).save(temporary, format="PNG")
