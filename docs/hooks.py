"""Hooks of MkDocs: files of the root become pages, links to files without a page become text, pictures have two modes.

In docs/, links to files of the repository work when the pages are read there. On the site only pages can be linked;
with `repo_url` in mkdocs.yml, the other links lead to the repository. A <picture> follows the system's dark mode; on
the site it must follow the switch.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
ROOT_PAGES = {name: f"{name.lower()}" for name in ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")}
"""Files of the root that are pages of the site, and the names of these pages."""
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#:]+)(#[^)\s]*)?\)")
"""A link or an image with a relative target."""
PICTURE = re.compile(r'<picture>.*?<img src="([^"]*)-wide-light\.(\w+)"[^>]*? alt="([^"]*)">\s*</picture>', re.DOTALL)
"""A picture with a wide and a narrow version, each light and dark."""
FENCE = re.compile(r"(^ *(`{3,}|~{3,}).*?^ *\2[ ]*$)", re.DOTALL | re.MULTILINE)
"""A fenced block of code, which has no links."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the root."""
    for name, page in ROOT_PAGES.items():
        if (ROOT / name).exists():
            files.append(File.generated(config, page, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Adapt the links and the pictures of a page."""
    source = Path(str(page.file.abs_src_path))
    return adapt_links(adapt_pictures(markdown), source, page.file.src_uri, config.repo_url)


def adapt_pictures(markdown: str) -> str:
    """Replace each picture by its four versions, of which the theme and extra.css show one."""

    def adapt(match: re.Match[str]) -> str:
        name, suffix, alt = match[1], match[2], " ".join(match[3].split())
        return "\n".join(
            f"![{alt}]({name}-{width}-{scheme}.{suffix}#only-{scheme}){{ .{width} loading=lazy }}"
            for width in ("wide", "narrow")
            for scheme in ("light", "dark")
        )

    return PICTURE.sub(adapt, markdown)


def adapt_links(markdown: str, source: Path, page: str, repo_url: str | None) -> str:
    """Make the links of a file lead to pages of the site, to the repository, or nowhere.

    Args:
        markdown: the content of the file.
        source: the path of the file.
        page: the page that it becomes, relative to docs/.
        repo_url: the address of the repository, if there is one.
    """

    def adapt(match: re.Match[str]) -> str:
        image, text, target, anchor = match[1], match[2], match[3], match[4] or ""
        path = Path(os.path.normpath(source.parent / target))
        if not path.is_relative_to(ROOT) or not path.exists():
            return match[0]
        name = str(path.relative_to(ROOT))
        if path.is_relative_to(DOCS):
            to = str(path.relative_to(DOCS))
        elif name in ROOT_PAGES:
            to = ROOT_PAGES[name]
        elif name == "README.md":
            to, anchor = "index.md", ""
        elif repo_url:
            return f"{image}[{text}]({repo_url.rstrip('/')}/blob/main/{name}{anchor})"
        else:
            return text
        return f"{image}[{text}]({os.path.relpath(to, Path(page).parent)}{anchor})"

    parts = FENCE.split(markdown)  # text, fence, its marks, text, …
    return "".join(LINK.sub(adapt, part) if at % 3 == 0 else part for at, part in enumerate(parts) if at % 3 != 2)
