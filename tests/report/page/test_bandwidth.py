"""The page's section on links: there with runs over links, and only then."""

import json
import re

import pytest

from report.analysis.findings import Options, gather
from report.page.charts import charts
from report.page.export import to_json
from report.page.figures import draw
from report.page.scaling import page, to_markdown
from tests.report.folders import change, write_check, write_run_folder

TITLE = "What does a slow link cost?"
LINKS = {"unlimited": (20_000.0, 900.0), 1000: (956.0, 700.0), 10: (9.6, 40.0)}


@pytest.fixture(scope="module")
def study(written, tmp_path_factory):
    """Both frameworks over three links, JAX twice as fast, and their parity check."""
    folder = tmp_path_factory.mktemp("links") / "study"
    for framework, faster in ("torch", 1), ("jax", 2):
        for asked, (measured, rate) in LINKS.items():
            for repeat in 1, 2, 3:
                run = write_run_folder(
                    written,
                    folder / f"{framework}-2-{asked}-{repeat}",
                    faster * rate * (1 + repeat / 1000),
                    framework=framework,
                    world_size=2,
                )
                held = {
                    "asked_mbit": asked,
                    "measured_mbit": [measured, measured],
                    "congestion_control": "reno",
                    "processes_per_core": 1.0,
                    "windows": [
                        {"step": 3, "bytes": 66, "packets": 1},
                        {"step": 4, "bytes": 10_300 + 3 * 66, "packets": 3},
                    ],
                }
                (run / "link.json").write_text(json.dumps(held))
    write_check(written, folder / "parity-fp32")
    return folder


def test_the_section_says_what_a_link_costs_and_what_was_sent(study):
    found = gather([study], Options())
    assert not found.groups  # these runs are on no curve over devices
    text, markdown = page(found, ()), to_markdown(found)
    for written in text, markdown:
        assert TITLE in written and "PyTorch on 2 devices" in written
        assert "dp has half of the images/s of computation alone at" in written
        assert "over 10 Mbit/s the model is off by" in written
        assert "1,024 devices, each at a site of its own, 25 ms from any" in written
    # 2,570 parameters in fp32; 20 bytes more were sent.
    assert re.search(
        r"\| dp \| 10 Mbit/s \| 9\.6 .*\| 0\.010 \| 0\.010 \| 100\.19%", markdown
    )
    assert "without proof that both" not in text
    panels = json.loads(to_json(found))["bandwidth"]
    assert [panel["world_size"] for panel in panels] == [2, 2]
    assert panels[0]["points"][0]["asked"] == 10


def test_both_figures_show_a_panel_for_each_framework(study, tmp_path):
    both = [c for c in charts(gather([study], Options())) if c.form == "links"]
    assert [chart.name for chart in both] == ["bandwidth", "bandwidth-time"]
    for chart in both:
        assert {row.panel for row in chart.rows} == {"PyTorch", "JAX"}
        assert all(path.stat().st_size > 1000 for path in draw(chart, tmp_path))
    kinds = {row.kind for row in both[0].rows}
    assert kinds == {"measured", "model"}


def test_without_a_check_that_is_identical_the_rates_are_not_compared(study, tmp_path):
    links = tmp_path / "study"
    links.mkdir()
    for run in study.glob("*-2-*"):
        (links / run.name).symlink_to(run)
    text = to_markdown(gather([links], Options()))
    assert text.count("do not compare them") == 2  # "How fast?" says it as well
    assert "dp: no parity check of" in text


def test_without_runs_over_links_there_is_no_section(written, tmp_path):
    write_run_folder(written, tmp_path / "runs" / "one", 100.0)
    found = gather([tmp_path / "runs"], Options())
    assert TITLE not in page(found, ()) and TITLE not in to_markdown(found)


def test_a_run_whose_link_is_lost_is_skipped_and_not_taken_for_another(
    written, tmp_path
):
    run = write_run_folder(written, tmp_path / "runs" / "one", 100.0)
    network = {"GLOO_SOCKET_IFNAME": "port"}
    change(run / "environment.json", network_settings=network)
    found = gather([tmp_path / "runs"], Options())
    assert not found.runs and "link.json" in found.scaling.skipped[0].reason
