"""The page of one run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fastcifar.analysis.mistakes import Analysis, AugmentedSamples, analyze, draw_augmented
from fastcifar.errors import ConfigError
from fastcifar.inference.evaluate import LoadedCheckpoint, load_classifier
from fastcifar.report import figures, html, image_figures
from fastcifar.report.units import format_duration, format_rate, format_seconds
from fastcifar.runs.checkpoint import CheckpointName
from fastcifar.runs.record import RunRecord, read_record

MOST_MISTAKES = 200
"""A figure with more images would be taller than browsers and drawing libraries like."""


def write_report(
    run: Path,
    *,
    out: Path | None = None,
    checkpoint: CheckpointName = "last",
    top: int = 20,
    device: str = "auto",
    data_dir: Path | None = None,
) -> Path:
    """Make a run's pictures and report.html from its folder and the .betons that its configuration names.

    Args:
        run: the run's folder.
        out: where to write; `report` in the run's folder if not given.
        checkpoint: the checkpoint that the test set is looked at with.
        top: how many of the most confident mistakes to show, from 1 to 200.
        device: where to compute.
        data_dir: folder of the .betons, if not the one that the configuration names.

    Returns:
        The path of report.html.

    Raises:
        CheckpointError: the folder is no run's, or has no such checkpoint; or the data is not the run's.
        ConfigError: `top` is out of bounds.
        DataError: a .beton is missing or damaged.
    """
    if not 1 <= top <= MOST_MISTAKES:
        raise ConfigError(f"top is {top}; it must be from 1 to {MOST_MISTAKES}")
    record = read_record(run)
    changes = {} if data_dir is None else {"data_dir": data_dir}
    saved = load_classifier(run, checkpoint, device=device, **changes)
    analysis, samples = analyze(saved, top=top), draw_augmented(saved)
    out = out or run / "report"
    out.mkdir(parents=True, exist_ok=True)
    path = out / "report.html"
    html.write_page(
        path,
        f"{record.config.name}: {100 * record.last.test_accuracy:.2f} % {record.last.eval_split} accuracy",
        f"{record.name} · epoch {record.last.epoch} of {record.last.epochs}",
        _sections(record, saved, analysis, samples, checkpoint, out),
    )
    return path


def _sections(
    record: RunRecord,
    saved: LoadedCheckpoint,
    analysis: Analysis,
    samples: AugmentedSamples,
    checkpoint: str,
    out: Path,
) -> list[str]:
    test_set = (
        f"All {analysis.confusion.sum():,} images of the test set, with the {checkpoint} checkpoint (epoch {saved.epoch}): "
        f"accuracy {100 * analysis.accuracy:.2f} %, loss {analysis.loss:.4f}."
    )
    if record.last.eval_split == "validation":
        test_set += " The run did not use them: its curves are measured on images kept back from the training set."
    course = html.save_figures(
        [figures.accuracy_curves(record), figures.loss_curves(record), figures.schedule(record, saved.total_steps)], out
    )
    augmented = html.save_figures([image_figures.augmented_samples(samples)], out)
    classes = html.save_figures([figures.confusion_matrix(analysis), figures.class_bars(analysis)], out)
    if analysis.mistakes:
        wrong = html.save_figures([image_figures.mistakes(analysis), image_figures.grad_cam_maps(analysis)], out)
        tta_logits = html.section("What it gets wrong", html.cards(*wrong))
    else:
        tta_logits = html.section("What it gets wrong", text="Nothing: every image of the test set is recognised.")
    return [
        html.tiles(_key_numbers(record, analysis)),
        html.section("Training", html.cards(*course, *augmented)),
        html.section("Epochs", html.card(_epoch_table(record))),
        html.section(
            "Test set", html.cards(*classes, html.card(_class_table(analysis), title="Classes")), text=test_set
        ),
        tta_logits,
        html.section("The run", html.cards(html.card(_facts(record, saved)), _settings(record))),
    ]


def _key_numbers(record: RunRecord, analysis: Analysis) -> dict[str, str]:
    last, met = record.last, record.first_at(record.goal)
    numbers = {f"{last.eval_split} accuracy, epoch {last.epoch}": f"{100 * last.test_accuracy:.2f} %"}
    if last.eval_split == "validation":
        numbers["test accuracy"] = f"{100 * analysis.accuracy:.2f} %"
    return numbers | {
        f"best, epoch {last.best_epoch}, chosen on the {last.eval_split} set": f"{100 * last.best_accuracy:.2f} %",
        "training time": format_duration(last.total_train_seconds),
        f"to {100 * record.goal:.4g} %" + (f", epoch {met.epoch}" if met else ""): (
            format_duration(met.total_train_seconds) if met else "not reached"
        ),
        "images a second": f"{np.median([result.images_per_second for result in record.results]):,.0f}",
    }


def _epoch_table(record: RunRecord) -> str:
    name = record.last.eval_split
    heading = ("epoch", f"{name} %", f"{name} loss", "train %", "train loss", "rate", "train s", "eval s", "images/s")
    rows = [
        (
            str(result.epoch),
            f"{100 * result.test_accuracy:.2f}",
            f"{result.test_loss:.4f}",
            f"{100 * result.train_accuracy:.2f}",
            f"{result.train_loss:.4f}",
            f"{format_rate(result.lr_start)} → {format_rate(result.lr_end)}",
            format_seconds(result.train_seconds),
            format_seconds(result.eval_seconds),
            f"{result.images_per_second:,.0f}",
        )
        for result in record.results
    ]
    return html.table(heading, rows, marked=record.last.best_epoch - 1)


def _class_table(analysis: Analysis) -> str:
    names, rows = analysis.class_names, []
    for label, name in enumerate(names):
        others = analysis.confusion[label].copy()
        right, others[label] = int(others[label]), 0
        mistaken = f"{names[others.argmax()]} ({others.max():,})" if others.any() else "–"
        share, count = _percent(analysis.class_accuracy[label]), f"{analysis.class_counts[label]:,}"
        rows.append((name, share, f"{right:,}", mistaken, count))
    total = (_percent(analysis.accuracy), f"{analysis.confusion.trace():,}", "", f"{analysis.confusion.sum():,}")
    heading = ("class", "accuracy", "recognised", "most often taken for", "images")
    return html.table(heading, [*rows, ("all", *total)], marked=len(rows))


def _facts(record: RunRecord, saved: LoadedCheckpoint) -> str:
    config, environment, last = record.config, record.environment, record.last
    parameters = sum(parameter.numel() for parameter in saved.classifier.model.parameters())
    data: dict[str, Any] = environment.get("data", {})
    versions: dict[str, Any] = environment.get("versions", {})
    facts = {
        "folder": str(record.path),
        "recipe": config.name,
        "network": f"{config.model.model}, {parameters:,} parameters",
        "data": f"{data.get('name', 'unknown')}, content SHA-256 {data.get('content_sha256', 'unknown')}",
        "epochs": f"{last.epoch} of {last.epochs} ({config.epochs:g} passes), batches of {config.data.batch_size}",
        "device": environment.get("device", "unknown"),
        "precision": environment.get("precision", "unknown"),
        "platform": environment.get("platform", "unknown"),
        "training time": format_duration(last.total_train_seconds),
        "evaluation time": format_duration(sum(result.eval_seconds for result in record.results)),
        "warm-up": format_duration(last.warmup_seconds),
        "peak memory": f"{last.peak_memory_bytes / 2**30:.2f} GiB",
        "commit": environment.get("commit") or "unknown",
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }
    return html.table(("", ""), [(name, str(value)) for name, value in facts.items()], words=True)


def _settings(record: RunRecord) -> str:
    settings = record.config.to_json().items()
    return html.collapsible(
        "All settings", html.table(("", ""), [(name, str(value)) for name, value in settings], words=True)
    )


def _percent(share: float) -> str:
    return "–" if np.isnan(share) else f"{100 * share:.2f} %"
