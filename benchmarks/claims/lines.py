"""Lines of code of each twin, by file: without blank lines, comments and docstrings."""

import ast
from pathlib import Path

TWINS = {"torch": "torch_impl", "jax": "jax_impl"}


def count_lines(root: Path) -> dict[str, dict[str, int]]:
    """File -> twin -> lines."""
    files = sorted({p.name for t in TWINS.values() for p in (root / t).glob("*.py")})
    return {
        file: {
            name: code_lines(path.read_text())
            if (path := root / folder / file).exists()
            else 0
            for name, folder in TWINS.items()
        }
        for file in files
        if file != "__init__.py"
    }


def code_lines(source: str) -> int:
    r"""Lines on which something is that runs.

    >>> code_lines('"What."\\n\\nx = 1  # why\\ny = [\\n    x,\\n]\\n# end\\n')
    4
    """
    docstrings = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            docstrings |= set(range(node.lineno, (node.end_lineno or 0) + 1))
    return sum(
        bool(line.strip()) and not line.strip().startswith("#")
        for number, line in enumerate(source.splitlines(), 1)
        if number not in docstrings
    )
