"""`fastcifar doctor`."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Show versions, devices and FFCV's health, and what to do about each thing that is missing."""

    def run(self) -> int:
        """Exit code 1 if anything is missing."""
        from fastcifar.doctor import examine, show

        findings = examine()
        show(findings, Console(highlight=False))
        return int(any(finding.status == "missing" for finding in findings))
