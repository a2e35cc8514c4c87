"""Numbers as text for people."""

from __future__ import annotations

import math


def format_lr(lr: float, digits: int = 1) -> str:
    """Return a learning rate such as 5.3e-4 (Python writes 5.3e-04)."""
    return f"{lr:.{digits}e}".replace("e-0", "e-").replace("e+0", "e")


def format_percent(fraction: float) -> str:
    """Return a fraction such as 0.9012 as 90.12 %; a dash for NaN."""
    return "–" if math.isnan(fraction) else f"{100 * fraction:.2f} %"


def format_seconds(seconds: float) -> str:
    """Return seconds such as 9.87 or 12.3, without the unit."""
    return f"{seconds:.2f}" if seconds < 9.995 else f"{seconds:.1f}"


def format_rough_duration(seconds: float) -> str:
    """Return an estimated duration such as 40 s, 9 min or 2.5 h."""
    if seconds < 95:
        return f"{max(10, 10 * round(seconds / 10))} s"
    return f"{seconds / 60:.0f} min" if seconds < 95 * 60 else f"{seconds / 3600:.1f} h"


def format_duration(seconds: float) -> str:
    """Return a duration such as 9.87 s, 3 min 5 s or 2 h 10 min."""
    if seconds < 59.95:
        return f"{format_seconds(seconds)} s"
    if seconds < 3599.5:
        return "{} min {} s".format(*divmod(round(seconds), 60))
    return "{} h {} min".format(*divmod(round(seconds / 60), 60))
