"""The report of run folders: its verdict first, its files, and all that is skipped."""

import csv
import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from recipe.errors import RecordError
from record.run import read_run
from report.analysis.findings import Options, gather, make_report
from report.analysis.interconnects import INTERCONNECTS
from report.page import escape
from report.page.blocks import Items
from report.page.chart import Chart, Row
from report.page.charts import PEAK, charts
from report.page.escape import to_html
from report.page.export import to_csv, to_json
from report.page.figures import draw
from report.page.parity import write_parity_page
from report.page.scaling import page, to_markdown
from report.page.sections import sections
from report.page.verdicts import UNKNOWN, check_sentence, parity
from report.parity.bounds import DIFFERENT, UNDECIDED
from report.parity.compare import compare_two
from report.write import report_on, write_report
from tests.report.folders import change, write_run_folder, write_study

FASTER = "JAX is faster, JAX runs at 2.000"


@pytest.fixture(scope="module")
def kept(written, tmp_path_factory):
    """A study in which both frameworks train the same thing."""
    return write_study(written, tmp_path_factory.mktemp("studies") / "study")


@pytest.fixture
def study(kept, tmp_path):
    """A copy of it, to be harmed."""
    return shutil.copytree(kept, tmp_path / "study")


def report(*folders: Path, **options):
    return gather(folders, Options(**options))


@pytest.fixture(scope="module")
def out(kept, tmp_path_factory):
    """The whole report, over a named machine."""
    folder = tmp_path_factory.mktemp("report") / "out"
    net = INTERCONNECTS["dgx-a100"]
    write_report(gather([kept], Options(interconnect=net, peak_flops=1e9)), folder)
    return folder


def test_the_page_opens_with_the_verdict_and_then_tells_speeds(out):
    text = (out / "index.html").read_text()
    order = ["Parity: identical", "How fast?", FASTER, 'id="parity"', 'id="fast"']
    order += ['id="scales"', 'id="holds-back"', 'id="further"', 'id="skipped"']
    places = [text.index(part) for part in order]
    assert places == sorted(places)
    assert "trained the same thing in fp32, over the first 4 steps: " in text
    markdown = (out / "report.md").read_text()
    assert markdown.startswith("### Parity: identical")
    assert FASTER in markdown
    # Three comparisons, wrong anywhere in at most 5 % of studies.
    assert "(98.3333 % interval; n = 3 and 3)" in markdown
    assert "Intervals are of 98.3333 %, for 95 % of all" in text
    told = json.loads((out / "report.json").read_text())["jax_against_torch"]
    assert {c["confidence"] for c in told} == {1 - (1 - 0.95) / 3}


REASON = "the losses differ from step 3 on"  # or whatever a check says


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        ("failed", DIFFERENT),
        ("undecided", UNDECIDED),
        ("missing", UNKNOWN),
        ("of another recipe", UNKNOWN),
    ],
)
def test_without_parity_no_speed_is_claimed_anywhere(written, tmp_path, harm, told):
    given = {"failed": {"broken": (REASON,)}, "undecided": {"unseen": (REASON,)}}
    study = write_study(
        written, tmp_path / "study", sizes=(1, 2), **given.get(harm, {})
    )
    if harm == "missing":
        shutil.rmtree(study / "parity-fp32")
    if harm == "of another recipe":
        for run in (study / "parity-fp32").glob("*-1"):
            config = run / "config.yaml"
            config.write_text(config.read_text().replace("  peak_lr: ", "  peak_lr: 1"))
    found = report(study)
    verdict, _ = parity(found)
    assert verdict == told
    assert f"Parity: {verdict}" in page(found, {})
    for text in page(found, {}), to_markdown(found), to_json(found):
        assert not re.search("(JAX|PyTorch) is faster|JAX runs at", text)
        assert (REASON in text) == (harm in given)
    for compared in json.loads(to_json(found))["jax_against_torch"]:
        assert compared["ratio"] is compared["verdict"] is None
        assert compared["withheld"]
    assert not [chart for chart in charts(found) if chart.name.startswith("ratio")]


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        ({"verdict": DIFFERENT}, "says different and gives no reason"),
        ({"differences": [1e-8, "NaN", 1e-8, 1e-8]}, "is not a finite number"),
        ({"leaves": {"dense.0.kernel": "Infinity"}}, "is not a finite number"),
    ],
)
def test_whatever_speaks_against_parity_in_a_check_decides(study, harm, told):
    file = study / "parity-fp32" / "parity.json"
    held = json.loads(file.read_text())
    (held if "verdict" in harm else held["comparisons"][0]).update(harm)
    file.write_text(json.dumps(held))
    found = report(study)
    verdict, said = parity(found)
    assert verdict == DIFFERENT and told in said
    assert found.comparisons and all(c.withheld for c in found.comparisons)


