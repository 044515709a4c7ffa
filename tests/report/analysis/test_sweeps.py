"""Seeds of one recipe are repeats; a sweep is a table with its keys as columns."""

import json

import numpy as np
import pytest
from scipy import stats

from recipe.config import from_yaml, recipe_hash
from report.analysis.findings import Options, Report, gather
from report.page.blocks import Entry, Table
from report.page.export import to_csv, to_json
from report.page.points import report_rows
from report.page.scaling import page, to_markdown
from report.page.sentences import accuracy_sentences
from report.page.tables import accuracy_table
from report.page.verdicts import batch_sentences
from tests.report.folders import change, write_check, write_run_folder


@pytest.fixture
def trained(written, tmp_path):
    """`trained("a", 100.0, seed=1, peak_lr=0.5)`: a run of that recipe."""

    def trained(name, rate, accuracy=0.75, framework="torch", world_size=1, **keys):
        folder = write_run_folder(
            written,
            tmp_path / "runs" / name,
            rate,
            accuracy,
            framework=framework,
            world_size=world_size,
        )
        config = folder / "config.yaml"
        text = config.read_text()
        for key, value in keys.items():
            (line,) = [ln for ln in text.splitlines() if ln.startswith(f"  {key}: ")]
            text = text.replace(f"{line}\n", f"  {key}: {value}\n")
        config.write_text(text)
        change(folder / "summary.json", config_hash=recipe_hash(from_yaml(text)))
        return folder

    return trained


def reported(tmp_path) -> Report:
    return gather([tmp_path / "runs"], Options())


ACCURACIES = {0: 0.90, 1: 0.93, 2: 0.96}


@pytest.fixture
def seeds(trained, tmp_path) -> Report:
    """Three seeds of each framework, the first of them trained twice."""
    for framework, rate in ("torch", 100.0), ("jax", 200.0):
        for seed, accuracy in ACCURACIES.items():
            for repeat in range(2 if seed == 0 else 1):
                trained(
                    f"{framework}-{seed}-{repeat}",
                    rate + seed + repeat / 10,
                    accuracy,
                    framework,
                    seed=seed,
                )
    return reported(tmp_path)


def test_seeds_are_repeats_of_accuracy_and_their_speeds_are_pooled(seeds):
    assert seeds.scaling.skipped == ()
    for curve in seeds.scaling.curves:
        (point,) = curve.points
        assert (len(point.cell.runs), point.cell.seeds) == (4, 3)
        assert point.images_per_second.low is not None
        score = seeds.accuracies.get(point.cell)
        assert score is not None
        values = list(ACCURACIES.values())  # the seed that ran twice counts once
        half = stats.t.ppf(0.975, 2) * np.std(values, ddof=1) / np.sqrt(3)
        assert score.mean.value == pytest.approx(0.93)
        assert score.spread == pytest.approx(0.03)
        assert score.mean.low == pytest.approx(0.93 - half)
        assert score.mean.high == 1.0  # no accuracy is above it
    row, _ = report_rows(seeds)
    assert (row["seeds"], row["test_accuracy_spread"]) == (3, pytest.approx(0.03))


def test_a_check_of_any_seed_answers_for_all_of_them(seeds, written, tmp_path):
    (compared,) = seeds.comparisons
    assert "no parity check" in compared.withheld
    write_check(written, tmp_path / "runs" / "parity-fp32")
    (compared,) = reported(tmp_path).comparisons
    assert compared.withheld == ""


def test_one_or_two_seeds_have_no_interval_and_say_so(trained, tmp_path):
    for seed in 0, 1:
        trained(f"run-{seed}", 100.0 + seed, 0.9, seed=seed)
    found = reported(tmp_path)
    (group,) = found.groups
    (said,) = accuracy_sentences(found, group)
    assert said.endswith("0.9000 over 2 seeds, spread 0 (2 seeds, an interval needs 3)")


def test_seeds_that_came_to_the_same_figure_have_no_interval_without_width(
    trained, tmp_path
):
    for seed in 0, 1, 2:
        trained(f"run-{seed}", 100.0 + seed, 346 / 359, seed=seed)
    (score,) = reported(tmp_path).accuracies.values()
    assert (score.spread, score.mean.low) == (0.0, None)
    assert score.mean.reason == "all 3 seeds reached the same figure"


RATES = {0.01: 0.70, 0.1: 0.95, 1.0: 0.40}


