from __future__ import annotations

import numpy as np
import pytest

from fastcifar.analysis.dynamics import found_fraction, ranking_auroc, summarize_epochs
from fastcifar.runs.dynamics import EpochSamples


def epoch(rows: dict[int, tuple[int, int, float, float]]) -> EpochSamples:
    """An epoch with the label, the predicted class, the label's probability and the margin at each position."""
    label, predicted, probability, margin = (np.array(values) for values in zip(*rows.values(), strict=True))
    return EpochSamples(
        index=np.array(list(rows)), label=label, predicted=predicted,
        loss=-np.log(probability).astype(np.float32), margin=margin.astype(np.float32),
    )  # fmt: skip


EPOCHS = [
    epoch({1: (4, 4, 0.9, 2.0), 3: (5, 2, 0.1, -1.0), 4: (0, 0, 0.5, 0.5)}),
    epoch({1: (4, 4, 0.9, 3.0), 4: (0, 1, 0.25, -1.0), 6: (7, 7, 0.8, 1.0)}),
    epoch({1: (4, 4, 0.9, 4.0), 3: (5, 2, 0.3, -2.0), 4: (0, 0, 0.75, 2.0)}),
    epoch({3: (5, 6, 0.2, -6.0), 4: (0, 3, 0.5, -0.5)}),
]


def test_dynamics_are_means_over_the_visits_of_each_image() -> None:
    dynamics = summarize_epochs(EPOCHS)
    assert dynamics.epochs == 4
    assert dynamics.index.tolist() == [1, 3, 4, 6]
    assert dynamics.label.tolist() == [4, 5, 0, 7]
    assert dynamics.predicted.tolist() == [4, 6, 3, 7]
    assert dynamics.visits.tolist() == [3, 3, 4, 1]
    assert dynamics.confidence.tolist() == pytest.approx([0.9, 0.2, 0.5, 0.8])
    assert dynamics.variability.tolist() == pytest.approx(
        [0, np.std([0.1, 0.3, 0.2]), np.std([0.5, 0.25, 0.75, 0.5]), 0], abs=1e-6
    )
    assert dynamics.correctness.tolist() == [1, 0, 0.5, 1]
    assert dynamics.margin.tolist() == [3, -3, 0.25, 1]


def test_a_forgetting_event_is_a_wrong_prediction_after_a_correct_one() -> None:
    dynamics = summarize_epochs(EPOCHS)
    assert dynamics.forgotten.tolist() == [0, 0, 2, 0]
    assert dynamics.never_learned.tolist() == [False, True, False, False]
    assert dynamics.unforgettable.tolist() == [True, False, False, True]


def test_the_ranking_starts_with_the_lowest_mean_margin() -> None:
    assert summarize_epochs(EPOCHS).ranking.tolist() == [1, 2, 3, 0]


def test_found_fraction_and_auroc_rate_a_ranking() -> None:
    wrong = np.array([False, True, False, False, True, False, False, False, False, False])
    perfect, reverse = np.array([1, 4, 0, 2, 3, 5, 6, 7, 8, 9]), np.array([9, 8, 7, 6, 5, 3, 2, 0, 4, 1])
    assert found_fraction(perfect, wrong, 0.1) == 0.5
    assert found_fraction(perfect, wrong, 0.2) == 1
    assert found_fraction(reverse, wrong, 0.8) == 0
    assert ranking_auroc(perfect, wrong) == 1
    assert ranking_auroc(reverse, wrong) == 0
    half_found = np.array([1, 0, 2, 3, 5, 6, 7, 8, 9, 4])
    assert ranking_auroc(half_found, wrong) == 0.5