@pytest.mark.parametrize("verdict", [DIFFERENT, UNDECIDED])
def test_a_pair_of_a_check_that_is_not_identical_says_so_without_a_reason(
    study, verdict
):
    file = study / "parity-fp32" / "parity.json"
    held = json.loads(file.read_text())
    held["comparisons"][0]["verdict"] = verdict
    file.write_text(json.dumps(held))
    found, message = parity(report(study))
    assert found == verdict and f"says {verdict} and gives no reason" in message


def test_a_run_whose_losses_are_not_all_there_is_not_drawn_and_named(study):
    shutil.rmtree(study / "parity-fp32")
    harm_rows(study / "jax-1-fp32-dp-1")
    chart, *_ = charts(report(study))
    assert {row.series for row in chart.rows} == {"PyTorch"}
    assert "JAX is not drawn: " in chart.caption


def test_a_check_of_one_strategy_does_not_answer_for_another(study):
    for run in study.glob("*-fp32-dp-*"):
        change(run / "summary.json", parallel="fsdp")
    compared = report(study).comparisons
    assert compared and all("with parallel=fsdp" in c.withheld for c in compared)


def test_one_failed_check_among_several_fails_the_report(study, written, tmp_path):
    write_study(
        written, tmp_path / "bad", sizes=(1,), broken=("the test loss differs",)
    )
    found = report(study, tmp_path / "bad" / "parity-fp32")
    assert parity(found)[0] == DIFFERENT
    assert all(compared.withheld for compared in found.comparisons)


def test_an_identical_check_does_not_answer_for_speeds_beside_a_failed_one(
    study, written, tmp_path
):
    write_study(written, tmp_path / "bad", sizes=(1,), broken=("the losses differ",))
    for config in (tmp_path / "bad" / "parity-fp32").glob("*-1/config.yaml"):
        config.write_text(config.read_text().replace("  peak_lr: ", "  peak_lr: 1"))
    found = report(study, tmp_path / "bad" / "parity-fp32")
    reasons = {compared.withheld for compared in found.comparisons}
    assert len(reasons) == 1 and reasons.pop().endswith("is different")
    checks = [check for compared in found.comparisons for check in compared.checks]
    assert {check.verdict for check in checks} == {"identical"}


def test_a_check_of_other_data_is_said_to_be_of_other_data(study):
    change(study / "parity-fp32" / "parity.json", data_fingerprint="another")
    (reason,) = {compared.withheld for compared in report(study).comparisons}
    assert "is of other data (by its fingerprint): " in reason


def test_runs_of_several_commits_are_told_beside_what_is_made_of_them(study):
    assert "different commits" not in page(report(study), {})
    for file in study.glob("jax-1-fp32-dp-1/environment.json"):
        change(file, git_commit="c0ffee" * 6, git_dirty=False)
    found = report(study)
    for text in page(found, {}), to_markdown(found):
        assert "1 device: runs of different commits, " in text
        assert "these runs and their parity check are of commits " in text
        assert "c0ffeec0ffee" in text and FASTER in text


