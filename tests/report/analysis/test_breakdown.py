"""A step's parts add up to it, and are as sure as what they were measured by."""

import numpy as np
import pytest

from report.analysis.breakdown import (
    PARTS,
    REST,
    ablations_of,
    breakdown,
    compiled_over_eager,
    rank_times,
    real_over_synthetic,
)
from report.analysis.cells import cells_of
from report.analysis.recipes import Recipe, workload
from report.analysis.runs import ABLATIONS, GRAD_SYNC
from report.analysis.scaling import scaling
from report.analysis.timings import Evaluated, Rows, Window

EXPOSED, UPDATE = ABLATIONS[GRAD_SYNC], "optim.update"
# An ablation has a hash of its own, and the workload of what it is an ablation of.
RECIPES = {
    "recipe": Recipe("workload", None),
    "alone": Recipe("workload", None),
    "another": Recipe("another workload", None),
}


@pytest.fixture
def cell(timed_run):
    """`cell([100, 101, 99])`: repeats on two devices."""

    def make(rates):
        ((cell,), _) = cells_of([timed_run(rate, world_size=2) for rate in rates])
        return cell

    return make


@pytest.fixture
def alone(timed_run):
    """Runs on two devices without the exchange."""

    def make(rates, **fields):
        fields = {"world_size": 2, "config_hash": "alone", **fields}
        return [timed_run(rate, ablated=(GRAD_SYNC,), **fields) for rate in rates]

    return make


def rows(data=0.1, ranks=(1.0, 0.9), windows=4):
    """A run's rows: windows of a second, in ten steps."""
    window = Window(10, 1.0, tuple(ranks), data)
    return Rows((window,) * windows, Evaluated((), ()))


def test_the_parts_of_a_step_are_the_step(cell, alone):
    whole = cell([80.0, 81.0, 79.0])
    ablations = {
        GRAD_SYNC: alone([100.0, 101.0, 99.0]),
        UPDATE: alone([83.2, 84.2, 82.2]),
    }
    assert set(ablations) == set(ABLATIONS)
    found = breakdown(whole, [rows(), rows(), rows()], ablations)
    assert found is not None and list(found.fractions) == list(PARTS)
    fractions = {part: f.value for part, f in found.fractions.items()}
    optimizer = 1 - 80 / 83.2
    parts = {EXPOSED: 0.2, ABLATIONS[UPDATE]: optimizer, "data": 0.1}
    assert fractions == pytest.approx({REST: 0.7 - optimizer, **parts})
    assert found.milliseconds.value == 1000 * 64 / 80
    for fraction in found.fractions.values():
        assert fraction.low - 1e-9 <= fraction.value <= fraction.high + 1e-9


def test_a_part_that_no_run_measured_is_not_shown(cell, alone):
    whole, ablation = cell([80.0] * 3), alone([100.0] * 3)
    untimed = [rows(), rows(), Rows(rows().windows + (Window(1, 1.0, (), None),), None)]
    found = breakdown(whole, untimed, {GRAD_SYNC: ablation})
    assert found is not None and list(found.fractions) == [REST, EXPOSED]
    found = breakdown(whole, [rows()] * 3, {})
    assert found is not None and list(found.fractions) == [REST, "data"]
    assert breakdown(whole, untimed, {}) is None


def test_too_few_repeats_of_an_ablation_have_no_interval(cell, alone):
    whole, ablation = cell([80.0] * 3), alone([100.0, 101.0])
    found = breakdown(whole, [rows()] * 3, {GRAD_SYNC: ablation})
    assert found is not None
    for part in EXPOSED, REST:
        assert found.fractions[part].low is None
        assert found.fractions[part].reason == "2 repeats, an interval needs 3"
    assert found.fractions["data"].low is not None


def test_of_simulated_studies_the_intervals_hold_the_truth(cell, alone):
    generator = np.random.default_rng(0)
    held = {REST: 0, EXPOSED: 0}
    truth = {REST: 0.7, EXPOSED: 0.2}
    studies = 400
    for _ in range(studies):
        noise = np.exp(generator.normal(0, 0.02, (3, 5)))
        whole, ablation = (
            cell((80 * noise[0]).tolist()),
            alone((100 * noise[1]).tolist()),
        )
        timed = [rows(data=0.1 * factor) for factor in noise[2]]
        found = breakdown(whole, timed, {GRAD_SYNC: ablation})
        assert found is not None
        for part, value in truth.items():
            fraction = found.fractions[part]
            held[part] += fraction.low < value < fraction.high
    assert all(0.92 < count / studies < 0.99 for count in held.values()), held


