"""Numbers as people read them."""

from __future__ import annotations


def format_rate(rate: float, digits: int = 1) -> str:
    """Such as 5.3e-4: Python writes e-04."""
    return f"{rate:.{digits}e}".replace("e-0", "e-").replace("e+0", "e")


def format_seconds(seconds: float) -> str:
    """Such as 9.87 or 12.3, without the unit."""
    return f"{seconds:.2f}" if seconds < 9.995 else f"{seconds:.1f}"


def format_duration(seconds: float) -> str:
    """Such as 9.87 s, 3 min 5 s or 2 h 10 min."""
    if seconds < 59.95:
        return f"{format_seconds(seconds)} s"
    if seconds < 3599.5:
        return "{} min {} s".format(*divmod(round(seconds), 60))
    return "{} h {} min".format(*divmod(round(seconds / 60), 60))