def test_behind_every_figure_lie_its_numbers(out, kept):
    found = gather([kept], Options(interconnect=INTERCONNECTS["dgx-a100"]))
    names = {chart.name.split("-")[0] for chart in charts(found)}
    assert names == {
        *("losses", "throughput", "ratio", "time", "efficiency", "serial"),
        *("step", "rank", "utilisation", "projection"),
    }
    files = sorted(path.name for path in (out / "figures").iterdir())
    assert files == sorted(f"{c.name}.{s}" for c in charts(found) for s in SUFFIXES)
    for chart in charts(found):
        if chart.name.startswith("utilisation"):
            continue  # a fraction of the peak that only `out` was given
        text = (out / "figures" / f"{chart.name}.csv").read_text()
        head, *lines = csv.reader(text.splitlines())
        assert head[3:5] == [chart.x_label, chart.y_label]
        assert [float(line[4]) for line in lines] == [row.y for row in chart.rows]


SUFFIXES = ("csv", "png", "svg")


def test_a_model_is_told_from_what_was_measured(out):
    (file,) = (out / "figures").glob("projection-*.csv")
    rows = list(csv.DictReader(file.read_text().splitlines()))
    kinds = {(row["series"], row["kind"]) for row in rows}
    assert kinds == {
        *(("PyTorch", "measured"), ("JAX", "measured")),
        *(("PyTorch, model", "model"), ("JAX, model", "model")),
    }
    (file,) = (out / "figures").glob("throughput-*.csv")
    rows = list(csv.DictReader(file.read_text().splitlines()))
    model = [int(row["devices"]) for row in rows if row["series"] == "JAX, model"]
    assert model == [1, 2, 4]  # as far as was measured
    (file,) = (out / "figures").glob("projection-*.csv")
    rows = list(csv.DictReader(file.read_text().splitlines()))
    # Eight examples are no more than eight devices' worth.
    assert max(int(row["devices"]) for row in rows) == 8
    text = (out / "index.html").read_text()
    assert "This is a model, not a measurement." in text
    assert re.search(r"Where it was measured, the model is off by \+\d+% on 2", text)


def test_what_is_sharded_is_projected_by_what_it_exchanges(study):
    def of(parallel):
        for run in study.glob("*-fp32-dp-*"):
            change(run / "summary.json", parallel=parallel)
        found = report(study, interconnect=INTERCONNECTS["dgx-a100"])
        return {
            p.curve.setting.framework: p.points[-1].exchange_seconds
            for p in found.projections
        }

    replicated, sharded = of("dp"), of("fsdp")
    assert sharded["torch"] > sharded["jax"] > 0
    assert replicated["torch"] == replicated["jax"]


def test_what_is_not_known_is_said_with_its_reason(kept):
    text = page(report(kept), {})
    assert "no projection, how " in text and "give --interconnect" in text
    assert "No MFU: no peak is known for" in text
    assert "Not fitted, with 3 points, a fit needs 5: the largest is held out" in text


def test_a_step_is_told_in_the_parts_that_runs_and_ablations_measured(out, kept):
    (file,) = (out / "figures").glob("step-parts-*.csv")
    rows = list(csv.DictReader(file.read_text().splitlines()))
    told = {
        (r["panel"], r["devices"], r["series"]): r["fraction of a step"] for r in rows
    }
    assert float(told["PyTorch", "4", "exposed communication"]) == pytest.approx(0.2)
    assert float(told["JAX", "1", "data"]) == pytest.approx(0.1)
    assert float(told["JAX", "1", "optimizer"]) == pytest.approx(0.1)
    assert ("JAX", "1", "exposed communication") not in told
    text = (out / "index.html").read_text()
    assert "10.0% (10.0% to 10.0%) is data" in text
    (file,) = (out / "figures").glob("rank-time-*.csv")
    rows = list(csv.DictReader(file.read_text().splitlines()))
    assert {row["series"] for row in rows} == {
        f"{name}, rank {rank}" for name in ("PyTorch", "JAX") for rank in (0, 2, 3)
    }
    assert "Without the exchange, so that no rank waits" in text
    points = [point for curve in report(kept).scaling.curves for point in curve.points]
    assert [len(point.cell.runs) for point in points] == [3] * 6  # ablations are none


def peak(kept, flops):
    """Bounds of the throughput and of the utilisation figure, and both captions."""
    found = charts(report(kept, peak_flops=flops))
    named = {chart.name.split("-")[0]: chart for chart in found}
    both = named["throughput"], named["utilisation"]
    bounds = [[r for r in chart.rows if r.series == PEAK] for chart in both]
    return bounds, [chart.caption for chart in both]


