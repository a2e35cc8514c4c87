"""Pictures' most likely classes as a table."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fastcifar.training.prediction import PicturePrediction


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
