"""Hooks for mkdocs.yml: add the files outside docs/ that pages link to, and the scripts that the site needs."""

from __future__ import annotations

import re
from pathlib import Path
from posixpath import dirname, normpath, relpath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
DOCS, OUTSIDE = "docs", "project"
PAGES = ("CONTRIBUTING.md", "CHANGELOG.md")
LINK = re.compile(r"(\]\()(?!https?:|#|mailto:)([^)\s#]+)")
SCRIPTS = ("mermaid.min.js", "iframe-worker.js")
"""Of npm packages: they draw diagrams, and let the search work without a server."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files of the repository that pages link to, below `project/`, and the scripts.

    Raises:
        PluginError: a script is missing.
    """
    for name in SCRIPTS:
        script = ROOT / "build" / "npm" / name
        if not script.is_file():
            raise PluginError(f"{script}: no such file. Build the site with make docs.")
        files.append(File.generated(config, f"javascripts/{name}", abs_src_path=str(script)))
    pages = [path.relative_to(ROOT).as_posix() for path in (ROOT / DOCS).glob("*.md")]
    for path in sorted({target for page in [*pages, *PAGES] for target in linked_files(page)}.union(PAGES)):
        files.append(File.generated(config, f"{OUTSIDE}/{path}", abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Change the links of a page from places in the repository to places on the site."""
    place = page.file.src_uri
    source = place.removeprefix(f"{OUTSIDE}/") if place.startswith(OUTSIDE) else f"{DOCS}/{place}"

    def change(match: re.Match[str]) -> str:
        target = normpath(f"{dirname(source)}/{match[2]}") if dirname(source) else normpath(match[2])
        inside = target.startswith(f"{DOCS}/")
        on_site = target.removeprefix(f"{DOCS}/") if inside else f"{OUTSIDE}/{target}"
        return match[1] + relpath(on_site, dirname(place) or ".")

    return LINK.sub(change, markdown)


def linked_files(page: str) -> set[str]:
    """Return the files outside docs/ that a page links to, relative to the repository like the page itself."""
    targets = {normpath(f"{dirname(page)}/{link}").lstrip("/") for _, link in LINK.findall((ROOT / page).read_text())}
    return {target for target in targets if not target.startswith(f"{DOCS}/") and (ROOT / target).is_file()}