def test_the_peak_is_drawn_where_it_does_not_press_the_points_together(kept):
    ((far, fraction), (said, _)) = peak(kept, 1e12)
    assert not far and "times as high, and not drawn" in said
    assert {row.y for row in fraction} == {1.0} and {row.kind for row in fraction} == {
        "bound"
    }
    ((near, _), (said, _)) = peak(kept, 3e6)
    assert [row.x for row in near] == [1, 2, 4] and "not drawn" not in said


def test_a_ratio_near_1_fills_its_axis_and_1_is_in_view(kept):
    (chart,) = (c for c in charts(report(kept)) if c.name.startswith("ratio"))
    near = replace(chart, rows=tuple(replace(row, y=1.07) for row in chart.rows))
    near = replace(near, rows=tuple(replace(r, low=0.99, high=1.15) for r in near.rows))
    bottom, top = near.view
    assert 0.9 < bottom < 0.99 and 1.15 < top < 1.25
    assert "logarithmic" in chart.caption


def test_without_an_ablation_the_page_says_what_was_not_measured(study):
    for run in study.glob("*-alone-*"):
        shutil.rmtree(run)
    text = page(report(study), {})
    assert (
        "what the exchange takes was not measured: that needs runs without it" in text
    )
    assert "exposed communication</button>" not in text


def test_without_any_ablation_no_parts_of_a_step_are_shown(study, kept):
    def shown(folder):
        found = report(folder)
        names = {chart.name for chart in charts(found)}
        parts = "Where the time of a step goes" in page(found, {})
        return parts, any(name.startswith("step-parts") for name in names)

    assert shown(kept) == (True, True)
    for run in [*study.glob("*-alone-*"), *study.glob("*-frozen-*")]:
        shutil.rmtree(run)
    assert shown(study) == (False, False)
    assert "is data; what the exchange takes was not measured" in page(
        report(study), {}
    )


@pytest.mark.parametrize("without", ["parity-fp32", "*-alone-*", "jax-*", "*-4-*"])
def test_no_part_of_the_page_is_empty(study, without):
    for run in study.glob(without):
        shutil.rmtree(run)
    text = page(report(study), {})
    empty = r"<(\w+)[^>]*>\s*</\1>|</h[23]>\s*(<h2|<script|$)"
    body = text[text.index("<body>") : text.index("<script>")]
    assert not re.search(empty, body)
    assert re.search(empty, "<ul></ul>") and re.search(empty, "<h3>a</h3>\n<h2>")


def test_nothing_is_read_while_figures_are_drawn(study):
    shutil.rmtree(study / "parity-fp32")
    found = report(study)
    shutil.rmtree(study)
    assert {chart.section for chart in charts(found)} >= {"parity", "fast", "scales"}
    assert "Training loss of the first repeat of each" in charts(found)[0].caption


def test_markdown_says_what_the_page_says(kept):
    found = report(kept, interconnect=INTERCONNECTS["dgx-a100"], peak_flops=1e9)
    html, markdown = page(found, {}), to_markdown(found)
    told = [
        line
        for section in sections(found)
        for block in section.blocks
        if isinstance(block, Items) and not section.page_only
        for line in block.lines
    ]
    assert len(told) > 15
    for line in told:
        assert not line.strong
        assert to_html(line.text) in html and escape.to_markdown(line.text) in markdown


def test_of_many_groups_the_first_are_drawn_and_the_page_says_so(timed_run):
    runs = [timed_run(1.0 * n, experiment=f"experiment {n}") for n in range(1, 14)]
    found = make_report(runs)
    text = page(found, {})
    assert "Of 13 groups of curves the first 12 are drawn; the tables have all." in text
    assert all(f"experiment {n}" in text for n in range(1, 14))
    drawn = {c.title for c in charts(found) if c.name.startswith("throughput")}
    assert len(drawn) == 12


