"""Lists of names in messages, which stay short however many names there are."""

from collections.abc import Collection
from itertools import islice

SHOWN_NAMES = 5
"""Names in a message."""


def list_names(names: Collection[str], shown: int = SHOWN_NAMES) -> str:
    """Return the first names, with commas, and how many more there are, such as "cat, dog and 8 more"."""
    more = len(names) - shown
    return ", ".join(islice(names, shown)) + (f" and {more:,} more" if more > 0 else "")
