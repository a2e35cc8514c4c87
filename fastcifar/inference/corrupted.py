"""Evaluate a checkpoint on corrupted test images: the error for each kind of corruption and severity."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastcifar import clock
from fastcifar.corruptions.kinds import KINDS, SEVERITIES, corrupt
from fastcifar.data.corrupted_files import CorruptedFiles, list_kinds, open_corrupted_files
from fastcifar.errors import ConfigError, closest
from fastcifar.inference.corruption_errors import EXTRA_KINDS, CorruptionErrors
from fastcifar.inference.evaluate import LoadedCheckpoint, load_classifier, open_test_loader
from fastcifar.progress import OnProgress, Progress
from fastcifar.runs.checkpoint import CheckpointName
from fastcifar.runs.data import has_betons

Case = tuple[str, int]
"""A kind of corruption and a severity."""
Batch = tuple[Case | None, Tensor, Tensor]
"""A case, or None for images without corruption; uint8 images [B, C, H, W] and int64 labels [B] on the device."""


def evaluate_corruptions(
    run: Path,
    checkpoint: CheckpointName = "last",
    *,
    kinds: Sequence[str] = (),
    severities: Sequence[int] = SEVERITIES,
    seed: int = 0,
    device: str = "auto",
    on_progress: OnProgress | None = None,
    **changes: Any,
) -> CorruptionErrors:
    """Corrupt the test set with each kind and severity, and evaluate a run's checkpoint on it.

    The images are corrupted on the device, batch by batch, and read once.

    Args:
        run: the run folder.
        checkpoint: the checkpoint to evaluate.
        kinds: some of the 15 corruptions, by name; all if empty.
        severities: some of the severities 1 to 5.
        seed: decides the random numbers. The corrupted images do not depend on the size of the batches.
        device: device to compute on, such as 'cpu' or 'cuda'.
        on_progress: called after each batch.
        changes: other values of some of the run's settings, such as `data_dir` and `amp`.

    Raises:
        CheckpointError: the checkpoint is missing or damaged, or the data has other classes or another image size.
        ConfigError: a kind or a severity does not exist.
        DataError: the .beton is missing or damaged.
    """
    chosen, levels = _choose_kinds(kinds, tuple(KINDS)), _choose_severities(severities)
    cases = [(kind, severity) for kind in chosen for severity in levels]
    loaded = load_classifier(run, checkpoint, device=device, **changes)
    with open_test_loader(loaded) as loader:
        loader.warm_up()

        def batches() -> Iterator[Batch]:
            for images, labels, indices in loader.batches_with_indices():
                yield None, images, labels
                for kind, severity in cases:
                    yield (kind, severity), corrupt(images, kind, severity, indices=indices, seed=seed), labels

        measure = _Measure(loaded, [None, *cases], loader.samples, on_progress)
        errors = measure.errors(batches())
    return measure.result(errors, chosen, levels, seed=seed)


def evaluate_corrupted_files(
    run: Path,
    folder: Path,
    checkpoint: CheckpointName = "last",
    *,
    kinds: Sequence[str] = (),
    severities: Sequence[int] = SEVERITIES,
    device: str = "auto",
    on_progress: OnProgress | None = None,
    **changes: Any,
) -> CorruptionErrors:
    """Evaluate a run's checkpoint on a folder of CIFAR-10-C's published .npy files.

    Without `kinds`, these are the 15 corruptions, and those of `EXTRA_KINDS` that are there. The run's test set gives
    the error without corruption, and need not be there. The other arguments are those of `evaluate_corruptions`.

    Raises:
        CheckpointError: the checkpoint is missing or damaged.
        ConfigError: a kind or a severity does not exist.
        DataError: a file is missing or damaged, or does not fit the network.
    """
    chosen = _choose_kinds(kinds, (*KINDS, *EXTRA_KINDS)) if kinds else [*KINDS, *list_kinds(folder, EXTRA_KINDS)]
    levels = _choose_severities(severities)
    cases = [(kind, severity) for kind in chosen for severity in levels]
    loaded = load_classifier(run, checkpoint, device=device, **changes)
    shape, classes = loaded.image_shape, len(loaded.class_names)
    files = open_corrupted_files(folder, chosen, image_shape=shape, classes=classes)
    measure = _Measure(loaded, cases, files.samples, on_progress)
    errors = measure.errors(_read_batches(loaded, files, cases))
    if has_betons(loaded.config.data.data_dir, ["test"]):
        with open_test_loader(loaded) as loader:
            clean = _Measure(loaded, [None], loader.samples, on_progress)
            errors |= clean.errors((None, images, labels) for images, labels in loader.batches())
    return measure.result(errors, chosen, levels, folder=str(folder))


class _Measure:
    """Counts the wrong predictions for each case."""

    def __init__(
        self, loaded: LoadedCheckpoint, cases: Sequence[Case | None], samples: int, on_progress: OnProgress | None
    ) -> None:
        self.loaded, self.cases, self.samples = loaded, cases, samples
        self.on_progress = on_progress or (lambda progress: None)
        self.start = clock.now()

    @torch.no_grad()
    def errors(self, batches: Iterator[Batch]) -> dict[Case | None, float]:
        """Return the error of each case; the counts stay on the device until the end."""
        classifier, done = self.loaded.classifier, 0
        wrong = torch.zeros(len(self.cases), dtype=torch.int64, device=classifier.runtime.device)
        for case, images, labels in batches:
            wrong[self.cases.index(case)] += (classifier.logits(images).argmax(dim=1) != labels).sum()
            done += len(labels)
            name = "no corruption" if case is None else f"{case[0]} {case[1]}"
            total = self.samples * len(self.cases)
            self.on_progress(Progress(task="evaluating corruptions", done=done, total=total, detail=name))
        return dict(zip(self.cases, (wrong.double() / self.samples).tolist(), strict=True))

    def result(
        self,
        errors: dict[Case | None, float],
        kinds: Sequence[str],
        severities: tuple[int, ...],
        *,
        seed: int | None = None,
        folder: str | None = None,
    ) -> CorruptionErrors:
        """Return the errors of all cases by kind, with their means."""
        loaded, runtime = self.loaded, self.loaded.classifier.runtime
        by_kind = {kind: tuple(errors[kind, severity] for severity in severities) for kind in kinds}
        means = {kind: sum(values) / len(values) for kind, values in by_kind.items()}
        counted = [mean for kind, mean in means.items() if kind in KINDS]
        return CorruptionErrors(
            checkpoint=str(loaded.path),
            epoch=loaded.epoch,
            samples=self.samples,
            seed=seed,
            folder=folder,
            severities=severities,
            clean_error=errors.get(None),
            errors={kind: values for kind, values in by_kind.items() if kind in KINDS},
            extra_errors={kind: values for kind, values in by_kind.items() if kind not in KINDS},
            mean_errors=means,
            mean_corruption_error=sum(counted) / len(counted) if counted else None,
            seconds=clock.now() - self.start,
            device=runtime.describe_device(),
            precision=runtime.describe_precision(),
            notes=runtime.notes,
        )


def _read_batches(loaded: LoadedCheckpoint, files: CorruptedFiles, cases: Sequence[Case]) -> Iterator[Batch]:
    """Yield the images of the files in batches on the device."""
    runtime, size = loaded.classifier.runtime, loaded.config.data.test_batch_size
    for kind, severity in cases:
        images, labels = files.part(kind, severity)
        for start in range(0, len(labels), size):
            batch = torch.tensor(images[start : start + size], device=runtime.device).permute(0, 3, 1, 2)
            yield (kind, severity), batch, torch.tensor(labels[start : start + size], device=runtime.device)


def _choose_kinds(kinds: Sequence[str], known: Sequence[str]) -> list[str]:
    """Return the chosen kinds in their usual order; all if none is chosen."""
    for kind in kinds:
        if kind not in known:
            advice = f"did you mean {closest(kind, known)!r}? There are {', '.join(known)}"
            raise ConfigError(f"kinds has {kind!r}; {advice}")
    return [kind for kind in known if kind in kinds or not kinds]


def _choose_severities(severities: Sequence[int]) -> tuple[int, ...]:
    if not severities or not set(severities) <= set(SEVERITIES):
        raise ConfigError(f"severities is {list(severities)}; it must be some of {', '.join(map(str, SEVERITIES))}")
    return tuple(sorted(set(severities)))
