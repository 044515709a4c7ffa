"""Write the tables of keys in docs/config.md from the source of the config.

    python launch/keys.py

A key's explanation is the comment at its field in `recipe/`; its default is in `conf/`,
or at the field if no file sets it.
"""

import launch  # isort: skip  # noqa: F401  (launch/launch.py says why)

import ast
import inspect
import re
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast, get_args

from omegaconf import OmegaConf

from launch.overrides import ROOT
from recipe.config import Config, leaves
from recipe.parity import ParityConfig
from recipe.study import StudyConfig

PAGE = ROOT / "docs" / "config.md"
SCRIPTS = ("config", "parity", "study")  # `conf/<name>.yaml` has the keys of each
SCHEMAS = {"run": Config, "parity": ParityConfig, "study": StudyConfig}


def main() -> None:
    PAGE.write_text(with_tables(PAGE.read_text()))
    print(f"written: {PAGE.relative_to(ROOT)}")


def with_tables(page: str) -> str:
    """The page with every table updated.

    Raises:
      ValueError: if the page lacks a mark, or a field has no comment.
    """
    for name, schema in SCHEMAS.items():
        begin, end = marks(name)
        if page.count(begin) != 1 or page.count(end) != 1:
            raise ValueError(f"the page needs the lines {begin} and {end}, once each")
        before, _, rest = page.partition(begin)
        page = f"{before}{begin}\n\n{tables(schema)}\n{end}{rest.partition(end)[2]}"
    return page


def marks(name: str) -> tuple[str, str]:
    return (
        f"<!-- keys of {name}: `python launch/keys.py` writes all up to the end -->",
        f"<!-- keys of {name}: end -->",
    )


def tables(schema: type) -> str:
    """Markdown: a table of the schema's own keys, then one for each of its groups."""
    groups = {
        field.name: part
        for field in own(schema)
        if (part := part_of(field)) is not None
    }
    text = ""
    if single := list(keys(schema, without=set(groups))):
        text += table(single)
    for name, part in groups.items():
        first = inspect.cleandoc(str(part.__doc__)).partition("\n\n")[0]
        text += f"### {name}\n\n{first}\n\n{table(list(keys(part, f'{name}.')))}"
    return text


def table(rows: list[tuple[str, str, str]]) -> str:
    lines = ["| key | default | meaning |", "|---|---|---|"]
    lines += [f"| `{key}` | {default} | {meaning} |" for key, default, meaning in rows]
    return "\n".join(lines) + "\n\n"


def keys(
    schema: type, prefix: str = "", without: set[str] | frozenset[str] = frozenset()
) -> Iterator[tuple[str, str, str]]:
    """Key, default and meaning of each, including nested groups.

    A `name` without a comment is set by choosing the group's option.
    """
    meanings = comments(schema)
    for field in own(schema):
        key = f"{prefix}{field.name}"
        part = part_of(field)
        if field.name in without or (field.name == "name" and not meanings["name"]):
            continue
        if part is not None:
            yield from keys(part, f"{key}.")
        elif not meanings[field.name]:
            raise ValueError(f"{schema.__name__}.{field.name} has no comment")
        else:
            meaning = meanings[field.name].removesuffix(".")
            if re.match("[A-Z][a-z]* ", meaning):  # a word, not a name
                meaning = meaning[0].lower() + meaning[1:]
            yield key, default_of(key, field), meaning


def own(schema: type) -> list[Field[Any]]:
    """Its fields without inherited ones."""
    return [field for field in fields(schema) if field.name in schema.__annotations__]


def part_of(field: Field[Any]) -> type | None:
    """The dataclass of a field, also of an optional one."""
    kinds = get_args(field.type) or (field.type,)
    return next((cast(type, kind) for kind in kinds if is_dataclass(kind)), None)


def comments(schema: type) -> dict[str, str]:
    """Field -> the comments above and beside it."""
    source = inspect.getsource(schema)
    lines = source.splitlines()
    (parsed,) = ast.parse(source).body
    found = {}
    for node in cast(ast.ClassDef, parsed).body:
        if isinstance(node, ast.AnnAssign):
            meanings = [lines[(node.end_lineno or 0) - 1].partition("  # ")[2]]
            above = node.lineno - 2
            while lines[above].strip().startswith("# "):
                meanings.insert(0, lines[above].strip().removeprefix("# "))
                above -= 1
            found[ast.unparse(node.target)] = " ".join(filter(None, meanings))
    return found


def default_of(key: str, field: Field[Any]) -> str:
    """What `conf/` sets, else the field's default; if options differ, the group."""
    group, _, rest = key.partition(".")
    choices = sorted((ROOT / "conf" / group).glob("*.yaml"))
    found = [set_in(file, rest) for file in choices]
    if not choices:  # of no group: each script's keys are in its own file
        scripts = [ROOT / "conf" / f"{name}.yaml" for name in SCRIPTS]
        found = [next(filter(None, (set_in(file, key) for file in scripts)), [])]
    values = [value for values in found for value in values or own_default(field)]
    defaults = sorted({written(value) for value in values if value != "???"})
    experiments = (ROOT / "conf" / "experiment").glob("*.yaml")
    varies = any(set_in(file, key) for file in experiments)
    if not defaults:
        return "by `experiment`"
    default = defaults[0] if len(defaults) == 1 else f"by `{group}`"
    return f"{default}, or by `experiment`" if varies else default


def own_default(field: Field[Any]) -> list[Any]:
    """A field's default in a list, empty if it has none."""
    if field.default_factory is not MISSING:
        return [field.default_factory()]
    return [] if field.default is MISSING else [field.default]


def set_in(file: Path, key: str) -> list[Any]:
    """The value that a file sets in a list, empty if it sets none."""
    held = content(file)
    return [held[key]] if key in held else []


@cache
def content(file: Path) -> dict[str, Any]:
    held = OmegaConf.to_container(OmegaConf.load(file))
    return dict(leaves(cast(dict[str, Any], held)))


def written(value: Any) -> str:
    """A value in command-line syntax; for a reference, its target.

    >>> written(1e-8), written([True, None]), written("${tuned.sgd}")
    ('`1e-8`', '`[true,null]`', '`tuned.sgd`')
    >>> written('${oc.env:DUET_DATA,"~/.cache/duet"}')
    '`$DUET_DATA`, else `~/.cache/duet`'
    """
    if isinstance(value, str) and value.startswith("${oc.env:"):
        variable, _, otherwise = value[9:-1].partition(",")
        return f"`${variable}`, else `{otherwise.strip(chr(34))}`"
    return f"`{plain(value)}`"


def plain(value: Any) -> str:
    if isinstance(value, list):
        return f"[{','.join(map(plain, value))}]"
    if isinstance(value, float):
        return f"{value:g}".replace("e-0", "e-")
    if isinstance(value, str):
        return value.removeprefix("${").removesuffix("}")
    return "null" if value is None else str(value).lower()


if __name__ == "__main__":
    main()