def test_figures_of_one_name_do_not_overwrite_each_other(timed_run):
    long = "an experiment whose name is longer than a file's may well be, " * 2
    names = [f"{long} {n}" for n in range(3)]
    found = charts(make_report([timed_run(1.0, experiment=name) for name in names]))
    assert len({chart.name for chart in found}) == len(found)
    titles = {c.title for c in found if c.name.startswith("throughput")}
    assert len(titles) == 3


def test_no_name_leads_out_of_the_folder(study, tmp_path):
    file = study / "parity-fp32" / "parity.json"
    change(file, precision='../../"><b>', experiment="../evil")
    write_report(report(study), tmp_path / "out")
    names = [path.name for path in (tmp_path / "out" / "figures").glob("losses-*")]
    assert len(names) == 3 and all(re.fullmatch(r"[a-z0-9.-]+", n) for n in names)


def test_two_repeats_have_no_interval_and_the_page_says_why(written, tmp_path):
    study = write_study(written, tmp_path / "study", sizes=(1, 2), repeats=2)
    text = page(report(study), {})
    assert "no interval, 2 repeats, an interval needs 3" in text
    said = "not decided (2 repeats, an interval needs 3), JAX runs at 2.000 times"
    assert said in text and "JAX is faster" not in text


def test_runs_of_a_check_are_no_repeats(kept):
    points = [point for curve in report(kept).scaling.curves for point in curve.points]
    assert [len(point.cell.runs) for point in points] == [3] * 6


def harm_summary(study):
    (study / "jax-1-fp32-dp-1" / "summary.json").write_text("{")


def harm_metrics(study):
    file = study / "jax-1-fp32-dp-1" / "metrics.jsonl"
    os.truncate(file, file.stat().st_size - 10)


def harm_middle(study):
    harm_rows(study / "jax-1-fp32-dp-1")


def lose_a_cell(study):
    shutil.rmtree(study / "jax-1-fp32-dp-1")


def fail_a_cell(study):
    lose_a_cell(study)
    row = {"name": "jax-1-fp32-dp-1", "status": "failed"}
    (study / "cells.jsonl").write_text(json.dumps(row) + "\n")


def harm_check(study):
    (study / "parity-fp32" / "parity.json").write_text('{"comparisons": 3}')


def harm_check_run(study):
    harm_rows(study / "parity-fp32" / "jax-1")


def harm_rows(run):
    """A hole, as a disk leaves one."""
    file = run / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:1] + lines[3:]))


def rename_check_framework(study):
    change(study / "parity-fp32" / "jax-1" / "summary.json", framework="mxnet")


def of_two_existing_runs(study):
    check = study / "parity-fp32"
    for folder in check.glob("*-1"):
        shutil.rmtree(folder)
    (compared,) = json.loads((check / "parity.json").read_text())["comparisons"]
    change(check / "parity.json", comparisons=[compared | {"kind": "runs"}])


def lose_check_run(study):
    shutil.rmtree(study / "parity-fp32" / "jax-1")


def unheard_of_verdict(study):
    file = study / "parity-fp32" / "parity.json"
    file.write_text(file.read_text().replace('"identical"', '"<b>as good as</b>"'))


def harm_plan(study):
    (study / "study.json").write_text("[]")


def test_a_check_of_eager_pytorch_says_nothing_of_a_compiled_one(study):
    assert not any(compared.withheld for compared in report(study).comparisons)
    for file in study.glob("torch-*/summary.json"):
        change(file, compiled=True)
    reasons = {compared.withheld for compared in report(study).comparisons}
    assert len(reasons) == 1 and "with parallel=dp and compile=true" in reasons.pop()


def test_compiled_pytorch_is_held_against_eager_where_both_are_proven(study):
    for repeat in 1, 2, 3:
        write_run_folder(
            study / "torch-2-fp32-dp-1",
            study / f"compiled-{repeat}",
            300 + repeat,
            world_size=2,
            compiled=True,
        )
    (unproven,) = report(study).compiled
    assert "compile=true" in unproven.withheld
    check = shutil.copytree(study / "parity-fp32", study / "parity-compiled")
    for file in check.glob("torch-*/summary.json"):
        change(file, compiled=True)
    (proven,) = report(study).compiled
    assert proven.withheld == "" and proven.estimate.value > 1
    said = f"PyTorch compiled runs at {proven.estimate.value:.3f} ("
    assert said in page(report(study), {}) and said in to_markdown(report(study))
    shutil.rmtree(study / "parity-fp32")  # which was the eager one's
    (unproven,) = report(study).compiled
    assert "with parallel=dp is among" in unproven.withheld
    for text in page(report(study), {}), to_markdown(report(study)):
        assert "of eager PyTorch" not in text
    (row,) = json.loads(to_json(report(study)))["compiled_against_eager"]
    assert row["ratio"] is None and row["withheld"]


