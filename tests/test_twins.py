"""torch_impl and jax_impl are read side by side: same files, same names, same order."""

import ast

import pytest

from launch.twins import read_notes

# Public names that one twin has and the other has no use for, by file, with the reason.
ALONE: dict[str, dict[str, str]] = {
    file: entry["alone"]
    for file, entry in read_notes()["files"].items()
    if "alone" in entry
}


def public_names(source: str) -> list[str]:
    """Public functions and classes of a module, as they stand from top to bottom."""
    definitions = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    return [
        node.name
        for node in ast.parse(source).body
        if isinstance(node, definitions) and not node.name.startswith("_")
    ]


def files(package):
    return sorted(p.relative_to(package).as_posix() for p in package.rglob("*.py"))


def test_the_twins_hold_the_same_files(root):
    assert files(root / "torch_impl") == files(root / "jax_impl")


def test_twin_files_define_the_same_names_in_the_same_order(root):
    for file in files(root / "torch_impl"):
        torch_names, jax_names = (
            [
                name
                for name in public_names((root / twin / file).read_text())
                if name not in ALONE.get(file, {})
            ]
            for twin in ("torch_impl", "jax_impl")
        )
        assert torch_names == jax_names, file


def test_every_exception_is_still_one(root):
    for file, names in ALONE.items():
        torch_names, jax_names = (
            set(public_names((root / twin / file).read_text()))
            for twin in ("torch_impl", "jax_impl")
        )
        assert names.keys() <= torch_names ^ jax_names, file


@pytest.mark.parametrize(
    "other",
    [
        "class Step: ...\ndef loss(): ...\n",  # another order
        "def loss(): ...\n",  # one missing
        "def loss(): ...\nclass Stride: ...\n",  # another name
    ],
)
def test_names_that_differ_are_noticed(other):
    twin = "def loss(): ...\ndef _helper(): ...\nclass Step: ...\n"
    assert public_names(twin) == ["loss", "Step"]
    assert public_names(twin) != public_names(other)
