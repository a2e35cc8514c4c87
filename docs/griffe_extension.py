"""An extension of griffe, which reads the docstrings for the API pages: placeholders such as <class> stay visible."""

from __future__ import annotations

import re
from typing import Any

import griffe


class EscapePlaceholders(griffe.Extension):
    """Escape `<` and the star of `*.png` in docstrings, which Markdown would take for HTML and emphasis."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Change the docstring of an object after it was read."""
        if obj.docstring is not None:
            obj.docstring.value = escape(obj.docstring.value)


def escape(text: str) -> str:
    """Escape the text outside of backticks."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(
        part if part.startswith("`") else re.sub(r"/\*", r"/\\*", re.sub(r"<(?=\w)", "&lt;", part)) for part in parts
    )