def test_compiled_steps_with_and_without_cuda_graphs_are_two_configurations(study):
    for name, graphs in ("compiled", False), ("graphs", True):
        for repeat in 1, 2, 3:
            folder = write_run_folder(
                study / "torch-2-fp32-dp-1",
                study / f"{name}-{repeat}",
                300 + 50 * graphs + repeat,
                world_size=2,
                compiled=True,
            )
            change(
                folder / "environment.json", framework_settings={"cuda_graphs": graphs}
            )
    compiled, graphs = report(study).compiled
    assert "compile=true is among" in compiled.withheld
    assert "compile=max is among" in graphs.withheld
    check = shutil.copytree(study / "parity-fp32", study / "parity-compiled-max")
    for run in check.glob("torch-*/"):
        change(run / "summary.json", compiled=True)
        change(run / "environment.json", framework_settings={"cuda_graphs": True})
    withheld = [bool(found.withheld) for found in report(study).compiled]
    assert withheld == [True, False]
    assert "PyTorch compiled with CUDA graphs runs at" in page(report(study), {})


def kill_check(study):
    (study / "parity-fp32" / "parity.json").unlink()


def cut_short(study):
    (study / "unfinished").mkdir()


def two_recipes(study):
    change(study / "jax-1-fp32-dp-1" / "summary.json", config_hash="another")


def a_copy(study):
    shutil.copytree(study / "jax-1-fp32-dp-1", study / "jax-1-copy")


HARM = [
    (harm_summary, "jax-1-fp32-dp-1", "is not JSON"),
    (harm_metrics, "jax-1-fp32-dp-1", "metrics.jsonl is truncated"),
    (harm_middle, "jax-1-fp32-dp-1", "neither accuracies nor parts of a step: "),
    (lose_a_cell, "jax-1-fp32-dp-1", "is planned in study.json and was not run"),
    (fail_a_cell, "jax-1-fp32-dp-1", "failed before it left a run folder, see jax-1"),
    (harm_check, "parity-fp32", "is not a parity verdict"),
    (harm_check_run, "parity-fp32", "does not hold steps 1 to 4 once each"),
    (rename_check_framework, "parity-fp32", "framework is 'mxnet', expected one of"),
    (
        lose_check_run,
        "parity-fp32",
        "compared jax ×1, torch ×1, but 1 such run folders lie",
    ),
    (
        of_two_existing_runs,
        "parity-fp32",
        "compared two existing runs, whose folders are not in it; a report needs",
    ),
    (unheard_of_verdict, "parity-fp32", "verdict <b>as good as</b>"),
    (harm_plan, "study", "is not a study's plan"),
    (kill_check, "parity-fp32", "is a parity check without a verdict"),
    (cut_short, "unfinished", "holds starts of a study that were interrupted"),
    (two_recipes, "world size 1, global batch 8", "different recipes"),
    (a_copy, "jax-1-fp32-dp-1", "is a copy of"),
]


@pytest.mark.parametrize(("harm", "name", "reason"), HARM)
def test_what_is_damaged_or_missing_is_skipped_by_name(study, harm, name, reason):
    harm(study)
    skipped = [(o.name, o.reason) for o in report(study).scaling.skipped]
    assert any(n.endswith(name) and reason in why for n, why in skipped), skipped


def test_nothing_is_skipped_of_a_whole_study(kept):
    assert report(kept).scaling.skipped == ()


