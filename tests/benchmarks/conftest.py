from __future__ import annotations

import pytest

from fastcifar.data import sources


@pytest.fixture
def few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the synthetic source have 600 images to train on."""
    draw = sources.draw_synthetic
    monkeypatch.setattr(sources, "draw_synthetic", lambda seed: draw(train=600, test=100, seed=seed))
