"""Write docs/twins.md: each pair of functions of the twins, side by side.

    python launch/twins.py

The code is read from both twins, what differs and why from docs/twins.yaml.
"""

import launch  # isort: skip  # noqa: F401  (launch/launch.py says why)

import ast
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from launch.overrides import ROOT

PAGE = ROOT / "docs" / "twins.md"
NOTES = ROOT / "docs" / "twins.yaml"
TWINS = {"PyTorch": "torch_impl", "JAX": "jax_impl"}
WHOLE_LINES = 24  # at most, of code that is shown whole
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef

INTRO = """\
# The twins, side by side

<!-- written by `python launch/twins.py` from the code and from docs/twins.yaml -->

`torch_impl/` and `jax_impl/` have the same files, and these the same functions in the
same order. Here they stand beside each other, with what differs and why. Short
functions are whole, of long ones there is the signature; the files have the rest.
"""


@dataclass(frozen=True)
class Code:
    """A module's source and its public functions and classes, in order."""

    source: str
    definitions: dict[str, Definition]

    @classmethod
    def of(cls, source: str) -> "Code":
        return cls(
            source,
            {
                node.name: node
                for node in ast.parse(source).body
                if isinstance(node, Definition) and not node.name.startswith("_")
            },
        )


def main() -> None:
    PAGE.write_text(page(read_notes(), read_twins(ROOT)))
    print(f"written: {PAGE.relative_to(ROOT)}")


def read_notes() -> dict[str, Any]:
    """docs/twins.yaml: topics, and for each file what differs and what is alone."""
    return yaml.safe_load(NOTES.read_text())


def read_twins(root: Path) -> dict[str, tuple[Code, ...]]:
    """File -> PyTorch's and JAX's code, of every file that defines something."""
    folders = [root / twin for twin in TWINS.values()]
    files = {path.name for folder in folders for path in folder.glob("*.py")}
    pairs = {
        file: tuple(
            Code.of(place.read_text() if (place := folder / file).exists() else "")
            for folder in folders
        )
        for file in sorted(files)
    }
    return {f: pair for f, pair in pairs.items() if any(c.definitions for c in pair)}


def problems(notes: dict[str, Any], twins: dict[str, tuple[Code, ...]]) -> list[str]:
    """What the notes lack, and what they say of code that is gone."""
    found = [f"{file}: has no entry" for file in twins if file not in notes["files"]]
    for file, entry in notes["files"].items():
        if file not in twins:
            found.append(f"{file}: is gone")
            continue
        torch, jax = (set(code.definitions) for code in twins[file])
        alone, differs = set(entry.get("alone", ())), set(entry.get("differs", ()))
        for name in sorted((torch ^ jax) - alone):
            found.append(f"{file} {name}: has no counterpart, and no reason for it")
        for name in sorted(torch & jax):
            alike = same(*(code.definitions[name] for code in twins[file]))
            if not alike and name not in differs:
                found.append(f"{file} {name}: does not say what differs")
            if alike and name in differs:
                found.append(f"{file} {name}: says what differs, and nothing does")
        for name in sorted(alone - (torch ^ jax)):
            found.append(f"{file} {name}: is not alone, or is gone")
        for name in sorted(differs - (torch & jax)):
            found.append(f"{file} {name}: is not a pair, or is gone")
    for topic in notes["topics"]:
        for place in topic["read"]:
            file, _, name = place.partition(" ")
            codes = twins.get(file, ())
            if not any(name in code.definitions for code in codes):
                found.append(f"topic {topic['title']!r}: {place} is gone")
    return found


def same(torch: Definition, jax: Definition) -> bool:
    """Whether two definitions differ in nothing but docstrings and annotations."""
    return ast.dump(_bare(torch)) == ast.dump(_bare(jax))


def _bare(node: Definition) -> ast.AST:
    """Without docstrings and annotations, which name each framework's arrays."""
    node = ast.parse(ast.unparse(node)).body[0]  # a copy  # pyright: ignore[reportAssignmentType]
    for inner in ast.walk(node):
        if isinstance(inner, Definition) and ast.get_docstring(inner) is not None:
            inner.body = inner.body[1:] or [ast.Pass()]
        if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
            inner.returns = None
        if isinstance(inner, ast.arg):
            inner.annotation = None
        if isinstance(inner, ast.AnnAssign):
            inner.annotation = ast.Name("annotation")
    return node


def page(notes: dict[str, Any], twins: dict[str, tuple[Code, ...]]) -> str:
    """Markdown.

    Raises:
      ValueError: if a counterpart or an entry is missing, or an entry is obsolete.
    """
    if wrong := problems(notes, twins):
        raise ValueError("docs/twins.yaml: " + "; ".join(wrong))
    parts = [INTRO, _topics(notes["topics"])]
    parts += [_file(f, entry, *twins[f]) for f, entry in notes["files"].items()]
    return "\n".join(parts)


