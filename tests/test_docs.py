"""The documentation: its examples run, its commands are accepted, its links lead somewhere, and it is up to date."""

from __future__ import annotations

import itertools
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from docs import generate
from docs.hooks import adapt_links, adapt_pictures
from fastcifar.cli import COMMANDS, main
from fastcifar.recipes import RECIPES
from fastcifar.runs.folder import write_json
from fastcifar.runs.seeds import SeedOptions, SeedsFolder
from fastcifar.sweep.folder import SweepFolder
from fastcifar.sweep.plan import SweepOptions, SweepPlan
from fastcifar.training.resume import RESUME_OVERRIDABLE
from tests.helpers import write_pair

ROOT = Path(__file__).parent.parent
DOCS = sorted((ROOT / "docs").rglob("*.md"))
FILES = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("examples/*.md")), *sorted(ROOT.glob("benchmarks/*.md")), *DOCS]
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
CODE_WIDTH = 80
"""Characters of code that the site shows on a laptop without a scroll bar."""


def _id(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _blocks(path: Path, *languages: str) -> list[str]:
    return [code for _, language, code in FENCE.findall(path.read_text()) if language in languages]


def _shell_lines(path: Path) -> Iterator[str]:
    """The commands in a file's blocks of shell code, fenced or indented by four spaces, with continued lines joined."""
    text = path.read_text()
    indented = "\n".join(re.findall(r"^ {4}(\S.*)$", FENCE.sub("", text), flags=re.MULTILINE))
    for block in (*_blocks(path, "bash", "sh", "console", ""), indented):
        yield from block.replace("\\\n", " ").splitlines()


def _commands(program: str) -> list[tuple[str, str]]:
    """Every command line that starts with `program`, with its file."""
    lines = ((_id(path), line.strip().removeprefix("$ ")) for path in FILES for line in _shell_lines(path))
    return sorted({(name, line) for name, line in lines if line.startswith(f"{program} ")})


# Python examples


@pytest.mark.slow
@pytest.mark.parametrize("page", [path for path in DOCS if _blocks(path, "python")], ids=_id)
def test_the_examples_of_each_page_run_one_after_the_other(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pair(tmp_path / "data" / "betons", train=520, test=40)
    Image.fromarray(np.zeros((50, 40, 3), dtype=np.uint8)).save(tmp_path / "cat.jpg")
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__main__"}
    for example in _blocks(page, "python"):
        exec(compile(example, str(page), "exec"), namespace)


def test_the_guides_have_examples() -> None:
    names = {_id(path) for path in DOCS if _blocks(path, "python")}
    guides = {f"docs/guides/{guide}.md" for guide in ("your-data", "your-model", "your-training-loop", "runs")}
    assert {"docs/getting-started.md", "docs/tutorial.md", *guides} <= names


@pytest.mark.parametrize("page", DOCS, ids=_id)
def test_code_fits_a_laptop_without_a_scroll_bar(page: Path) -> None:
    lines = [line for _, _, code in FENCE.findall(page.read_text()) for line in code.splitlines()]
    assert [line for line in lines if len(line) > CODE_WIDTH] == [] or page.name == "benchmarks.md"


# Commands


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the configuration of a run, and of many, which `--resume` reads for the defaults of the flags."""
    folder, config = tmp_path_factory.mktemp("run"), RECIPES["era"]()
    write_json(folder / "config.json", config.to_json())
    SeedsFolder(folder, config, "").write([], SeedOptions(runs=10))
    options = SweepOptions(method="random")
    SweepFolder(folder, SweepPlan(options=options, space={}, recipes={"era": config}, content_sha256="")).write()
    return folder


@pytest.mark.parametrize(("file", "line"), _commands("fastcifar"), ids=lambda value: value)
def test_the_command_line_accepts_each_command(
    file: str, line: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.toml").write_text('extends = "speedrun"\n')
    monkeypatch.chdir(tmp_path)
    for kind in COMMANDS.values():
        monkeypatch.setattr(kind, "run", lambda command: 0)
    words = itertools.takewhile(lambda word: word[0] not in "|>&;", shlex.split(line, comments=True)[1:])
    arguments = [re.sub(r"^runs/\S*", str(run), word) for word in words]
    try:
        code = main(arguments)
    except SystemExit as stopped:  # --help
        code = stopped.code
    assert code == 0, f"{file}: {line}"


def test_the_docs_show_each_command() -> None:
    shown = {line.split()[1] for _, line in _commands("fastcifar")}
    assert set(COMMANDS) <= shown


@pytest.mark.parametrize(("file", "line"), [*_commands("bash"), *_commands("python")], ids=lambda value: value)
def test_each_script_and_module_exists(file: str, line: str) -> None:
    _, *arguments = shlex.split(line, comments=True)
    if arguments[0] == "-m":
        assert find_spec(arguments[1]) is not None, file
    else:
        assert (ROOT / arguments[0]).is_file(), file


# Generated parts


def test_the_generated_parts_are_up_to_date(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["generate", "--check"])
    assert generate.main() == 0, capsys.readouterr().err


def test_each_generated_part_is_on_a_page() -> None:
    pages = "\n".join((ROOT / "docs" / page).read_text() for page in generate.PAGES)
    for name in generate.PARTS:
        assert f"<!-- {name} -->" in pages
        assert f"<!-- end {name} -->" in pages


def test_a_changed_part_is_noticed_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(generate, "ROOT", tmp_path)
    monkeypatch.setattr(generate, "PAGES", ("page.md",))
    page = tmp_path / "docs" / "page.md"
    page.parent.mkdir()
    page.write_text("Before.\n\n<!-- commands -->\nan old part\n<!-- end commands -->\n\nAfter.\n")
    monkeypatch.setattr(sys, "argv", ["generate", "--check"])
    assert generate.main() == 1
    assert "docs/page.md is not up to date" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["generate"])
    assert generate.main() == 0
    text = page.read_text()
    assert text.startswith("Before.\n\n<!-- commands -->\n\n| command |")
    assert "| `fastcifar train` | " in text
    assert "an old part" not in text
    assert text.endswith("<!-- end commands -->\n\nAfter.\n")
    assert generate.filled(text) == text


def test_every_recipe_and_every_setting_is_described() -> None:
    recipes, settings = (ROOT / "docs" / "recipes.md").read_text(), (ROOT / "docs" / "settings.md").read_text()
    assert all(f"\n### {name}\n" in recipes for name in RECIPES)
    names = RECIPES["era"]().to_json().keys() - {"base_recipe"}
    assert [name for name in names if not re.search(rf"`--(\[no-\])?{name.replace('_', '-')}[ `]", settings)] == []


def test_the_settings_that_a_resumed_run_may_change_are_listed() -> None:
    text = (ROOT / "docs" / "guides" / "runs.md").read_text()
    assert [name for name in RESUME_OVERRIDABLE - {"run_dir"} if f"`{name}`" not in text] == []


# Links


def _anchors(path: Path) -> set[str]:
    """The anchors of a file's headings, on the site and on code hosts alike."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", path.read_text()), flags=re.MULTILINE)
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)|[`*]", r"\1", heading) for heading in headings)
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in plain}


@pytest.mark.parametrize("file", FILES, ids=_id)
def test_each_link_inside_the_repository_leads_to_a_file_and_a_heading(file: Path) -> None:
    text = re.sub(r"`[^`\n]*`", "", FENCE.sub("", file.read_text()))
    broken = []
    for target in LINK.findall(text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (file.parent / name).resolve() if name else file
        if not path.is_relative_to(ROOT) or not path.exists() or (anchor and anchor not in _anchors(path)):
            broken.append(target)
    assert broken == []


def test_links_that_leave_the_docs_lead_to_pages_or_become_text() -> None:
    source = ROOT / "docs" / "guides" / "page.md"
    text = (
        "[a](../tutorial.md#x) [b](../../SECURITY.md) [c](../../README.md) [`d`](../../pyproject.toml) [e](https://x.y)"
    )

    def adapted(repo_url: str | None) -> str:
        return adapt_links(text, source, "guides/page.md", repo_url)

    pages = "[a](../tutorial.md#x) [b](../security.md) [c](../index.md)"
    assert adapted(None) == f"{pages} `d` [e](https://x.y)"
    assert adapted("https://h/o/r") == f"{pages} [`d`](https://h/o/r/blob/main/pyproject.toml) [e](https://x.y)"
    fenced = "```text\n[d](../../pyproject.toml)\n```\n"
    assert adapt_links(fenced, source, "guides/page.md", None) == fenced
    root = adapt_links("[t](docs/tutorial.md)", ROOT / "CONTRIBUTING.md", "contributing.md", None)
    assert root == "[t](tutorial.md)"


def test_a_picture_becomes_four_images_that_follow_the_switch() -> None:
    picture = (ROOT / "docs" / "index.md").read_text()
    adapted = adapt_pictures(picture)
    assert "<picture>" not in adapted
    images = re.findall(r"!\[The console of a run: [^\]]*\]\(images/console-(\S+)\.svg#only-(\w+)\)\{ \.(\w+)", adapted)
    versions = {(f"{width}-{scheme}", scheme, width) for width in ("wide", "narrow") for scheme in ("light", "dark")}
    assert len(images) == 4
    assert set(images) == versions
    assert all((ROOT / "docs" / "images" / f"console-{name}.svg").is_file() for name, _, _ in versions)


# The site


class _Requests(HTMLParser):
    """The addresses that a browser fetches when it shows a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag in ("script", "img", "iframe", "source"):
            self.addresses.append(values.get("src") or "")
        elif tag == "link" and values.get("rel") not in ("canonical", "next", "prev"):
            self.addresses.append(values.get("href") or "")


@pytest.mark.slow
def test_the_site_builds_without_warnings_and_makes_no_request_to_another_server(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}  # the theme's notice about its successor
    done = subprocess.run(command, check=False, cwd=ROOT, env=quiet, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > len(DOCS)  # the changelog and other files of the root, too
    for page in pages:
        text = page.read_text()
        foreign = [address for address in _Requests(text).addresses if re.match(r"(https?:)?//", address)]
        assert foreign == [], page
        assert "fonts.googleapis" not in text
    assert not list((tmp_path / "site").rglob("*.py"))
