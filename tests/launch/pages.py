"""The files and commands that a page of docs/ shows."""

import re
from pathlib import Path


def files_of(page: str) -> dict[str, str]:
    """Path -> source of each file that the page shows under its name."""
    shown = re.findall(r"`([\w/]+\.py)`:\n\n```python\n(.*?)```", page, re.DOTALL)
    return dict(shown)


def console_lines(page: str) -> list[str]:
    """The lines of the page's console blocks, comments included."""
    blocks = re.findall(r"```console\n(.*?)```", page, re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def write_files(page: str, folder: Path) -> None:
    for name, source in files_of(page).items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(source)
