"""The same figures as CSV, JSON and Markdown, and names that mean nothing there."""

import csv
import json

import pytest

from report.findings import make_report
from report.table import report_rows, rows, to_csv, to_json, to_markdown


@pytest.fixture
def found(timed_run):
    """Five repeats on one and two devices in both frameworks; JAX is faster."""
    rates = {("torch", 1): 100, ("torch", 2): 180, ("jax", 1): 120, ("jax", 2): 216}
    return make_report(
        [
            timed_run(
                rate + n / 10,
                framework=framework,
                world_size=size,
                compile_seconds=2.0 * n,
                peak_memory_bytes=1000 + n,
            )
            for (framework, size), rate in rates.items()
            for n in range(-2, 3)
        ]
    )


def test_a_row_has_every_figure_of_its_point(found):
    row = rows(found.scaling)[1]
    assert (row["framework"], row["world_size"], row["repeats"]) == ("jax", 2, 5)
    assert row["speedup"] == pytest.approx(1.8)
    assert row["efficiency"] == pytest.approx(0.9)
    assert row["serial_fraction"] == pytest.approx((1 / 1.8 - 1 / 2) / (1 / 2))
    assert row["speedup_low"] < 1.8 < row["speedup_high"]
    assert (row["compile_seconds"], row["peak_memory_bytes"]) == (0.0, 1002)


def test_csv_and_json_hold_the_rows(found):
    read = list(csv.DictReader(to_csv(found).splitlines()))
    whole = json.loads(to_json(found))
    assert whole["rows"] == report_rows(found)
    for row, line in zip(report_rows(found), read, strict=True):
        assert list(line) == list(row)
        for name, value in row.items():
            assert line[name] == ("" if value is None else str(value))
    told = [(v["verdict"], v["jax_over_torch"]) for v in whole["jax_against_torch"]]
    assert told == [(None, None)] * 2  # no parity check is among these runs
    assert whole["fits"][0]["reason"].startswith("2 points, a fit needs 5")


def test_markdown_says_the_figures_and_why_others_are_missing(found):
    text = to_markdown(found)
    assert "| 2 | 64 | 5 | 216 (216 to 216) | 1.80 (" in text
    assert "- Amdahl: no fit, 2 points, a fit needs 5: the largest is held out" in text
    assert "JAX and PyTorch not compared, no parity check of digits\\_cnn in" in text


def test_a_fit_is_told_with_the_error_at_the_point_held_out(timed_run):
    runs = [timed_run(100.0 * p, world_size=p) for p in (1, 2, 4, 8, 16)]
    text = to_markdown(make_report(runs))
    assert "16 devices, held out, are predicted" in text


def test_no_name_is_run_as_html_markdown_or_formula(timed_run):
    evil = "<img src=x onerror=alert(1)>|`*_"
    found = make_report(
        [timed_run(1.0, device=evil), timed_run(2.0, experiment="=HYPERLINK(1)")]
    )
    text = to_markdown(found)
    assert "<img" not in text.replace("\\<img", "")
    assert "\\<img src=x onerror=alert(1)\\>\\|\\`\\*\\_" in text
    assert "'=HYPERLINK(1)" in to_csv(found)
    assert "\n=HYPERLINK" not in to_csv(found)


def test_what_was_left_out_is_told(timed_run):
    runs = [timed_run(1.0), timed_run(1.1, config_hash="other")]
    found = make_report(runs)
    assert "### Left out" in to_markdown(found)
    *_, out = json.loads(to_json(found))["left_out"]
    assert "different recipes" in out["reason"]
    assert to_csv(found) == ""
