"""Print the losses of a recipe's first steps, to compare two versions of the code bit for bit on one machine.

    python -m tests.first_losses era era-fast speedrun course-c --betons data/betons --out losses.json

The training is in float32 on the CPU. Two outputs are equal if every loss is.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from fastcifar import get_recipe
from fastcifar.training.loop import train_epoch
from fastcifar.training.state import create_state
from fastcifar.training.step import StepMetrics, run_step


def first_losses(recipe: str, data_dir: Path, steps: int, **changes: object) -> list[str]:
    """The losses of the first steps, as hexadecimal floats, through the training loop's own functions."""
    losses: list[str] = []
    config = get_recipe(recipe, data_dir=data_dir, device="cpu", amp=False, **changes)
    with create_state(config) as state:
        state.train_loader.warm_up()

        def record(*arguments: Any) -> StepMetrics:
            metrics = run_step(state, *arguments)
            losses.append(metrics.loss.item().hex())
            if len(losses) == steps:
                raise StopIteration
            return metrics

        while len(losses) < steps and state.epochs_done < state.epochs:
            try:
                train_epoch(state, record)
            except StopIteration:
                break
            state.finish_epoch(0.0)
    return losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="+")
    parser.add_argument("--betons", type=Path, default=Path("data/betons"), help="folder of the .beton files")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--batch-size", type=int, help="instead of the recipe's own")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    arguments = parser.parse_args()
    changes = {} if arguments.batch_size is None else {"batch_size": arguments.batch_size}
    losses = {
        recipe: first_losses(recipe, arguments.betons, arguments.steps, **changes) for recipe in arguments.recipes
    }
    arguments.out.write_text(json.dumps(losses, indent=1) + "\n")


if __name__ == "__main__":
    main()
