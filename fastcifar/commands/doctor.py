"""`fastcifar doctor`."""

from dataclasses import dataclass

from rich.console import Console


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Show versions and devices, check FFCV, and explain how to fix each problem."""

    def run(self) -> int:
        """Print all findings and return exit code 1 if anything is missing, 0 otherwise."""
        from fastcifar.doctor import examine, show

        findings = examine()
        show(findings, Console(highlight=False))
        return int(any(finding.status == "missing" for finding in findings))
