from __future__ import annotations

import io

from PIL import Image

from fastcifar.report import image_figures
from tests.report.pages import NAMES, noise_analysis


def test_figures_of_mistakes_draw_odd_names_and_never_round_up_to_certainty() -> None:
    analysis = noise_analysis(10, names=NAMES, mistakes=25)
    for figure in (image_figures.mistakes(analysis), image_figures.grad_cam_maps(analysis)):
        for theme in ("light", "dark"):
            with Image.open(io.BytesIO(figure.png(theme))) as image:
                assert image.width == 1000
    alt = image_figures.mistakes(analysis).alt
    assert "99.9 %" in alt
    assert "100.0 %" not in alt
    assert alt.endswith("and 5 more.")
