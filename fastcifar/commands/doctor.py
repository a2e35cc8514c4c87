"""`fastcifar doctor`."""

from dataclasses import dataclass

from fastcifar.report.terminal import make_console


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Show versions and devices, check FFCV, and explain how to fix each problem."""

    def run(self) -> int:
        """Print all findings and return exit code 1 if anything is missing, 0 otherwise."""
        from fastcifar.doctor import examine, show

        findings = examine()
        show(findings, make_console())
        return int(any(finding.status == "missing" for finding in findings))
