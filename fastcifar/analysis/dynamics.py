"""Training dynamics: what the records of a run's epochs say about each training image.

Sources: the data map, Swayamdipta et al., *Dataset Cartography*, EMNLP 2020; forgetting events, Toneva et al., *An
Empirical Study of Example Forgetting during Deep Neural Network Learning*, ICLR 2019; the mean margin, Pleiss et al.,
*Identifying Mislabeled Data using the Area Under the Margin Ranking*, NeurIPS 2020.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fastcifar.runs.dynamics import EpochSamples

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

_TOTALS = np.dtype(
    [
        *((name, "i8") for name in ("visits", "correct", "forgotten", "label", "predicted")),
        *((name, "f8") for name in ("loss", "probability", "squared_probability", "margin")),
        ("was_correct", "?"),
    ]
)
"""Running totals of each image, to which each epoch is added."""


@dataclass(frozen=True, kw_only=True)
class Dynamics:
    """The training dynamics of the images that a run has trained on, in the order of their positions; [N] each."""

    epochs: int
    index: Ints
    """Position in train.beton."""
    label: Ints
    """The label in the file."""
    predicted: Ints
    """The class that the network predicted when it was last trained on the image."""
    visits: Ints
    """Number of epochs in which the run has trained on the image."""
    loss: Floats
    """Mean cross-entropy over the visits, in nats."""
    confidence: Floats
    """Mean of the label's probability over the visits, from 0 to 1."""
    variability: Floats
    """Standard deviation of the label's probability over the visits."""
    correctness: Floats
    """Fraction of the visits in which the prediction was the label."""
    margin: Floats
    """Mean over the visits of the label's logit minus the largest other one: the area under the margin (AUM)."""
    forgotten: Ints
    """Number of forgetting events: visits with a wrong prediction right after one with a correct prediction."""

    @property
    def never_learned(self) -> Bools:
        """Whether the label was never predicted."""
        never: Bools = self.correctness == 0
        return never

    @property
    def unforgettable(self) -> Bools:
        """Whether the label was learned and never forgotten."""
        never: Bools = self.forgotten == 0
        return never & ~self.never_learned

    @property
    def ranking(self) -> Ints:
        """The rows in order of suspicion, int64 [N]: first those whose label is most probably wrong."""
        return np.argsort(self.margin, kind="stable")


def summarize_epochs(epochs: Iterable[EpochSamples]) -> Dynamics:
    """Summarize the records of a run's epochs, in order. Memory does not grow with the number of epochs."""
    totals, count = np.zeros(0, dtype=_TOTALS), 0
    for samples in epochs:
        count += 1
        missing = max(0, int(samples.index.max(initial=-1)) + 1 - len(totals))
        totals = np.concatenate([totals, np.zeros(missing, dtype=_TOTALS)])
        _add(totals, samples)
    index = np.flatnonzero(totals["visits"])
    totals = totals[index]
    visits, probability = totals["visits"], totals["probability"] / totals["visits"]
    variance = totals["squared_probability"] / visits - probability**2
    return Dynamics(
        epochs=count,
        index=index,
        label=totals["label"],
        predicted=totals["predicted"],
        visits=visits,
        loss=totals["loss"] / visits,
        confidence=probability,
        variability=np.sqrt(variance.clip(0)),
        correctness=totals["correct"] / visits,
        margin=totals["margin"] / visits,
        forgotten=totals["forgotten"],
    )


def _add(totals: npt.NDArray[Any], samples: EpochSamples) -> None:
    """Add the records of one epoch."""
    rows, correct = totals[samples.index], samples.correct
    probability = np.exp(-samples.loss.astype(np.float64))
    rows["visits"] += 1
    rows["correct"] += correct
    rows["forgotten"] += rows["was_correct"] & ~correct
    rows["label"], rows["predicted"], rows["was_correct"] = samples.label, samples.predicted, correct
    rows["loss"] += samples.loss
    rows["probability"] += probability
    rows["squared_probability"] += probability**2
    rows["margin"] += samples.margin
    totals[samples.index] = rows


def found_fraction(ranking: Ints, wrong: Bools, fraction: float) -> float:
    """Return how many of the wrong labels are in the first `fraction` of a ranking, as a fraction of all wrong labels.

    `ranking` holds rows, int64 [N]; `wrong` tells for each row whether its label is known to be wrong, bool [N].
    """
    return float(wrong[ranking[: round(fraction * len(ranking))]].sum() / wrong.sum())


def ranking_auroc(ranking: Ints, wrong: Bools) -> float:
    """Return the area under the ROC curve of a ranking: the probability that a wrong label is before a correct one."""
    correct_so_far = np.cumsum(~wrong[ranking])
    after = (~wrong).sum() - correct_so_far[wrong[ranking]]
    return float(after.sum() / (wrong.sum() * (~wrong).sum()))
