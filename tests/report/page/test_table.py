"""The same figures as CSV, JSON and Markdown, and names that mean nothing there."""

import csv
import json

import pytest

from record.environment import describe_environment
from report.analysis.findings import Options, make_report
from report.analysis.interconnects import INTERCONNECTS
from report.page.charts import charts
from report.page.export import to_csv, to_json
from report.page.points import report_rows, rows
from report.page.scaling import to_markdown


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


def test_compile_seconds_leave_out_steps_that_came_from_a_cache(timed_run):
    runs = [timed_run(100, compile_seconds=8.0, compile_cached=False)]
    runs += [
        timed_run(100 + n, compile_seconds=0.5, compile_cached=True) for n in (1, 2)
    ]
    report = make_report(runs)
    assert report_rows(report)[0]["compile_seconds"] == 8.0
    text = to_markdown(report)
    assert "Compile s excludes 2 runs whose compiled steps came from the cache" in text
    assert report_rows(make_report(runs[1:]))[0]["compile_seconds"] is None
    assert "from the cache" not in to_markdown(make_report(runs[:1]))


def test_csv_and_json_hold_the_rows(found):
    read = list(csv.DictReader(to_csv(found).splitlines()))
    whole = json.loads(to_json(found))
    assert whole["rows"] == report_rows(found)
    for row, line in zip(report_rows(found), read, strict=True):
        assert list(line) == list(row)
        for name, value in row.items():
            assert line[name] == ("" if value is None else str(value))
    told = [(v["verdict"], v["ratio"]) for v in whole["jax_against_torch"]]
    assert told == [(None, None)] * 2  # no parity check is among these runs
    assert whole["fits"][0]["reason"].startswith("2 points, a fit needs 5")


def test_markdown_says_the_figures_and_why_others_are_missing(found):
    text = to_markdown(found)
    assert "| JAX | 2 | 64 | 5 | 216 (216 to 216) | 1.80 (" in text
    assert "- Not fitted, with 2 points, a fit needs 5: the largest is held out" in text
    assert "JAX and PyTorch not compared, no parity check of `digits_cnn` in" in text


def test_markdown_has_what_is_known_of_each_point_and_nothing_else(found):
    (head,) = (ln for ln in to_markdown(found).splitlines() if "| framework" in ln)
    assert "| peak memory MiB | compile s |" in head
    assert "MFU" not in head and "accuracy" not in head


def test_markdown_says_where_it_ran_and_how_to_repeat_it(timed_run):
    environment = describe_environment("torch", ["a device"])
    environment |= {"command": ["python", "launch/a_b.py"], "host": "@everyone"}
    text = to_markdown(make_report([timed_run(1.0, environment=environment)]))
    assert "- host: `@everyone`\n- system: " in text
    assert text.endswith("- `python launch/a_b.py`\n- `python launch/report.py DIR`\n")


def test_a_fit_is_told_with_the_error_at_the_point_held_out(timed_run):
    runs = [timed_run(100.0 * p, world_size=p) for p in (1, 2, 4, 8, 16)]
    text = to_markdown(make_report(runs))
    assert "16 devices, held out, are predicted" in text


def test_an_interconnect_that_was_not_given_is_said_to_be_assumed(timed_run):
    sizes = (1, 2)
    device = "NVIDIA A100-SXM4-80GB"
    runs = [timed_run(1.0 * p, world_size=p, device=device) for p in sizes]
    given = Options(interconnect=INTERCONNECTS["dgx-a100"])
    for options, assumed in ((None, True), (given, False)):
        text = to_markdown(make_report(runs, options=options))
        assert "DGX A100" in text
        assert ("(assumed from the device's name)" in text) == assumed


def amdahls(timed_run, serial):
    """What a report says of a curve of that serial fraction further out."""
    rates = {p: 1000 / (serial + (1 - serial) / p) for p in (1, 2, 4, 8, 16)}
    runs = [
        timed_run(rate * (1 + n / 1e4), world_size=p, global_batch_size=512)
        for p, rate in rates.items()
        for n in (-1, 0, 1)
    ]
    net = INTERCONNECTS["dgx-a100"]
    found = make_report(runs, options=Options(interconnect=net))
    (chart,) = (c for c in charts(found) if c.name.startswith("projection"))
    return to_markdown(found), chart.caption


def test_a_model_that_does_not_describe_a_curve_is_not_quoted(timed_run):
    text, caption = amdahls(timed_run, serial=0.2)
    assert "the model does not describe this curve" in text
    assert "at most" not in text and "says the model" not in text
    # 1 / (.2 + .8 / 512) of the base case's 1,000
    assert "Amdahl's law, fitted to the curve, says 4,961 (4,9" in text
    assert "images/s on 512 devices. Where it was measured" in text
    assert "off by +299% (PyTorch on 16)" in caption


def test_a_model_that_does_is_quoted_beside_the_law(timed_run):
    text, _ = amdahls(timed_run, serial=0.01)
    assert "does not describe" not in text
    assert (
        "says the model. Amdahl's law, fitted to the curve, says 83,797 (83,5" in text
    )


def test_what_was_skipped_is_listed(timed_run):
    runs = [timed_run(1.0), timed_run(1.1, config_hash="other")]
    found = make_report(runs)
    assert "### What was skipped" in to_markdown(found)
    *_, out = json.loads(to_json(found))["skipped"]
    assert "different recipes" in out["reason"]
    assert to_csv(found) == ""
