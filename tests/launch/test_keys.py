"""Every key is explained once, at its field; docs/config.md repeats it."""

import re
from dataclasses import dataclass, fields

import pytest
import yaml

from launch.keys import comments, default_of, keys, with_tables
from recipe.config import Config, known_keys
from recipe.parity import ParityConfig
from recipe.study import StudyConfig


@dataclass
class Explained:
    """A group."""

    name: str
    # Where it is,
    # in metres.
    place: float = 1e-8  # from the left
    short: bool = True  # or long


@dataclass
class Silent:
    """A group with a key that nobody explains."""

    place: int = 3


@pytest.fixture(scope="module")
def page(root):
    return (root / "docs" / "config.md").read_text()


def test_the_tables_of_the_page_are_those_of_the_source(page):
    assert with_tables(page) == page


def test_a_table_that_is_older_than_the_source_would_be_seen(page):
    assert with_tables(page.replace("`train.seed`", "`train.seeds`")) == page


def test_every_key_of_every_script_has_its_row(page):
    known = {key for s in (ParityConfig, StudyConfig) for key in known_keys(s)}
    groups = {key.rpartition(".")[0] for key in known}
    chosen = {f"{group}.name" for group in groups if "." not in group}
    keys = page.partition("## Keys")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `([\w.]+)` \|", keys, re.M)
    assert known - groups - chosen <= set(rows)
    assert len(set(rows)) == len(rows)


def test_the_table_of_groups_has_every_choice_and_the_defaults(page, root):
    table = page.partition("## Groups")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)`(?: \(`(\w+)`\))? \| `([\w ]+)` \|", table, re.M)
    choices = {group: set(names.split()) for group, _, names in rows}
    conf = root / "conf"
    grouped = {*choices, "cluster", "study"}  # the last two are on pages of their own
    assert {folder.name for folder in conf.iterdir() if folder.is_dir()} == {
        *grouped,
        "hydra",
    }
    for group, names in choices.items():
        assert names == {file.stem for file in (conf / group).glob("*.yaml")}, group
    defaults = yaml.safe_load((conf / "config.yaml").read_text())["defaults"]
    chosen = {k: v for d in defaults if isinstance(d, dict) for k, v in d.items()}
    shown = {group: default or names.split()[0] for group, default, names in rows}
    assert shown == {group: chosen[group] for group in shown}


def test_a_meaning_is_the_comment_above_a_field_and_beside_it():
    assert comments(Explained) == {
        "name": "",
        "place": "Where it is, in metres. from the left",
        "short": "or long",
    }
    assert [row[0] for row in keys(Explained, "its.")] == ["its.place", "its.short"]


def test_a_key_that_nobody_explains_is_refused():
    with pytest.raises(ValueError, match=r"Silent\.place has no comment"):
        list(keys(Silent, "its."))


@pytest.mark.parametrize(
    "key, default",
    [
        ("train.log_every_steps", "`20`"),
        ("train.global_batch_size", "by `experiment`"),
        ("data.augment.flip", "`false`, or by `experiment`"),
        ("data.root", "`$DUET_DATA`, else `~/.cache/duet`"),
        ("model.norm.name", "by `model`"),
        ("optim.peak_lr", "by `optim`"),
        ("optim.eps", "`1e-8`"),
        ("devices", "`null`"),
    ],
)
def test_a_default_is_what_conf_sets_or_what_chooses_it(key, default):
    found = {row[0]: row[1] for row in keys(Config)}
    assert found[key] == default


def test_a_default_that_no_file_sets_is_the_fields():
    place, short = fields(Explained)[1:]
    assert default_of("its.place", place) == "`1e-8`"
    assert default_of("its.short", short) == "`true`"


@pytest.mark.parametrize("page", ["", "<!-- keys of run: end -->"])
def test_a_page_without_its_marks_is_refused(page):
    with pytest.raises(ValueError, match="once each"):
        with_tables(page)
