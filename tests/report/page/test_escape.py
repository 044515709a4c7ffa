"""Whatever a name holds, it is shown as it is: on the page, in Markdown and in CSV."""

import csv

import pytest

from report.analysis.findings import make_report
from report.page.chart import to_csv
from report.page.charts import charts
from report.page.escape import to_html, to_markdown
from report.page.export import to_csv as table_csv
from report.page.scaling import page
from report.page.scaling import to_markdown as report_markdown

TURNED = "\u202ePARITY\u2066\u200f\x1b[31m\udcff"


@pytest.mark.parametrize("text", ["=1+1<b>", "\t=1+1", "\r=1+1", " @SUM(1)", "＝1"])
def test_no_csv_holds_a_formula(timed_run, text):
    found = make_report([timed_run(1.0, framework=text, world_size=p) for p in (1, 2)])
    drawn = [chart for chart in charts(found) if chart.rows]
    assert drawn
    for written in (table_csv(found), *map(to_csv, drawn)):
        cells = [cell for row in csv.reader(written.splitlines()) for cell in row]
        assert not [c for c in cells if c.lstrip().startswith(("=", "@", "＝"))]
        assert any(c.startswith("'") and text[-1] in c for c in cells)


def test_a_number_below_zero_is_no_formula(timed_run):
    runs = [timed_run(100.0, world_size=1), timed_run(300.0, world_size=2)]
    (row,) = csv.DictReader(table_csv(make_report(runs)).splitlines()[::2])
    assert float(row["serial_fraction"]) < 0


def test_no_character_turns_the_pages_sentences_around(timed_run):
    runs = [timed_run(1.0 * p, world_size=p, experiment=TURNED) for p in (1, 2)]
    found = make_report(runs)
    for text in page(found, {}), report_markdown(found), table_csv(found):
        assert "PARITY" in text
        assert not set(TURNED) & set("\u202e\u2066\u200f\x1b\udcff") & set(text)
        text.encode()
    assert to_html("数字 é ש") == "数字 é ש"  # letters of any script stay


@pytest.mark.parametrize(
    "text",
    [
        *("@everyone", "https://example.org", "www.example.org", "a@b.org", "$x$"),
        *("#1", "<b>", "[x]:y", "a|b", "**x**", "~~x~~", "&lt;b", "\\", "`", "``x`"),
    ],
)
def test_what_markdown_would_act_on_is_code(text):
    shown = to_markdown(f"by {text}, twice")
    assert shown.startswith("by `") and shown.endswith("`, twice")
    fence = shown[3 : len(shown) - len(shown[3:].lstrip("`"))]
    assert fence not in text and text in shown


@pytest.mark.parametrize("text", ["- a", "1. a", "+ a", "=== ", "> a", "# a"])
def test_no_name_begins_a_block_of_markdown(text):
    assert to_markdown(text).startswith("`")
    assert to_markdown(f"a {text}").startswith("a ")
