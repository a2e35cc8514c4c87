"""`fastcifar summary`."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console

from fastcifar.errors import ConfigError
from fastcifar.settings import ModelSettings

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class Summary(ModelSettings):
    """Show a network's layers, shapes, parameters, multiply-adds, receptive fields and memory.

    The receptive field is the theoretical one: the pixels, along the longest path through the network, from the first
    to the last that can matter to one position of a layer's output, those of the padding around the image counted."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[MODEL]")] = "custom_resnet"
    """Name of the network."""
    num_classes: int = 10
    """Logits that it gives."""
    batch_size: int = 1
    """Images that multiply-adds and memory are counted for."""
    folder: Annotated[Path | None, tyro.conf.arg(name="run")] = None
    """Take the network of the run in this folder, in place of a name and its variants."""
    json: bool = False
    """Print one JSON object instead of a table."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in ("num_classes", "batch_size"):
            if getattr(self, field) < 1:
                raise ConfigError(f"{field} is {getattr(self, field)}; it must be at least 1")

    def run(self) -> int:
        """Run the network once on a blank batch."""
        from fastcifar.analysis.model_summary import summarize
        from fastcifar.models import model_from_config
        from fastcifar.report.summary import show_summary

        if self.folder is None:
            title, image_shape = self.model, (3, 32, 32)
            model = model_from_config(self, self.num_classes)
        else:
            title, model, image_shape = self._of_run(self.folder)
        summary = summarize(model, image_shape, batch_size=self.batch_size)
        if self.json:
            print(json.dumps(summary.to_json()))
        else:
            show_summary(title, summary, Console(highlight=False))
        return 0

    def _of_run(self, folder: Path) -> tuple[str, nn.Module, tuple[int, int, int]]:
        from fastcifar.runs.checkpoint import checkpoint_path, create_saved_model, read_checkpoint

        network = [field.name for field in dataclasses.fields(ModelSettings)] + ["num_classes"]
        defaults = Summary()
        if changed := [name for name in network if getattr(self, name) != getattr(defaults, name)]:
            raise ConfigError(f"--run names a network, and so does {', '.join(changed)}: give one of them")
        path = checkpoint_path(folder, "last")
        values = read_checkpoint(path)
        height, width, channels = values["image_shape"]
        title = f"{values['config']['model']}, as trained in {folder}"
        return title, create_saved_model(path, values), (channels, height, width)
