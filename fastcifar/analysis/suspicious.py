"""The training images of a run whose labels are most suspicious, with their pictures and, if known, the true labels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fastcifar.analysis.dynamics import Bools, Dynamics, Ints, found_fraction, ranking_auroc, summarize_epochs
from fastcifar.data.beton_format import BetonIndex
from fastcifar.data.images import Images
from fastcifar.data.manifest import Manifest, open_beton, read_true_labels
from fastcifar.data.pair import split_path
from fastcifar.errors import DataError
from fastcifar.runs.data import NAME_FOLDER, require_betons
from fastcifar.runs.dynamics import read_epochs
from fastcifar.runs.read import read_config, read_environment

FOUND_FRACTIONS = (0.05, 0.10, 0.15, 0.20)
"""Parts of the training set, the most suspicious images, in which known wrong labels are counted."""


@dataclass(frozen=True, kw_only=True)
class DynamicsAnalysis:
    """The training dynamics of a run with what its data adds to them."""

    dynamics: Dynamics
    class_names: tuple[str, ...]
    rows: Ints
    """int64 [M]: the rows of `dynamics` that are most suspicious, in order."""
    images: Images
    """uint8 [M, H, W, 3]: the images of `rows`."""
    true_labels: Ints | None
    """int64 [N]: the labels before some of them were changed on purpose; None if that is not known."""

    @property
    def wrong(self) -> Bools | None:
        """Whether the label is known to be wrong, bool [N]; None if no label is."""
        if self.true_labels is None or np.array_equal(self.true_labels, self.dynamics.label):
            return None
        wrong: Bools = self.true_labels != self.dynamics.label
        return wrong

    @cached_property
    def found(self) -> dict[float, float]:
        """The fraction of the wrong labels in each of `FOUND_FRACTIONS` of the ranking; empty if none is known."""
        if (wrong := self.wrong) is None:
            return {}
        ranking = self.dynamics.ranking
        return {fraction: found_fraction(ranking, wrong, fraction) for fraction in FOUND_FRACTIONS}

    def describe(self, row: int) -> dict[str, Any]:
        """Return the values of one image by name, as plain JSON values."""
        dynamics, names = self.dynamics, self.class_names
        label, predicted = int(dynamics.label[row]), int(dynamics.predicted[row])
        values: dict[str, Any] = {
            "index": int(dynamics.index[row]),
            "label": label,
            "class": names[label],
            "predicted": predicted,
            "predicted_class": names[predicted],
        }
        if self.true_labels is not None:
            true = int(self.true_labels[row])
            values |= {"true_label": true, "true_class": names[true]}
        for name in ("loss", "confidence", "variability", "margin", "correctness"):
            values[name] = round(float(getattr(dynamics, name)[row]), 6)
        return values | {"forgotten": int(dynamics.forgotten[row]), "visits": int(dynamics.visits[row])}

    def to_json(self) -> dict[str, Any]:
        """Return the counts and the most suspicious images as plain JSON values."""
        dynamics, wrong = self.dynamics, self.wrong
        values: dict[str, Any] = {
            "epochs": dynamics.epochs,
            "images": len(dynamics.index),
            "confidence": float(dynamics.confidence.mean()),
            "variability": float(dynamics.variability.mean()),
            "never_learned": int(dynamics.never_learned.sum()),
            "unforgettable": int(dynamics.unforgettable.sum()),
            "forgetting_events": int(dynamics.forgotten.sum()),
            "wrong_labels": None,
        }
        if wrong is not None:
            found = {f"{fraction:g}": value for fraction, value in self.found.items()}
            auroc = ranking_auroc(dynamics.ranking, wrong)
            values["wrong_labels"] = {"known": int(wrong.sum()), "found": found, "auroc": auroc}
        return values | {"suspicious": [self.describe(row) for row in self.rows.tolist()]}


def analyze_dynamics(run: Path, *, top: int, data_dir: Path | None = None) -> DynamicsAnalysis:
    """Read the records of a run and the `top` most suspicious images.

    `data_dir` is the folder with train.beton, if it is not the one that the configuration names.

    Raises:
        CheckpointError: the folder is not a run folder, or has no records or damaged ones.
        ConfigError: pyarrow is not installed.
        DataError: train.beton is missing or damaged, or is not what the run was trained on.
    """
    dynamics = summarize_epochs(read_epochs(run))
    index, manifest = _open_training_set(run, data_dir or read_config(run).data.data_dir)
    rows, true_labels = dynamics.ranking[:top], read_true_labels(manifest)
    true_labels = read_true_labels(manifest)
    return DynamicsAnalysis(
        dynamics=dynamics,
        class_names=manifest.class_names,
        rows=rows,
        images=index.images(dynamics.index[rows].tolist()),
        true_labels=None if true_labels is None else true_labels[dynamics.index],
    )


def _open_training_set(run: Path, folder: Path) -> tuple[BetonIndex, Manifest]:
    require_betons(run, folder, ["train"])
    index, manifest = open_beton(split_path(folder, "train"), verify=False)
    if manifest.content_sha256 != read_environment(run)["data"]["content_sha256"]:
        raise DataError(f"{run}: was trained on other data than that in {folder.absolute()}; {NAME_FOLDER}")
    return index, manifest
