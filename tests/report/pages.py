"""Helpers for the tests of the report: hostile class names, a parser for pages, and an analysis made of noise."""

from __future__ import annotations

from html.parser import HTMLParser

import numpy as np

from fastcifar.analysis.mistakes import Analysis, Mistake
from fastcifar.corruptions.kinds import KINDS, SEVERITIES
from fastcifar.inference.corruption_errors import CorruptionErrors

HOSTILE = "<script>alert(1)</script>"
NAMES = (HOSTILE, "\" onerror='x", "a & b", "$x_1$", "猫", "</title>", "dog", "frog", "[bold]cat", "a[/b]")


class Page(HTMLParser):
    """The content of a page: its elements with their attributes, and its text outside of <style>."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag

    def handle_data(self, data: str) -> None:
        if self._inside != "style":
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def noise_analysis(classes: int, *, names: tuple[str, ...] = (), mistakes: int = 3) -> Analysis:
    """Return an analysis of random images, in which class 1 has no images."""
    generator = np.random.default_rng(0)
    confusion = generator.integers(0, 9, (classes, classes)) + np.diag([50] * classes)
    confusion[1] = 0
    heat = generator.random((mistakes, 32, 32), dtype=np.float32)
    return Analysis(
        class_names=names or tuple(f"class {label}" for label in range(classes)),
        loss=0.5,
        top5_accuracy=None if classes <= 10 else 0.97,
        calibration_error=0.03,
        confusion=confusion,
        mistakes=tuple(Mistake(index=n, truth=0, predicted=2, confidence=0.99999) for n in range(mistakes)),
        images=generator.integers(0, 256, (mistakes, 32, 32, 3), dtype=np.uint8),
        predicted_maps=heat,
        truth_maps=0 * heat,
    )


def example_errors() -> CorruptionErrors:
    """Return the errors of all corruptions: 1 %, 2 %, … 75 %."""
    values = iter(range(1, 76))
    by_kind = {kind: tuple(next(values) / 100 for _ in SEVERITIES) for kind in KINDS}
    return CorruptionErrors(
        checkpoint="last.pt", epoch=2, samples=90, seed=0, folder=None, severities=SEVERITIES, clean_error=0.0625,
        errors=by_kind, extra_errors={}, mean_errors={kind: sum(each) / 5 for kind, each in by_kind.items()},
        mean_corruption_error=0.38, seconds=1.0, device="CPU", precision="float32",
    )  # fmt: skip