def test_where_all_is_skipped_the_page_says_so_at_its_top(written, tmp_path):
    study = write_study(written, tmp_path / "study", sizes=(1,), repeats=1)
    for file in study.rglob("summary.json"):
        held = json.loads(file.read_text())
        del held["compiled"]  # as an older record may be
        file.write_text(json.dumps(held))
    text = page(report(study), {})
    top = text[: text.index("<h2")]
    assert "No run that can be timed is among the folders; 5 were skipped" in top
    assert "no parity check that can be read is among them" in top


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(RecordError, match="holds no run folder"):
        report(tmp_path)


EVIL = '<script>alert("x")</script><img src=x onerror=alert(1)> $\\frac{$'


def test_no_name_becomes_markup(written, tmp_path, browser):
    for size in (1, 2):
        write_run_folder(
            written, tmp_path / f"run-{size}", 1.0 * size, world_size=size, model=EVIL
        )
        environment = tmp_path / f"run-{size}" / "environment.json"
        change(environment, host=EVIL, devices=[EVIL], command=[EVIL])
    write_run_folder(written, tmp_path / "<b>", 3.0, status="failed", error=EVIL)
    file = tmp_path / "page.html"
    text = page(report(tmp_path), {})
    file.write_text(text)
    assert "<script>alert" not in text and "<img src=x" not in text
    assert "&lt;script&gt;alert" in text
    browser.open(file)
    assert browser.run("document.querySelectorAll('img[src=x], b b').length") == 0
    assert browser.complaints == []


def test_no_name_becomes_markup_on_a_parity_checks_page(written, tmp_path):
    runs = {}
    for label in (f"a: {EVIL}", "b: jax"):
        run = read_run(write_run_folder(written, tmp_path / label[0], 1.0))
        run.summary["data_fingerprint"] = "<img src=x>"
        run.environment.update(processor=EVIL, python=EVIL, git_commit=EVIL)
        run.environment["packages"] = {EVIL: EVIL}
        runs[label] = run
    verdict = compare_two(*runs.items())
    verdict.notes.append(EVIL)
    text = write_parity_page(tmp_path, verdict, runs, ["--evil", EVIL]).read_text()
    assert "<script>alert" not in text and "<img src=x" not in text
    assert "&lt;script&gt;alert" in text


def test_the_same_runs_give_the_same_report(kept, tmp_path):
    once, again = report(kept), report(kept)
    for text in to_csv, to_json, to_markdown, lambda found: page(found, {}):
        assert text(once) == text(again)
    chart, *_ = charts(once)
    files = []
    for name in "a", "b":
        (tmp_path / name).mkdir()
        files.append([path.read_bytes() for path in draw(chart, tmp_path / name)])
    assert files[0] == files[1]


def test_a_report_replaces_a_report_and_nothing_else(kept, tmp_path):
    found = report(kept / "parity-fp32")
    file = write_report(found, tmp_path / "out")
    stale = tmp_path / "out" / "figures" / "of-an-earlier-report.svg"
    stale.touch()
    write_report(found, tmp_path / "out")
    assert not stale.exists() and file.exists()
    with pytest.raises(RecordError, match="holds files that are not a report's"):
        write_report(found, kept)
    (tmp_path / "file").touch()
    with pytest.raises(RecordError, match="is a file"):
        write_report(found, tmp_path / "file")


def test_a_study_that_ran_nothing_has_no_report_and_says_so(tmp_path):
    assert report_on(tmp_path).startswith("no report: ")


def test_a_study_has_its_report_beside_its_runs(kept, tmp_path):
    study = tmp_path / "study"
    shutil.copytree(kept / "parity-fp32", study / "parity-fp32")
    assert report_on(study) == f"report: {study / 'report' / 'index.html'}"
    assert report(study).scaling.skipped == ()  # it is not taken for a run


# In a browser


def test_the_page_asks_for_nothing_and_complains_of_nothing(opened, out):
    asked = [url for url in opened.requests if not url.startswith("data:")]
    assert asked == [(out / "index.html").as_uri()]
    assert opened.complaints == []