@pytest.fixture
def sweep(trained, tmp_path) -> Report:
    """Three learning rates of two seeds each, in either framework."""
    for framework in "torch", "jax":
        for peak_lr, accuracy in RATES.items():
            for seed in 0, 1:
                name = f"{framework}-{peak_lr}-{seed}"
                keys = {"seed": seed, "peak_lr": peak_lr}
                trained(name, 100.0 + peak_lr + seed, accuracy, framework, **keys)
    return reported(tmp_path)


def test_a_sweep_is_one_table_with_the_keys_that_differ_as_columns(sweep):
    assert sweep.scaling.skipped == ()
    (group,) = sweep.groups
    assert group.is_sweep and group.varied == ("optim.peak_lr",)
    table, _ = accuracy_table(sweep, group)
    assert isinstance(table, Table)
    assert table.head[:2] == ("framework", "optim.peak_lr")

    def text(cell: str | Entry) -> str:
        return cell.text if isinstance(cell, Entry) else cell

    column = {
        name: [text(row[n]) for row in table.rows] for n, name in enumerate(table.head)
    }
    assert column["framework"] == ["PyTorch"] * 3 + ["JAX"] * 3
    assert column["optim.peak_lr"] == ["0.01", "0.1", "1.0"] * 2
    assert column["test accuracy"] == ["0.7000", "0.9500", "0.4000"] * 2
    assert set(column["seeds"]) == {"2"}
    best, _ = accuracy_sentences(sweep, group)
    assert best.startswith("PyTorch, best of 3 recipes, optim.peak_lr=0.1, on 1 device")


def test_a_sweep_is_on_the_page_in_markdown_in_csv_and_in_json(sweep):
    shown = page(sweep, {}), to_markdown(sweep)
    assert all("optim.peak_lr" in text and "0.9500" in text for text in shown)
    assert not any("no projection" in text for text in shown)
    assert "optim.peak_lr=0.1" in to_csv(sweep)
    rows = json.loads(to_json(sweep))["rows"]
    assert {row["varied"] for row in rows} == {f"optim.peak_lr={r}" for r in RATES}


def test_a_sweep_over_world_sizes_has_a_curve_for_each_recipe(trained, tmp_path):
    for size in 1, 2:
        for peak_lr in RATES:
            for repeat in range(3):
                rate = 100.0 * size + peak_lr + repeat
                name = f"{size}-{peak_lr}-{repeat}"
                trained(name, rate, world_size=size, peak_lr=peak_lr)
    found = reported(tmp_path)
    assert found.scaling.skipped == ()
    assert len(found.scaling.curves) == len(RATES)
    assert all(len(curve.points) == 2 for curve in found.scaling.curves)
    (group,) = found.groups
    assert not group.is_sweep
    labels = {group.label(curve) for curve in group.curves}
    assert labels == {f"PyTorch, optim.peak_lr={rate}" for rate in RATES}


def test_a_learning_rate_that_follows_the_batch_of_a_weak_curve_is_no_sweep(
    trained, tmp_path
):
    for size in 1, 2:
        for repeat in range(3):
            folder = trained(
                f"{size}-{repeat}",
                100.0 * size + repeat,
                world_size=size,
                peak_lr=0.1 * size,
            )
            change(folder / "summary.json", global_batch_size=8 * size)
    (curve,) = reported(tmp_path).scaling.curves
    assert (curve.regime, curve.setting.varied) == ("weak", ())
    assert curve.base == 1


def test_a_config_that_is_not_the_runs_own_pools_nothing(trained, tmp_path):
    for seed in 0, 1:
        trained(f"run-{seed}", 100.0 + seed, seed=seed)
    folder = trained("changed", 102.0, seed=2)
    change(folder / "summary.json", config_hash="0" * 64)
    (left,) = reported(tmp_path).scaling.skipped
    assert "different recipes" in left.reason


def test_a_check_at_another_batch_than_the_cells_says_so(trained, written, tmp_path):
    for size in 1, 2:
        for framework in "torch", "jax":
            folder = trained(f"{framework}-{size}", 100.0, 0.9, framework, size)
            change(folder / "summary.json", global_batch_size=8 * size)
    write_check(written, tmp_path / "runs" / "parity-fp32")
    found = reported(tmp_path)
    (said,) = batch_sentences(found)
    assert "was checked at a global batch of 8, which fits on one device" in said
    assert said.endswith("timed at 8 and 16")
    assert said in page(found, {}) and said in to_markdown(found)
