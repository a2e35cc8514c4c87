"""Mutants of a .beton: damaged copies, given to the checker and to FFCV's loader.

Nothing may crash or hang, and no mutant may pass the checks against the manifest. Without a manifest, a mutant may be
refused, or load as well-formed images. The JSON of these outcomes comes from `python -m tests.robustness.reliability`.
"""

from __future__ import annotations

import collections
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from fastcifar.data.beton_format import ALLOCATION, FIELD, FIELDS, HEADER, SAMPLE, VERSION, read_index
from fastcifar.data.decode_all import decode_all
from fastcifar.data.manifest import manifest_path, open_beton
from fastcifar.errors import FastCifarError
from tests.robustness.damage import Edit, Edits, Strategy, draw_examples, edited_in_place, mutations
from tests.robustness.processes import exit_code
from tests.robustness.results import outcome

PER_PROCESS = 500
"""Mutants that one process checks."""
REFUSED = 3
"""Exit code of a process whose mutant was refused."""


def beton_mutations(beton: Path) -> Strategy:
    """Draw damage to a .beton: most of a file is pixels, but damage to the header and the tables is more dangerous."""
    content, samples = beton.read_bytes(), read_index(beton).samples
    fields_end = HEADER.itemsize + len(FIELDS) * FIELD.itemsize
    tables = (
        range(HEADER.itemsize),
        range(HEADER.itemsize, fields_end),
        range(fields_end, fields_end + samples * SAMPLE.itemsize),
        range(len(content) - samples * ALLOCATION.itemsize, len(content)),
    )
    labels = [fields_end + (number + 1) * SAMPLE.itemsize - 8 for number in range(samples)]
    return mutations(content, tables, other=[_other_headers(len(content)), _other_labels(labels)])


def _other_headers(size: int) -> st.SearchStrategy[Edit]:
    """Draw headers of files with other page sizes, or with more or fewer samples."""

    def header(page_bits: int, samples: int, table: int) -> Edit:
        values = np.zeros(1, dtype=HEADER)
        values["version"], values["num_fields"] = VERSION, len(FIELDS)
        values["page_size"], values["num_samples"], values["alloc_table_ptr"] = 1 << page_bits, samples, table
        return Edit(0, values.tobytes())

    return st.builds(header, st.integers(10, 30), st.integers(1, 200), st.integers(1, 2 * size))


def _other_labels(positions: Sequence[int]) -> st.SearchStrategy[Edit]:
    """Draw other labels, among them labels of classes that do not exist."""
    label = st.integers(-(2**63), 2**63 - 1) | st.integers(0, 9)
    data = label.map(lambda value: value.to_bytes(8, "little", signed=True))
    return st.builds(Edit, st.sampled_from(positions), data)


def check_mutants(beton: Path, count: int, seed: int) -> tuple[dict[str, Any], list[Edits]]:
    """Count the checker's outcomes, with the manifest and without; return also the mutants that pass without it."""
    mutants = draw_examples(beton_mutations(beton), count, seed)
    counts: collections.Counter[str] = collections.Counter()
    passed: list[Edits] = []
    for start in range(0, count, PER_PROCESS):
        chunk = mutants[start : start + PER_PROCESS]
        with tempfile.TemporaryDirectory() as folder:
            code = exit_code(_check, beton, chunk, Path(folder))
            outcomes = json.loads((Path(folder) / "outcomes.json").read_text()) if code == 0 else []
        if code != 0:
            counts["hangs" if code is None else "crashes"] += 1
        for edits, (without, with_manifest) in zip(chunk, outcomes, strict=False):
            counts[f"without manifest: {without}"] += 1
            counts[f"with manifest: {with_manifest}"] += 1
            passed += [edits] if without == "passed" else []
    return {"count": count, "crashes": 0, "hangs": 0, **counts}, passed


def _check(beton: Path, mutants: list[Edits], folder: Path) -> None:
    """Write the outcomes of the mutants to outcomes.json in `folder`."""
    path, content = copy_beton(beton, folder), beton.read_bytes()
    outcomes = []
    for edits in mutants:
        with edited_in_place(path, content, edits):
            with_manifest = outcome(lambda: open_beton(path))
            if with_manifest == "passed":
                with_manifest = "unchanged" if path.read_bytes() == content else "passed on other bytes"
            outcomes.append((outcome(lambda: read_index(path)), with_manifest))
    (folder / "outcomes.json").write_text(json.dumps(outcomes))


def load_mutants(beton: Path, mutants: list[Edits]) -> dict[str, Any]:
    """Count the outcomes of loading an epoch of each mutant, each in a new process, without a manifest."""
    content = beton.read_bytes()
    counts: collections.Counter[str] = collections.Counter({"crashes": 0, "hangs": 0})
    with tempfile.TemporaryDirectory() as folder:
        path = copy_beton(beton, Path(folder))
        manifest_path(path).unlink()
        for edits in mutants:
            with edited_in_place(path, content, edits):
                code = exit_code(_load, path)
            counts["hangs" if code is None else {0: "loaded", REFUSED: "refused"}.get(code, "crashes")] += 1
    return {"count": len(mutants), **counts}


def _load(path: Path) -> None:
    try:
        images, _ = decode_all(path)
    except FastCifarError:
        sys.exit(REFUSED)
    int(images.sum())  # reads every pixel


def copy_beton(beton: Path, folder: Path) -> Path:
    """Copy a .beton and its manifest to another folder."""
    for path in (beton, manifest_path(beton)):
        shutil.copy(path, folder)
    return folder / beton.name
