"""List identifiers of version 0.1 that were renamed in 0.2 and are still used; exit 1 if there are any.

    python -m tests.old_names

Names that are also ordinary words, such as `views` or `stop`, are looked for only where version 0.1 defined them.
fastcifar/migrations.py, which reads the files of 0.1, and this file may name them.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDERS = ("fastcifar", "benchmarks", "tests", "scripts")
EXEMPT = {"fastcifar/migrations.py", "tests/old_names.py", "tests/test_migrations.py"}

RENAMED = set(
    """
looked_at ViewSettings PLAIN_VIEW told_what_fits Recorded REHEARSALS _record_steps _rehearse _made_up_batch take_step
StepForm step_forms step_form MOST_FORMS FiniteGuard rate_table freeze_after require_parts frozen_parts small_sizes
small_shares tta_share whiten_by_data held_out quoted_accuracy StopRequest Network SavedNetwork padded_logits
FREE_TO_CHANGE refuse_another_run _left_as_it_was _Trial _useless FALLEN
go_on resident ResidentLoader _stay Unchanged PATIENCE torch_threads_kept plain_dicts mapped_tables Layout
image_slots read_layout ACCEPTED replacing _only_writer
convolve_side_by_side MOST_BESIDE LARGEST_BESIDE convolve_densely LARGEST_DENSE _faster_way _ordered _turned _takes
_in_parallel ELEMENTS _clamp _unclamp _unpool head_std Reach
Picture _lay drawable folded _verdict begun portable run_apart time_in_turn write_victim _swollen MANNERS
epochs_worth soonest_table pace_table create_configured_model create_configured_augmentation open_network
""".split()  # noqa: SIM905
)
"""Looked for as an identifier anywhere."""

RENAMED_DEFINITIONS = {
    "fastcifar": "mirrored reported schedule rates recorded betons copied mirror tiles which said sure mark goal "
    "beside pieces",
    "fastcifar/training": "epoch first_step steps stop views",
    "fastcifar/optim": "orthogonal length lr_ratio",
    "fastcifar/lr_finder": "fall",
    "fastcifar/data": "Epoch ENVIRONMENT content_sha256",
    "fastcifar/runs": "content_sha256",
    "fastcifar/report": "write paper ink faint",
    "fastcifar/analysis": "places",
    "benchmarks": "derive without",
}
"""Looked for as the name of a definition in a folder: a function, a class, a constant, a field or a parameter."""

ALLOWED = {
    "fastcifar/training": {"stop", "steps"},  # parameters of `fit_epochs` and `run_epoch`, and local variables
    "fastcifar/data": {"content_sha256"},  # the manifest's key
    "fastcifar/runs": {"content_sha256"},  # a key of environment.json
}


def identifiers(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every identifier in a module, with its line."""
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        for field in ("id", "attr", "name", "arg", "asname"):
            if isinstance(name := getattr(node, field, None), str):
                yield name.split(".")[-1], line


def definitions(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """The names of functions, classes, constants, fields and parameters, with their lines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name, node.lineno
            body = node.body if isinstance(node, ast.ClassDef) else []
        elif isinstance(node, ast.Module):
            body = node.body
        else:
            body = []
        for statement in body:
            targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
            yield from ((target.id, statement.lineno) for target in targets if isinstance(target, ast.Name))
        if isinstance(node, ast.arg):
            yield node.arg, node.lineno


def old_names(path: Path) -> Iterator[str]:
    """A line for each old name in a file."""
    place, tree = path.relative_to(ROOT).as_posix(), ast.parse(path.read_text())
    found = {(name, line) for name, line in identifiers(tree) if name in RENAMED}
    for folder, names in RENAMED_DEFINITIONS.items():
        if place.startswith(f"{folder}/"):
            searched = set(names.split()) - ALLOWED.get(folder, set())
            found |= {(name, line) for name, line in definitions(tree) if name in searched}
    for name, line in sorted(found, key=lambda entry: entry[1]):
        yield f"{place}:{line}: {name}"


def main() -> int:
    """Print every old name that is still used."""
    paths = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    lines = [line for path in paths if path.relative_to(ROOT).as_posix() not in EXEMPT for line in old_names(path)]
    print("\n".join(lines) if lines else "no old name is used")
    return int(bool(lines))


if __name__ == "__main__":
    sys.exit(main())
