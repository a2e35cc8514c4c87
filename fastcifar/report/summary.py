"""Tables on the console: a network's layers, an evaluation, predictions, and what a .beton holds."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fastcifar.analysis.model_summary import LayerSummary, ModelSummary
from fastcifar.data.manifest import open_beton
from fastcifar.files import atomic_write
from fastcifar.inference.evaluate import Evaluation
from fastcifar.inference.predict import PicturePrediction


def show_summary(title: str, summary: ModelSummary, console: Console) -> None:
    """Print a row a layer, the stages' in bold with their sums, then the shapes after the stages and the totals."""
    console.print(Text(title, style="bold"), soft_wrap=True)
    table = Table("layer", "output")
    for column in ("parameters", "multiply-adds", "field"):
        table.add_column(column, justify="right")
    for layer in summary.layers:
        table.add_row(*_row(layer), style="bold" if layer.depth == 1 else None)
    console.print(table)
    facts = _facts(summary)
    width = max(map(len, facts))
    for name, value in facts.items():
        console.print(f"{name:<{width}}  {value}", markup=False, soft_wrap=True)
    console.print(
        "\nfield: side in pixels of the theoretical receptive field, along the longest path, padding counted.\n"
        "multiply-adds: convolutions and linear layers, and one a bias and a parameter of a batch norm (torchinfo).\n"
        "MB: 1,000,000 bytes; MiB: 1,048,576 bytes.",
        markup=False,
        soft_wrap=True,
    )


def _row(layer: LayerSummary) -> list[str]:
    indent = " " * (layer.depth - 1)  # one column a level leaves the rows of custom_resnet whole in a terminal of 80
    label = f"{indent}{layer.name.rpartition('.')[2]}: {layer.kind}"
    if layer.has_children and layer.depth > 1:
        return [label, "", "", "", ""]  # the numbers are those of what is inside
    return [
        label,
        _shape(layer.output_shape),
        f"{layer.parameters:,}" if layer.parameters else "",
        f"{layer.multiply_adds:,}" if layer.multiply_adds else "",
        _field(layer),
    ]


def _facts(summary: ModelSummary) -> dict[str, str]:
    batch, *image = summary.input_shape
    counts = {"trained": summary.trainable_parameters, "fixed": summary.parameters - summary.trainable_parameters}
    apart = " (" + ", ".join(f"{count:,} {name}" for name, count in counts.items()) + ")" if counts["fixed"] else ""
    total = summary.input_bytes + summary.forward_backward_bytes + summary.parameter_bytes
    return {
        "shapes": " → ".join(
            [_shape(tuple(image)), *(f"{stage.name} {_shape(stage.output_shape)}" for stage in summary.stages)]
        ),
        "batch": f"{batch} image" + ("s" if batch > 1 else ""),
        "parameters": f"{summary.parameters:,}{apart}",
        "multiply-adds": f"{summary.multiply_adds / 1e6:,.2f} M",
        "input": _size(summary.input_bytes),
        "forward/backward": _size(summary.forward_backward_bytes),
        "weights": _size(summary.parameter_bytes),
        "together": _size(total),
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
    """Print accuracy and loss, and a row a class."""
    console.print(f"{evaluation.checkpoint}, epoch {evaluation.epoch}", markup=False)
    console.print(f"{evaluation.device}; {evaluation.precision}", markup=False)
    table = Table(title=None)
    table.add_column("class")
    table.add_column("accuracy", justify="right")
    for name, accuracy in evaluation.class_accuracy.items():
        table.add_row(name, f"{100 * accuracy:.2f} %")
    table.add_section()
    table.add_row("all", f"{100 * evaluation.accuracy:.2f} %")
    console.print(table)
    measured = f"{evaluation.samples:,} images in {evaluation.seconds:.1f} s"
    console.print(f"test loss {evaluation.loss:.4f} over {measured}", markup=False)


def show_predictions(predictions: Iterable[PicturePrediction], console: Console) -> None:
    """Print a row a class and a section a picture."""
    table = Table()
    table.add_column("image", overflow="fold")
    table.add_column("class")
    table.add_column("probability", justify="right")
    for prediction in predictions:
        name = prediction.image
        for each in prediction.likely:
            table.add_row(Text(name), Text(each.class_name), f"{100 * each.probability:.2f} %")
            name = ""
        table.add_section()
    console.print(table)


PER_CLASS = 10
"""Pictures in a row of the PNG."""
SCALE = 2
"""Each pixel is drawn as so many by so many."""
GAP = 4
"""Pixels between two pictures."""


def show_beton(path: Path, console: Console, *, verify: bool = True) -> None:
    """Print the manifest and the number of images of each class, after checking the file.

    Raises:
        DataError: the file or its manifest is missing or damaged, or they disagree.
    """
    layout, manifest = open_beton(path, verify=verify)
    height, width, channels = manifest.image_shape
    facts = {
        "content": f"{manifest.name}, {manifest.samples:,} images of {height} × {width} × {channels}, uint8",
        "mean": "  ".join(f"{value:.8f}" for value in manifest.mean),
        "std": "  ".join(f"{value:.8f}" for value in manifest.std),
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
        table.add_row(str(label), name, f"{count:,}")
    console.print(table)


def draw_samples(path: Path, png: Path) -> None:
    """Draw the first pictures of each class, a row a class in the order of the labels, into a PNG.

    Raises:
        DataError: the file or its manifest is missing or damaged.
    """
    layout, manifest = open_beton(path, verify=False)
    images = layout.images()
    height, width = layout.height * SCALE + GAP, layout.width * SCALE + GAP
    sheet = np.full((len(manifest.class_names) * height + GAP, PER_CLASS * width + GAP, 3), 255, dtype=np.uint8)
    for label in range(len(manifest.class_names)):
        for column, index in enumerate(np.flatnonzero(layout.labels == label)[:PER_CLASS]):
            picture = images[index].repeat(SCALE, axis=0).repeat(SCALE, axis=1)
            top, left = label * height + GAP, column * width + GAP
            sheet[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    png.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(png) as temporary:
        Image.fromarray(sheet).save(temporary, format="PNG")
