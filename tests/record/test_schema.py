"""The files of a run hold what the schema and `docs/record.md` say, field by field."""

import json
import re

import numpy as np
import pytest

from recipe.errors import RecordError
from record.checkpoint import CheckpointWriter
from record.environment import describe_environment
from record.folder import create_folder
from record.resume import resume_point
from record.rewind import claim_folder
from record.run import read_run
from record.schema import (
    CHECKPOINT,
    ENVIRONMENT,
    EVALUATION,
    FLAG,
    INT,
    NOT_FINITE,
    NUMBER,
    RESUME,
    ROUND,
    ROWS,
    STEP,
    SUMMARY,
    TEXT,
    WINDOW,
    check_fields,
)
from tests.record.checkpoints import checkpoint
from tests.record.runs import interrupted, recipe, write_run

TABLES = {
    **ROWS,
    **{"summary": SUMMARY, "environment": ENVIRONMENT, "manifest": CHECKPOINT},
}
FIELDS = [(table, field) for table in TABLES for field in TABLES[table]]

# Headings of docs/record.md, and what the table that follows each is compared with.
DOCUMENTED = {
    "### Step rows": STEP,
    "### Window rows": WINDOW,
    "### Round rows": ROUND,
    "### Evaluation rows": EVALUATION,
    "### Resume rows": RESUME,
    "### manifest.json": CHECKPOINT,
    "## summary.json": SUMMARY,
    "## environment.json": ENVIRONMENT,
}
# How the docs write a field's types, ", or null" apart.
TYPES = {
    "text": TEXT,
    "count": INT,
    "number": NUMBER,
    "true or false": FLAG,
    "object": (dict,),
    "list of text": (list,),
    "list of number": (list,),
    "list of count": (list,),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run folder written by hand."""
    folder = create_folder(recipe(tmp_path_factory.mktemp("runs") / "run"), "jax")
    write_run(folder, rounds=[(3, 0, np.ones((2, 2)))])
    return folder


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A checkpoint's manifest."""
    with CheckpointWriter(tmp_path_factory.mktemp("saved"), keep=1) as writer:
        return json.loads((writer.save(checkpoint()) / "manifest.json").read_text())


@pytest.fixture(scope="module")
def resumed(tmp_path_factory):
    """The row of a run that went on."""
    run = interrupted(tmp_path_factory.mktemp("resumed") / "run", 2)
    given = recipe(run)
    resume = resume_point(given)
    claim_folder(given, resume, framework="jax", world_size=1).close()
    return json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])


@pytest.fixture(scope="module")
def written(folder, saved, resumed):
    """A summary and a row of each kind, as they lie in a run folder."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    rows = {row["kind"]: row for row in map(json.loads, lines)}
    rows |= {"resume": resumed, "manifest": saved}
    for name in "summary", "environment":
        rows[name] = json.loads((folder / f"{name}.json").read_text())
    return rows


@pytest.mark.parametrize("table", TABLES)
def test_what_a_run_writes_is_what_the_schema_says(written, table):
    check_fields(written[table], TABLES[table], "here")
    assert list(written[table]) == list(TABLES[table])  # also in its order


@pytest.mark.parametrize("path", [None, ""], ids=["git", "no git"])
def test_an_environment_is_described_as_the_schema_says(monkeypatch, path):
    if path is not None:
        monkeypatch.setenv("PATH", path)
    described = describe_environment("jax", ["cpu"])
    check_fields(described, ENVIRONMENT, "here")
    assert list(described) == list(ENVIRONMENT)
    if path is not None:
        assert (described["git_commit"], described["git_dirty"]) == (None, None)


@pytest.mark.parametrize("table, field", FIELDS)
def test_a_missing_field_is_refused_by_name(written, table, field):
    given = {k: v for k, v in written[table].items() if k != field}
    with pytest.raises(RecordError, match=f"^here lacks {field}$"):
        check_fields(given, TABLES[table], "here")


@pytest.mark.parametrize("table", TABLES)
def test_an_unknown_field_is_refused_by_name(written, table):
    with pytest.raises(RecordError, match="^here has unknown extra$"):
        check_fields({**written[table], "extra": 1}, TABLES[table], "here")


@pytest.mark.parametrize("table, field", FIELDS)
def test_a_field_of_another_type_is_refused_by_name(written, table, field):
    types = TABLES[table][field].types
    for wrong in [1.5, 1, "1", "NaN", True, None, {}, []]:
        given = {**written[table], field: wrong}
        if type(wrong) in types or (wrong == "NaN" and float in types):
            check_fields(given, TABLES[table], "here")
            continue
        with pytest.raises(RecordError, match=f"^here: {field} is .*, expected "):
            check_fields(given, TABLES[table], "here")


@pytest.mark.parametrize("text", ["low", "", "0.5", "nan", "inf", "+Infinity"])
def test_a_text_that_names_no_number_is_no_number(written, text):
    with pytest.raises(RecordError, match=f"^here: loss is '{re.escape(text)}', expe"):
        check_fields({**written["step"], "loss": text}, STEP, "here")


@pytest.mark.parametrize("text", NOT_FINITE)
def test_the_names_of_what_json_cannot_write_are_numbers(written, text):
    check_fields({**written["step"], "loss": text}, STEP, "here")


def documented(text):
    """Heading -> field -> type: the first two columns of its table."""
    sections = re.split(r"^(?=##)", text, flags=re.MULTILINE)
    row = re.compile(r"^\| `(\w+)` \| ([^|]+) \|", re.MULTILINE)
    return {
        section.partition("\n")[0]: dict(row.findall(section)) for section in sections
    }


def types_of(written):
    """The types that the docs' words for them stand for.

    >>> types_of("text, or null if finished") == (str, type(None))
    True
    """
    name, null, _ = written.partition(", or null")
    return TYPES[name] + ((type(None),) if null else ())


@pytest.fixture(scope="module")
def text(root):
    return (root / "docs" / "record.md").read_text()


@pytest.mark.parametrize("heading, table", DOCUMENTED.items())
def test_the_docs_name_every_field_of_the_record(text, heading, table):
    assert list(documented(text)[heading]) == list(table)


@pytest.mark.parametrize("heading, table", DOCUMENTED.items())
def test_a_field_the_docs_had_forgotten_would_be_noticed(text, heading, table):
    *others, last = table
    without = re.sub(rf"^\| `{last}` \|.*\n", "", text, flags=re.MULTILINE)
    assert list(documented(without)[heading]) == others


@pytest.mark.parametrize("heading, table", DOCUMENTED.items())
def test_the_docs_give_every_field_the_types_it_may_have(text, heading, table):
    types = {field: types_of(told) for field, told in documented(text)[heading].items()}
    assert types == {field: table[field].types for field in table}


def test_a_null_the_docs_had_forgotten_would_be_noticed(text):
    without = documented(text.replace(", or null", ""))["## environment.json"]
    assert types_of(without["cpu_count"]) != ENVIRONMENT["cpu_count"].types


def test_the_docs_examples_read_a_run(text, folder, tmp_path, monkeypatch):
    examples = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(examples) == 2
    monkeypatch.chdir(tmp_path)
    for example in examples:
        (name,) = re.findall(r'Path\("(runs/[^"]+)"\)', example)
        link = tmp_path / name
        link.parent.mkdir(exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(folder)
        found = {}
        exec(compile(example, "docs/record.md", "exec"), found)
        steps = read_run(folder).of_kind("step")
        assert found["losses"] == [row["loss"] for row in steps]
        assert found["accuracy"] == 0.75
