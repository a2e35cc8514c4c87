"""`fastcifar summary`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from fastcifar.checks import AT_LEAST_1, check
from fastcifar.errors import ConfigError
from fastcifar.files import dump_json
from fastcifar.report.terminal import make_console
from fastcifar.settings import ModelSettings

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class Summary(ModelSettings):
    """Show a network's layers, parameters, multiply-adds and receptive fields.

    The table also has shapes and memory. The receptive field is the theoretical one: the side of the square of input
    pixels, padding included, that can affect one position of a layer's output, along the longest path through the
    network.
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[MODEL]")] = ModelSettings.model
    """Name of the network."""
    num_classes: int = 10
    """Number of classes, which is the number of logits."""
    batch_size: int = 1
    """Images per batch, for the multiply-adds and the memory."""
    folder: Annotated[Path | None, tyro.conf.arg(name="run")] = None
    """Run folder whose network to show, instead of a network by name."""
    json: bool = False
    """Print one JSON object instead of a table."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, num_classes=AT_LEAST_1, batch_size=AT_LEAST_1)

    def run(self) -> int:
        """Run the network once on a batch of zeros and print the table."""
        from fastcifar.analysis.model_summary import summarize
        from fastcifar.models import model_from_config
        from fastcifar.report.summary import show_summary

        if self.folder is None:
            title, image_shape = self.model, (3, 32, 32)
            model = model_from_config(self, self.num_classes)
        else:
            title, model, image_shape = self._from_run(self.folder)
        summary = summarize(model, image_shape, batch_size=self.batch_size)
        if self.json:
            print(dump_json(summary.to_json()))
        else:
            show_summary(title, summary, make_console())
        return 0

    def _from_run(self, folder: Path) -> tuple[str, nn.Module, tuple[int, int, int]]:
        from fastcifar.runs.checkpoint import checkpoint_path, create_saved_model, read_checkpoint

        network = [field.name for field in dataclasses.fields(ModelSettings)] + ["num_classes"]
        defaults = Summary()
        if changed := [name for name in network if getattr(self, name) != getattr(defaults, name)]:
            raise ConfigError(f"--run cannot be combined with {', '.join(changed)}: both choose the network")
        path = checkpoint_path(folder, "last")
        values = read_checkpoint(path)
        height, width, channels = values["image_shape"]
        title = f"{values['config']['model']}, as trained in {folder}"
        return title, create_saved_model(path, values), (channels, height, width)