def _topics(topics: list[dict[str, Any]]) -> str:
    lines = ["| topic | what differs | read |", "|---|---|---|"]
    for topic in topics:
        read = ", ".join(_link(*place.split(" ")) for place in topic["read"])
        lines.append(f"| {topic['title']} | {topic['text']} | {read} |")
    return "\n".join(lines) + "\n"


def _link(file: str, name: str) -> str:
    """To the heading of a pair, whose anchor has no dot and no colon."""
    return f"[`{name}`](#{file.replace('.', '')}-{name.lower()})"


def _file(file: str, entry: dict[str, Any], torch: Code, jax: Code) -> str:
    links = " and ".join(f"[{t}/{file}](../{t}/{file})" for t in TWINS.values())
    parts = [f"## {file}\n\n{entry['about']} {links}.\n"]
    # In JAX's order, and what PyTorch alone has where it stands there.
    names = list(jax.definitions)
    for position, name in enumerate(torch.definitions):
        if name not in names:
            names.insert(position, name)
    for name in names:
        nodes = [code.definitions.get(name) for code in (torch, jax)]
        parts.append(f"### {file}: {name}\n")
        if reason := entry.get("alone", {}).get(name):
            framework = "PyTorch" if nodes[0] else "JAX"
            parts.append(f"In {framework} alone: {reason}.\n")
            code, node = (torch, nodes[0]) if nodes[0] else (jax, nodes[1])
            assert node is not None
            parts.append(f"```python\n{shown(code.source, node, short(node))}\n```\n")
            continue
        assert nodes[0] is not None and nodes[1] is not None
        if same(nodes[0], nodes[1]):
            parts.append("The same in both.\n")
            parts.append(
                f"```python\n{shown(torch.source, nodes[0], short(nodes[0]))}\n```\n"
            )
            continue
        whole = all(short(node) for node in nodes if node)  # else neither is
        ours = shown(torch.source, nodes[0], whole)
        theirs = shown(jax.source, nodes[1], whole)
        parts.append(entry["differs"][name] + "\n")
        if ours == theirs:  # of long code, whose signature is the same
            parts.append(f"```python\n{ours}\n```\n")
        else:
            parts.append(_side_by_side(ours, theirs))
    return "\n".join(parts)


def _side_by_side(torch: str, jax: str) -> str:
    """A table in HTML, since Markdown's own cannot hold blocks of code."""
    cell = '<td markdown="1">\n\n```python\n{}\n```\n\n</td>'
    heads = "".join(f"<th>{framework}</th>" for framework in TWINS)
    return (
        f'<table class="twins" markdown="1">\n<tr>{heads}</tr>\n<tr markdown="1">\n'
        f"{cell.format(torch)}\n{cell.format(jax)}\n</tr>\n</table>\n"
    )


def short(node: Definition) -> bool:
    """Whether it is shown whole."""
    return (node.end_lineno or 0) - _first(node) < WHOLE_LINES


def _first(node: Definition) -> int:
    """Its first line, with decorators."""
    return min([node.lineno, *(d.lineno for d in node.decorator_list)])


def shown(source: str, node: Definition, whole: bool) -> str:
    """A definition, or its signature and what it is for."""
    lines, first = source.splitlines(), _first(node)
    if whole:
        return "\n".join(lines[first - 1 : node.end_lineno])
    if not isinstance(node, ast.ClassDef):
        return "\n".join(_outline(lines, node, first))
    outline = _outline(lines, node, first)
    if outline[-1].strip() == "...":
        outline.pop()
    for method in node.body:
        if isinstance(method, ast.FunctionDef):
            outline += ["", *_outline(lines, method, _first(method))]
    return "\n".join(outline)


def _outline(lines: list[str], node: Definition, first: int) -> list[str]:
    """The signature, the first paragraph of the docstring, and an ellipsis."""
    docstring = ast.get_docstring(node)
    header = lines[first - 1 : node.body[0].lineno - 1]
    while header and not header[-1].rstrip().endswith(":"):
        header.pop()
    indent = " " * (node.col_offset + 4)
    found = list(header)
    if docstring is None:
        found[-1] += " ..."
    else:
        text = docstring.partition("\n\n")[0].splitlines()
        text[0] = f'"""{text[0]}'
        text[-1] += '"""'
        found += [*(indent + line for line in text), f"{indent}..."]
    return found


if __name__ == "__main__":
    main()