def test_an_ablation_is_no_repeat_and_goes_to_the_cell_that_it_is_of(cell, alone):
    whole, ablation = cell([80.0] * 3), alone([100.0] * 3)
    ablations, skipped = ablations_of(ablation, [whole], RECIPES)
    assert ablations == {whole: {GRAD_SYNC: tuple(ablation)}} and skipped == []
    (curve,) = scaling(list(whole.runs)).curves
    assert curve.points[0].cell.rates == [80.0] * 3


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"world_size": 4}, "no run of the whole step matches it"),
        ({"framework": "jax"}, "no run of the whole step matches it"),
        ({"global_batch_size": 128}, "no run of the whole step matches it"),
        ({"config_hash": "another"}, "no run of the whole step matches it"),
        ({"config_hash": "unread"}, "no run of the whole step matches it"),
    ],
)
def test_an_ablation_of_nothing_is_skipped_by_name(cell, alone, fields, told):
    (ablation,) = alone([100.0], **fields)
    ablations, (out,) = ablations_of([ablation], [cell([80.0])], RECIPES)
    assert ablations == {} and out.name == str(ablation.path)
    assert out.reason.startswith("ran without parallel.grad_sync, to be compared")
    assert told in out.reason


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_an_ablation_has_the_workload_of_what_it_is_of(make_config, ablation):
    whole, ablation, seed, other = (
        workload(make_config("experiment=digits_mlp", *given))
        for given in ([], [f"{ablation}=false"], ["train.seed=1"], ["optim.peak_lr=1"])
    )
    assert whole == ablation == seed != other


def test_ablations_of_two_recipes_are_not_averaged(cell, alone):
    ablation = alone([100.0]) + alone([100.0], config_hash="recipe")
    ablations, skipped = ablations_of(ablation, [cell([80.0])], RECIPES)
    assert ablations == {} and len(skipped) == 2
    assert all("different recipes: " in out.reason for out in skipped)


def test_real_data_is_held_against_synthetic_images_of_the_same_point(timed_run):
    fields = {"world_size": 2, "data": "synthetic", "config_hash": "alone"}
    runs = [timed_run(rate, world_size=2) for rate in (90.0, 91.0, 89.0)]
    runs += [timed_run(rate, **fields) for rate in (100.0, 101.0, 99.0)]
    runs += [timed_run(50.0)]  # on one device, and on no synthetic images
    cells, _ = cells_of(runs)
    (found,) = real_over_synthetic(cells)
    assert (found.cell.setting.data, found.cell.world_size) == ("digits", 2)
    assert found.estimate.value == pytest.approx(0.9) and found.estimate.high < 1


def test_compiled_pytorch_is_held_against_eager_of_the_same_point(timed_run):
    runs = [timed_run(rate, world_size=2) for rate in (90.0, 91.0, 89.0)]
    both = {"world_size": 2, "compiled": True}
    runs += [timed_run(rate, **both) for rate in (100.0, 101.0, 99.0)]
    runs += [timed_run(rate, framework="jax", **both) for rate in (300.0, 299.0, 301.0)]
    runs += [timed_run(50.0, compiled=True)]  # on one device, and never eager
    runs += [timed_run(60.0, world_size=4, config_hash="another")]
    runs += [timed_run(70.0, world_size=4, compiled=True)]
    (found,) = compiled_over_eager(cells_of(runs)[0])
    assert (found.cell.setting.compiled, found.cell.world_size) == (True, 2)
    assert found.estimate.value == pytest.approx(100 / 90) and found.estimate.low > 1


def test_the_rank_that_is_waited_for_is_named_first(cell):
    found = rank_times(cell([80.0] * 3), True, [rows(ranks=(0.8, 1.2))] * 3)
    assert found is not None
    slow, quick = found.times
    assert (slow.rank, slow.slowest, slow.median.value) == (1, 1.0, 120.0)
    assert slow.over_mean.value == pytest.approx(1.2) and slow.over_mean.low is not None
    assert (quick.rank, quick.slowest, len(quick.milliseconds)) == (0, 0.0, 12)


def test_ranks_that_changed_within_a_run_are_not_told_apart(cell):
    whole = cell([80.0] * 3)
    assert rank_times(whole, True, [rows(), rows(ranks=(1.0,) * 4)]) is None
    assert rank_times(whole, True, [Rows((), Evaluated((), ()))]) is None