def test_the_browser_would_notice_a_request_and_a_complaint(browser, out, tmp_path):
    text = (out / "index.html").read_text()
    body = '<img src="absent.png"><script>console.error("planted")</script></body>'
    planted = tmp_path / "planted.html"
    planted.write_text(re.sub("<meta http-equiv.*", "", text).replace("</body>", body))
    browser.open(planted)
    assert any(url.endswith("absent.png") for url in browser.requests)
    assert any("planted" in complaint for complaint in browser.complaints)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_figures_are_seen_and_nothing_runs_over_the_edge(opened, width, scheme):
    opened.size(width)
    opened.media(scheme)
    assert opened.run("document.documentElement.scrollWidth") <= width
    tables = "[...document.querySelectorAll('.scroll')]"
    over = opened.run(f"{tables}.map(s => s.scrollWidth - s.clientWidth)")
    assert width < 1280 or not any(over)  # no table is cut off
    sizes = opened.run(
        "[...document.images].map(i => [i.naturalWidth, i.clientWidth, i.alt.length])"
    )
    assert len(sizes) == 11
    assert all(natural and shown > 0.6 * min(width, 500) for natural, shown, _ in sizes)
    assert all(alt > 20 for *_, alt in sizes)
    colours = "(s => [s.color, s.backgroundColor])(getComputedStyle(document.body))"
    text, _ = opened.run(colours)
    assert (text == "rgb(255, 255, 255)") == (scheme == "dark")


def column(browser, number):
    cells = f"#scales + .figures + .scroll tbody td:nth-child({number})"
    return browser.run(
        f"[...document.querySelectorAll('{cells}')].map(c => Number(c.dataset.value))"
    )


def sorted_by(browser):
    return browser.run(
        "[...document.querySelectorAll('#scales + .figures + .scroll th[aria-sort]')]"
        ".map(h => [h.textContent, h.getAttribute('aria-sort')])"
    )


def test_a_table_is_sorted_by_mouse_and_by_keyboard(opened):
    assert sorted_by(opened) == []
    before = column(opened, 5)
    opened.click("#scales + .figures + .scroll th:nth-child(5) button")
    assert sorted_by(opened) == [["images/s", "ascending"]]
    assert column(opened, 5) == sorted(before) != before
    opened.press("Enter")  # the button that was clicked has the focus
    assert sorted_by(opened) == [["images/s", "descending"]]
    assert column(opened, 5) == sorted(before, reverse=True)
    opened.press("Tab")
    opened.press(" ")
    assert sorted_by(opened) == [["speed-up", "ascending"]]
    assert column(opened, 6) == sorted(column(opened, 6))


def test_printed_it_is_light_and_whole(opened):
    opened.media("dark", "print")
    style = "getComputedStyle(document.querySelector('{}')).{}"
    assert opened.run(style.format("figure img", "filter")) == "none"
    assert opened.run(style.format(".scroll", "overflowX")) == "visible"
    assert opened.run(style.format("body", "color")) == "rgb(0, 0, 0)"
    assert opened.run(style.format("figure", "breakInside")) == "avoid"
    assert opened.run(style.format(".download", "display")) == "none"


def test_an_interval_that_is_not_sure_leaves_the_points_in_view():
    rows = [
        Row("PyTorch", "torch", "measured", 1, 2.0, 1.9, 2.1),
        Row("PyTorch", "torch", "measured", 2, 3.0, -50.0, 1000.0),
    ]
    made = {"name": "of", "section": "fast", "title": "", "y_label": "", "caption": ""}
    for log_y, edges in ((False, (0.0, 8.0)), (True, (1.0, 150.0))):
        chart = Chart(rows=tuple(rows), log_y=log_y, **made)
        bottom, top = chart.view
        assert edges[0] <= bottom < 1.9 and 3.0 < top <= edges[1]
        assert chart.cut(rows[0]) == (False, False)
        assert chart.cut(rows[1]) == (True, True)


def test_a_study_whose_frameworks_ran_on_different_devices_says_so_first(study):
    jax = [p for p in study.rglob("environment.json") if "jax" in p.parent.name]
    for file in jax:
        change(file, devices=["An H100 0"])
    found = report(study)
    _, message = parity(found)
    assert "Their devices differ" in message and "An H100 for JAX" in message
    (check,) = found.checks
    assert "its devices differ: " in check_sentence(check)
