"""Hooks of mkdocs: links that leave docs/ lead to pages of the site as well.

The README and other pages of the project are added with their links, source files as
pages of code. The order of the navigation is that of docs/README.md's table, so a page
that it does not name is an error under `strict`.
"""

import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File, Files, InclusionLevel

PROJECT = "project"  # the site's folder of what is outside docs/
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")  # in the navigation
LINK = re.compile(r"(?<=\]\()([^)\s#:]+)(?=[)#])")
LANGUAGES = {".py": "python", ".yaml": "yaml", ".toml": "toml", ".sbatch": "bash"}
WIDE = ("claims.md", "twins.md")  # pages that need the width of the navigation


def on_config(config: Any) -> Any:
    start = (_root(config) / "docs" / "README.md").read_text()
    pages = dict.fromkeys(link for link in LINK.findall(start) if "/" not in link)
    project = [f"{PROJECT}/{page}" for page in PAGES]
    config.nav = ["README.md", *pages, {"Project": project}]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add whatever is linked to outside docs/, and what the project's pages link to."""
    root = _root(config)
    todo = [f"docs/{file.src_uri}" for file in files.documentation_pages()]
    todo += PAGES
    seen = set()
    while todo:
        path = todo.pop()
        if path in seen:
            continue
        seen.add(path)
        if not path.startswith("docs/"):
            files.append(_added(path, config))
        if path.endswith(".md"):
            linked = _targets(root, path).values()
            todo += [target for target in linked if not target.startswith("docs/")]
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    root, uri = _root(config), page.file.src_uri
    if uri in WIDE:
        page.meta["hide"] = ["navigation", "toc"]
    outside = uri.startswith(f"{PROJECT}/")
    path = uri.removeprefix(f"{PROJECT}/") if outside else f"docs/{uri}"
    if not (root / path).is_file():  # a page of code, which has another ending
        page.meta["search"] = {"exclude": True}
        return markdown
    targets = {
        link: os.path.relpath(_uri(target), PurePosixPath(uri).parent)
        for link, target in _targets(root, path).items()
    }
    linked = LINK.sub(lambda found: targets.get(found[0], found[0]), markdown)
    return _indented(linked)


def _indented(markdown: str) -> str:
    """What follows in a list's item indented by 4, where GitHub takes 2 or 3."""
    lines, width, code = [], 0, False
    for line in markdown.splitlines():
        if line.startswith("```"):
            code, width = not code, 0
        elif code:
            pass
        elif item := re.match(r"(?:[-*]|\d+\.) +", line):
            width = item.end()
        elif line and not line.startswith(" " * max(width, 1)):
            width = 0
        elif width and line.strip():
            line = " " * 4 + line[width:]
        lines.append(line)
    return "\n".join(lines) + "\n"


def _root(config: Any) -> Path:
    return Path(config.config_file_path).resolve().parent


def _added(path: str, config: Any) -> File:
    """A file of the repository as a page: Markdown as it is, all else as code."""
    text = (_root(config) / path).read_text()
    if not path.endswith(".md"):
        language = LANGUAGES.get(Path(path).suffix, "text")
        text = f"# `{path}`\n\n``````{language}\n{text}``````\n"
    inclusion = InclusionLevel.UNDEFINED if path in PAGES else InclusionLevel.NOT_IN_NAV
    return File.generated(config, _uri(path), content=text, inclusion=inclusion)


def _uri(path: str) -> str:
    """The site's source of a file of the repository."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return f"{PROJECT}/{path}{'' if path.endswith('.md') else '.md'}"


def _targets(root: Path, path: str) -> dict[str, str]:
    """Link -> file of the repository, of the links of a page that lead to files."""
    found = {}
    for link in LINK.findall((root / path).read_text()):
        target = os.path.normpath(PurePosixPath(path).parent / link)
        if (root / target).is_file():
            found[link] = target
    return found
