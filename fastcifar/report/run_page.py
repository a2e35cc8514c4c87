"""The page of one run."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from fastcifar.analysis.mistakes import Analysis, AugmentedSamples, analyze, draw_augmented
from fastcifar.data.pair import SPLITS
from fastcifar.data.variation import describe_subset
from fastcifar.errors import ConfigError, FastCifarWarning
from fastcifar.inference.corruption_errors import MADE_FILE, PUBLISHED_FILE, read_corruption_errors
from fastcifar.inference.evaluate import LoadedCheckpoint, load_classifier
from fastcifar.report import figures, html, image_figures
from fastcifar.report.corruptions import corruption_errors
from fastcifar.report.fonts import show_missing_characters
from fastcifar.report.progress import ProgressDisplay
from fastcifar.report.units import format_duration, format_percent
from fastcifar.runs.checkpoint import CheckpointName
from fastcifar.runs.data import NAME_FOLDER, has_betons, require_betons
from fastcifar.runs.record import RunRecord, read_record

MAX_MISTAKES = 200
"""A figure with more images would be too tall for browsers and drawing libraries."""


def write_report(
    run: Path,
    *,
    out: Path | None = None,
    checkpoint: CheckpointName = "last",
    top: int = 20,
    device: str = "auto",
    data_dir: Path | None = None,
) -> Path:
    """Write a run's figures and report.html, from its folder and its .beton files, and return the path of report.html.

    Args:
        run: the run folder.
        out: folder to write into; `report` in the run folder if not given.
        checkpoint: the checkpoint to evaluate on the test set.
        top: number of the most confident mistakes to show, from 1 to 200.
        device: device to compute on, such as 'cpu' or 'cuda'.
        data_dir: folder with the .beton files, if not the one that the configuration names.

    Raises:
        CheckpointError: the folder is not a run folder or has no such checkpoint, or the data has other classes.
        ConfigError: `top` is out of range.
        DataError: a .beton file is damaged, or is not in `data_dir`.

    Warns:
        FastCifarWarning: a .beton file is not in the folder that the configuration names, so that the figures that need
            it are left out; or the data is not the run's.
    """
    if not 1 <= top <= MAX_MISTAKES:
        raise ConfigError(f"top is {top}; it must be from 1 to {MAX_MISTAKES}")
    record = read_record(run)
    changes = {} if data_dir is None else {"data_dir": data_dir}
    saved = load_classifier(run, checkpoint, device=device, **changes)
    has_train, has_test = _find_betons(run, saved.config.data.data_dir, required=data_dir is not None)
    with ProgressDisplay() as display:
        analysis = analyze(saved, top=top, on_progress=display.show) if has_test else None
        samples = draw_augmented(saved) if has_train else None
        display.start("drawing the figures")
        path = _write_page(out or run / "report", record, saved, analysis, samples, checkpoint)
    show_missing_characters(saved.class_names)
    return path


def _find_betons(run: Path, folder: Path, *, required: bool) -> list[bool]:
    """Return whether train.beton and test.beton are in the folder; if not, raise an error or warn."""
    found = [has_betons(folder, [split]) for split in SPLITS]
    if required:
        require_betons(run, folder)
    elif not all(found):
        figures_without = ("the augmented images", "the results on the test set")
        left_out = " and ".join(text for there, text in zip(found, figures_without, strict=True) if not there)
        text = f"{run}: its data is not in {folder.absolute()}: the report leaves out {left_out}; {NAME_FOLDER}"
        warnings.warn(text, FastCifarWarning, stacklevel=3)
    return found


def _write_page(
    out: Path,
    record: RunRecord,
    saved: LoadedCheckpoint,
    analysis: Analysis | None,
    samples: AugmentedSamples | None,
    checkpoint: CheckpointName,
) -> Path:
    out.mkdir(parents=True, exist_ok=True)
    training = [figures.accuracy_curves(record), figures.loss_curves(record)]
    training.append(figures.lr_schedule(record, saved.total_steps))
    training += [image_figures.augmented_samples(samples)] if samples else []
    classes = [figures.confusion_matrix(analysis), figures.class_bars(analysis)] if analysis else []
    mistakes = []
    if analysis and analysis.mistakes:
        mistakes = [image_figures.mistakes(analysis), image_figures.grad_cam_maps(analysis)]
    saved_errors = (read_corruption_errors(record.path, file) for file in (MADE_FILE, PUBLISHED_FILE))
    corruptions = [corruption_errors(errors) for errors in saved_errors if errors is not None]
    html.write_page(
        out / "report.html",
        "run.html",
        title=f"{record.config.name}: {format_percent(record.last.test_accuracy)} {record.last.eval_split} accuracy",
        subtitle=f"{record.name} · epoch {record.last.epoch} of {record.last.epochs}",
        record=record,
        analysis=analysis,
        checkpoint=checkpoint,
        checkpoint_epoch=saved.epoch,
        key_numbers=_key_numbers(record, analysis),
        training_figures=html.embed_figures(training, out),
        class_figures=html.embed_figures(classes, out),
        class_rows=_class_rows(analysis) if analysis else [],
        collapses_classes=analysis is not None and len(analysis.class_names) > figures.MAX_BARS,
        corruption_figures=html.embed_figures(corruptions, out),
        mistake_figures=html.embed_figures(mistakes, out),
        run_facts=_run_facts(record, saved),
    )
    return out / "report.html"


def _key_numbers(record: RunRecord, analysis: Analysis | None) -> dict[str, str]:
    last, reached = record.last, record.first_at(record.target_accuracy)
    numbers = {f"{last.eval_split} accuracy, epoch {last.epoch}": format_percent(last.test_accuracy)}
    if last.eval_split == "validation" and analysis:
        numbers["test accuracy"] = format_percent(analysis.accuracy)
    return numbers | {
        f"best, epoch {last.best_epoch}, selected on the {last.eval_split} set": format_percent(last.best_accuracy),
        "training time": format_duration(last.total_train_seconds),
        f"time to {100 * record.target_accuracy:.4g} %" + (f", epoch {reached.epoch}" if reached else ""): (
            format_duration(reached.total_train_seconds) if reached else "not reached"
        ),
        "images per second": f"{np.median([result.images_per_second for result in record.results]):,.0f}",
    }


def _class_rows(analysis: Analysis) -> list[tuple[str, ...]]:
    """Return name, recall, precision, correct images, most common mistake and images: per class, then for all."""
    names, rows = analysis.class_names, []
    recall, precision = analysis.class_accuracy, analysis.class_precision
    for label, name in enumerate(names):
        others = analysis.confusion[label].copy()
        correct, others[label] = int(others[label]), 0
        mistaken = f"{names[others.argmax()]} ({others.max():,})" if others.any() else "–"
        shares = (format_percent(each[label]) for each in (recall, precision))
        rows.append((name, *shares, f"{correct:,}", mistaken, f"{analysis.class_counts[label]:,}"))
    correct, count = analysis.confusion.trace(), analysis.confusion.sum()
    return [*rows, ("all", format_percent(analysis.accuracy), "", f"{correct:,}", "", f"{count:,}")]


def _data_name(record: RunRecord) -> str:
    """Return the name of the data set, and how its training images and labels were chosen."""
    data, settings = record.environment["data"], record.config.data
    chosen = [data["variations"]] if data.get("variations") else []
    if settings.subset is not None:
        chosen.append(f"{describe_subset(settings.subset)}, seed {record.config.runtime.seed}")
    return f"{data['name']} ({'; '.join(chosen)})" if chosen else data["name"]


def _run_facts(record: RunRecord, saved: LoadedCheckpoint) -> dict[str, str]:
    config, environment, last = record.config, record.environment, record.last
    parameters = sum(parameter.numel() for parameter in saved.classifier.model.parameters())
    data, versions = environment["data"], environment["versions"]
    return {
        "folder": str(record.path),
        "recipe": config.name,
        "model": f"{config.model.model}, {parameters:,} parameters",
        "data": f"{_data_name(record)}, content SHA-256 {data['content_sha256']}",
        "epochs": f"{last.epoch} of {last.epochs} (configured: {config.epochs:g}), batch size {config.data.batch_size}",
        "device": environment["device"],
        "precision": environment["precision"],
        "platform": environment["platform"],
        "training time": format_duration(last.total_train_seconds),
        "evaluation time": format_duration(sum(result.eval_seconds for result in record.results)),
        "warm-up": format_duration(last.warmup_seconds),
        "peak memory": f"{last.peak_memory_bytes / 2**30:.2f} GiB",
        "commit": environment["commit"] or "unknown",
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }
