"""A checkpoint's figures as a table."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from fastcifar.training.evaluation import Evaluation


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
