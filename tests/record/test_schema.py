"""The files of a run hold what the schema and `docs/record.md` say, field by field."""

import json
import re

import pytest

from recipe.errors import RecordError
from record.environment import describe_environment
from record.run import create_folder, read_run
from record.schema import EVALUATION, ROWS, STEP, SUMMARY, WINDOW, check_fields
from tests.record.test_run import recipe, write_run

TABLES = {**ROWS, "summary": SUMMARY}
FIELDS = [(table, field) for table in TABLES for field in TABLES[table]]

# Headings of docs/record.md, and the fields in the table that follows each.
DOCUMENTED = {
    "### Step rows": list(STEP),
    "### Window rows": list(WINDOW),
    "### Evaluation rows": list(EVALUATION),
    "## summary.json": list(SUMMARY),
    "## environment.json": list(describe_environment("jax", [])),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run folder written by hand."""
    folder = create_folder(recipe(tmp_path_factory.mktemp("runs") / "run"), "jax")
    write_run(folder)
    return folder


@pytest.fixture(scope="module")
def written(folder):
    """A summary and a row of each kind, as they lie in a run folder."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    rows = {row["kind"]: row for row in map(json.loads, lines)}
    return {**rows, "summary": json.loads((folder / "summary.json").read_text())}


@pytest.mark.parametrize("table", TABLES)
def test_what_a_run_writes_is_what_the_schema_says(written, table):
    check_fields(written[table], TABLES[table], "here")
    assert list(written[table]) == list(TABLES[table])  # in its order, too


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
    for wrong in [1.5, 1, "1", True, None, {}, []]:
        given = {**written[table], field: wrong}
        if type(wrong) in types:
            check_fields(given, TABLES[table], "here")
            continue
        with pytest.raises(RecordError, match=f"^here: {field} is .*, expected "):
            check_fields(given, TABLES[table], "here")


@pytest.mark.xfail(reason="a number may be any str, not only NaN and the infinities")
def test_a_text_that_names_no_number_is_no_number(written):
    with pytest.raises(RecordError, match="loss"):
        check_fields({**written["step"], "loss": "low"}, STEP, "here")


def documented(text):
    """Heading -> the fields named in the first column of its table."""
    sections = re.split(r"^(?=##)", text, flags=re.MULTILINE)
    return {
        section.partition("\n")[0]: re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
        for section in sections
    }


@pytest.fixture(scope="module")
def text(root):
    return (root / "docs" / "record.md").read_text()


@pytest.mark.parametrize("heading, fields", DOCUMENTED.items())
def test_the_docs_name_every_field_of_the_record(text, heading, fields):
    assert documented(text)[heading] == fields


@pytest.mark.parametrize("heading, fields", DOCUMENTED.items())
def test_a_field_the_docs_had_forgotten_would_be_told(text, heading, fields):
    without = re.sub(rf"^\| `{fields[-1]}` \|.*\n", "", text, flags=re.MULTILINE)
    assert documented(without)[heading] == fields[:-1]


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
