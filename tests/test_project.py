"""The files of the project agree with each other."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml

import fastcifar

ROOT = Path(__file__).parent.parent


def test_the_citation_and_the_changelog_are_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == fastcifar.__version__
    newest = re.search(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert newest is not None
    assert newest[1] in (fastcifar.__version__, "Unreleased")


def test_ci_runs_with_each_python_version_that_the_package_names() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text())
    versions = workflow["jobs"]["checks"]["strategy"]["matrix"]["python"]
    assert versions == [name for each in project["classifiers"] if re.fullmatch(r"3\.\d+", name := each.split()[-1])]
    assert project["requires-python"] == f">={versions[0]}"


def test_each_step_of_ci_that_a_workflow_names_exists() -> None:
    steps = re.findall(r"^(\w+)\(\) \{$", (ROOT / ".ci" / "run").read_text(), flags=re.MULTILINE)
    assert {"checks", "docs", "tests"} <= set(steps)
    for workflow in (ROOT / ".github" / "workflows").glob("*.yml"):
        for named in re.findall(r"bash \.ci/run(.*)", workflow.read_text()):
            assert set(named.split()) <= set(steps)


def test_the_container_gets_the_files_that_it_copies() -> None:
    """.dockerignore leaves out everything except what the Dockerfile copies."""
    copied = re.findall(r"^COPY (.+) \S+$", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    kept = re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), flags=re.MULTILINE)
    for path in " ".join(copied).split():
        assert (ROOT / path).exists()
        assert any(Path(path).is_relative_to(folder) for folder in kept), path
