"""A network's layers and totals as tables."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fastcifar.models.summary import LayerSummary, ModelSummary


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
