"""Keys of scripts that compose no recipe are read by one parser."""

from dataclasses import dataclass, field

import pytest

from launch.asked import asked
from recipe.errors import ConfigError


@dataclass
class Keys:
    run: str
    root: str | None = field(default="there", metadata={"key": "data.root"})
    devices: int = 1
    formats: list[str] = field(default_factory=list)


def read(*typed):
    return asked(list(typed), Keys, "usage")


@pytest.mark.parametrize("name", ["007", "1_000", "1e3", "yes", "[a]", "a=b", " a"])
def test_a_folder_is_the_text_that_was_typed(name):
    assert read(f"run={name}", f"data.root={name}") == Keys(name, name)


def test_other_types_are_read_by_the_field():
    given = read("run=a", "devices=02", "formats=[onnx, pt2]", "data.root=null")
    assert given == Keys("a", None, 2, ["onnx", "pt2"])
    assert read("run=a", "formats=onnx").formats == ["onnx"]
    assert read("run=a", "formats=[]").formats == []


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ([], r"give run=\.\.\."),
        (["run=", "devices=1"], "run= is empty"),
        (["--run=a"], r"--run=a: did you mean run=\.\.\.\? keys are run=, data.root=,"),
        (["a"], "a: keys are run="),
        (["root=a"], r"did you mean data.root"),
        (["run=a", "devices=1_0"], "devices=1_0: a whole number is expected"),
        (["run=a", "devices=-1"], "devices=-1: a whole number is expected"),
        (["run=a", "devices=null"], "devices=null: a whole number is expected"),
    ],
)
def test_what_is_wrong_is_named_with_what_is_allowed(typed, told):
    with pytest.raises(ConfigError, match=told):
        read(*typed)
