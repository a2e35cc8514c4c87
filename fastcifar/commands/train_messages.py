"""The texts of `fastcifar train` before, between and after the rows of the epochs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastcifar.report.console import RunHeader, TrainingConsole
    from fastcifar.runs.results import EpochResult
    from fastcifar.training.state import TrainState


def announce(state: TrainState, console: TrainingConsole) -> None:
    """Say how long the run will take, and what comes before its first step."""
    from fastcifar.report.units import format_rough_duration
    from fastcifar.training.estimate import estimate_seconds

    console.progress.start("measuring the speed")
    seconds = estimate_seconds(state)
    if seconds is not None:
        console.say(f"Training takes about {format_rough_duration(seconds)} on this machine")
    if state.runtime.compile_mode:
        console.say("Compiling network and augmentation, before the clock starts")
    console.progress.start("warming up")


def why_finished(state: TrainState, results: list[EpochResult]) -> str:
    """Say why nothing is left to train in a run with these results."""
    target = state.config.target_accuracy
    if target is None or state.best_accuracy < target:
        return "All epochs are done: nothing is left to train"
    epoch = next((result.epoch for result in results if result.test_accuracy >= target), state.best_epoch)
    return f"The run met its target of {100 * target:.4g} % in epoch {epoch}: nothing is left to train"


def progress_in_words(state: TrainState) -> str:
    """Return the progress of a run in words."""
    steps = f" and {state.epoch_steps_done} steps" if state.epoch_steps_done else ""
    return f"after epoch {state.epochs_done}{steps}"


def run_header(state: TrainState) -> RunHeader:
    """Return the facts that the console shows before the first step."""
    from fastcifar.report.console import RunHeader

    config, evaluated = state.config, state.test_loader.samples
    split = "validation" if config.data.val_fraction else "test"
    return RunHeader(
        device=state.runtime.describe_device(),
        precision=state.runtime.describe_precision(),
        model=config.model.model,
        parameters=sum(parameter.numel() for parameter in state.classifier.model.parameters()),
        recipe=config.name,
        images=f"{state.manifest.name}: {_training_images(state)}, {evaluated:,} {split} images",
        epochs=config.epochs,
        batch_size=config.data.batch_size,
    )


def _training_images(state: TrainState) -> str:
    """Return the number of training images, and how they were chosen from others."""
    from fastcifar.data.variation import describe_subset

    count, data, manifest = len(state.train_loader.indices), state.config.data, state.manifest
    chosen = [manifest.describe_variations()] if manifest.variations else []
    if data.subset is not None:
        chosen.append(f"{describe_subset(data.subset)}, seed {state.config.runtime.seed}")
    if not chosen:
        return f"{count:,} training images"
    whole = manifest.variations[0].source_samples[0] if manifest.variations else manifest.samples
    return f"{count:,} of {whole:,} training images ({'; '.join(chosen)})"
