"""Curves of one regime each, and every cell that is not of one said by name."""

import itertools
from dataclasses import replace

import pytest

from recipe.errors import RecordError
from report.analysis.cells import cells_of
from report.analysis.comparisons import (
    SpeedComparison,
    different_devices,
    jax_against_torch,
)
from report.analysis.groups import grouped
from report.analysis.laws import amdahl_speedup, gustafson_speedup
from report.analysis.scaling import (
    ACCUMULATION,
    SINGLE,
    STRONG,
    WEAK,
    Scaling,
    curve_of,
    regime_of,
    scaling,
)
from report.page.verdicts import comparison_sentence

SIZES = [1, 2, 4, 8, 16]
SERIAL = 0.05


def compared(found: Scaling) -> list[SpeedComparison]:
    """Without what lies beside the runs."""
    return jax_against_torch(found.cells, {}, {}, ())


@pytest.fixture
def make_curve(timed_run):
    """`make_curve(WEAK)`: three runs a world size, of a known serial fraction."""

    def make(regime, sizes=SIZES, repeats=3, **fields):
        law = gustafson_speedup if regime == WEAK else amdahl_speedup
        runs = []
        for size, number in itertools.product(sizes, range(repeats)):
            rate = 1000 * float(law(size, SERIAL)) * (1 + 0.001 * (number - 1))
            varied = {
                STRONG: {"global_batch_size": 512},
                WEAK: {"global_batch_size": 64 * size, "config_hash": f"recipe-{size}"},
                ACCUMULATION: {
                    "global_batch_size": 512,
                    "grad_accum_steps": 16 // size,
                    "config_hash": f"recipe-{size}",
                },
            }[regime]
            runs.append(timed_run(rate, world_size=size, **{**varied, **fields}))
        return runs

    return make


@pytest.mark.parametrize("regime", [STRONG, WEAK, ACCUMULATION])
def test_each_regime_is_known_and_gives_back_its_serial_fraction(make_curve, regime):
    found = scaling(make_curve(regime))
    (curve,) = found.curves
    assert (curve.regime, curve.base, curve.reason) == (regime, 1, "")
    assert [point.cell.world_size for point in curve.points] == SIZES
    first, *others = curve.points
    assert first.speedup is not None and first.speedup.value == 1
    assert first.serial_fraction is None
    for point in others:
        fraction, efficiency = point.serial_fraction, point.efficiency
        assert fraction is not None and efficiency is not None
        assert fraction.value == pytest.approx(SERIAL)
        assert fraction.low < SERIAL < fraction.high
        assert efficiency.low < efficiency.value < efficiency.high
        assert efficiency.value == point.speedup.value / point.cell.world_size
    assert [fit.held_out for fit in curve.fits] == [16, 16]
    assert curve.fits[0].parameters["serial fraction"].value == pytest.approx(SERIAL)
    assert found.skipped == ()


def test_strong_and_weak_share_a_base_and_no_other_cell(make_curve):
    runs = make_curve(STRONG, global_batch_size=64) + make_curve(WEAK)
    for run in runs:
        assert run.global_batch_size % 64 == 0
    runs = [replace(run, config_hash=str(run.global_batch_size)) for run in runs]
    curves = {curve.regime: curve for curve in scaling(runs).curves}
    assert set(curves) == {STRONG, WEAK}
    assert {p.cell.global_batch_size for p in curves[STRONG].points} == {64}
    assert {p.cell.device_batch for p in curves[WEAK].points} == {64}
    assert len(curves[STRONG].points[0].cell.runs) == 6  # both have it: six repeats


def test_mixed_regimes_on_one_curve_are_refused_by_name(timed_run):
    batches = {1: 64, 2: 64, 4: 256}
    runs = [
        timed_run(1.0, world_size=p, global_batch_size=b) for p, b in batches.items()
    ]
    cells, _ = cells_of(runs)
    with pytest.raises(RecordError, match="mixed regimes on one curve .world size 1: "):
        regime_of(cells)
    assert regime_of(cells[:2]) == STRONG
    assert regime_of(cells[::2]) == WEAK
    with pytest.raises(RecordError, match="global batch 64 is strong, not weak"):
        curve_of(cells[:2], WEAK, "global batch 64")
    curves = [(c.regime, len(c.points)) for c in scaling(runs).curves]
    assert curves == [(STRONG, 2), (WEAK, 2)]


def test_a_rounding_is_no_verdict(timed_run):
    runs = [
        timed_run(rate * size, world_size=size)
        for rate, size in itertools.product([99.9, 100.1, 100.3], [1, 8])
    ]
    even = [replace(r, windows=(100.1 * r.world_size,)) for r in runs]
    for given in runs, even:
        fraction = scaling(given).curves[0].points[-1].serial_fraction
        assert fraction is not None and fraction.low < 0 < fraction.high
        assert fraction.low <= fraction.value <= fraction.high


def test_a_missing_base_case_is_said_and_nothing_is_divided_by_another(make_curve):
    (curve,) = scaling(make_curve(STRONG, sizes=[2, 4, 8, 16, 32])).curves
    assert curve.reason == (
        "missing base case: no run at world size 1, only at 2, 4, 8, 16, 32"
    )
    assert curve.base is None and curve.fits == ()
    for point in curve.points:
        assert point.speedup is point.efficiency is point.serial_fraction is None
        assert point.images_per_second.low is not None


def test_a_base_case_of_several_devices_may_be_asked_for(make_curve):
    (curve,) = scaling(make_curve(STRONG, sizes=[2, 4, 8]), base=2).curves
    four = curve.points[1]
    assert four.efficiency is not None and four.speedup is not None
    assert four.efficiency.value == pytest.approx(four.speedup.value / 2)


def test_one_world_size_is_no_curve_but_keeps_its_rate(make_curve):
    (curve,) = scaling(make_curve(STRONG, sizes=[4])).curves
    assert (curve.regime, curve.reason) == (
        SINGLE,
        "only one world size was run",
    )
    assert curve.points[0].images_per_second.low is not None


def test_runs_of_different_recipes_in_a_cell_are_skipped_by_name(make_curve):
    runs = make_curve(STRONG)
    other = replace(runs[4], config_hash="another", path=runs[4].path / "odd")
    found = scaling([*runs, other])
    (out,) = found.skipped
    assert out.name.endswith("world size 2, global batch 512")
    assert out.reason.startswith("holds runs of different recipes: recipe (run-4, ")
    assert "another (odd)" in out.reason
    (curve,) = found.curves
    assert [point.cell.world_size for point in curve.points] == [1, 4, 8, 16]


@pytest.mark.parametrize(
    ("field", "told"),
    [
        ("config_hash", "recipes"),
        ("data_fingerprint", "data_fingerprint"),
        ("parameters", "parameters"),
    ],
)
def test_a_cell_of_another_recipe_than_the_base_is_skipped_by_name(
    make_curve, field, told
):
    runs = make_curve(STRONG)
    odd = [replace(r, **{field: "7"}) if r.world_size == 8 else r for r in runs]
    found = scaling(odd)
    (out,) = found.skipped
    assert out.name.endswith("world size 8, global batch 512")
    said = f"would be on one curve with others, but these are of different {told}: "
    assert out.reason.startswith(said)
    assert [p.cell.world_size for p in found.curves[0].points] == [1, 2, 4, 16]


@pytest.mark.parametrize(
    "field",
    ["precision", "parallel", "device", "machine", "framework", "software", "model"]
    + ["data"],
)
def test_nothing_is_averaged_over_settings(make_curve, field):
    runs = make_curve(STRONG) + make_curve(STRONG, **{field: "other"})
    found = scaling(runs)
    assert len(found.curves) == 2
    for curve in found.curves:
        assert [len(point.cell.runs) for point in curve.points] == [3] * len(SIZES)


def test_one_process_and_a_process_per_device_are_two_curves_with_one_base(make_curve):
    runs = make_curve(STRONG, framework="jax")
    runs += make_curve(STRONG, sizes=SIZES[1:], framework="jax", processes=1)
    runs += make_curve(STRONG)
    found = scaling(runs)
    layouts = [(c.setting.framework, c.setting.layout) for c in found.curves]
    assert layouts == [
        ("jax", "a process per device"),
        ("jax", "one process"),
        ("torch", "a process per device"),
    ]
    assert all(curve.base == 1 for curve in found.curves)
    # Both against PyTorch, the base case once.
    assert len(compared(found)) == 2 * len(SIZES) - 1


def test_jax_is_compared_with_pytorch_where_both_ran_the_same_recipe(make_curve):
    torch = make_curve(STRONG)
    jax = [
        replace(run, framework="jax", windows=(1.1 * run.images_per_second,))
        for run in torch
    ]
    found = compared(scaling(torch + jax))
    assert [v.difference.verdict for v in found] == ["faster"] * len(SIZES)
    assert found[0].difference.ratio.value == pytest.approx(1.1)
    other = [replace(run, config_hash="another") for run in jax]
    assert compared(scaling(torch + other)) == []


def test_frameworks_on_two_machines_are_not_compared(make_curve):
    torch = make_curve(STRONG, machine="2 logical cores")
    jax = make_curve(STRONG, machine="128 logical cores", framework="jax")
    assert compared(scaling(torch + jax)) == []
    found = scaling(torch + jax + make_curve(STRONG, machine="128 logical cores"))
    assert {v.under.setting.machine for v in compared(found)} == {"128 logical cores"}
    groups, _ = grouped(found.curves)
    assert [group.title.split(",")[0] for group in groups] == [
        "128 logical cores",
        "2 logical cores",
    ]


def test_versions_of_one_framework_are_told_apart_in_the_legend(make_curve):
    runs = [make_curve(STRONG, software=f"torch {n}") for n in (1, 2)]
    found = scaling([*itertools.chain(*runs)])
    ((group,), _) = grouped(found.curves)
    labels = [group.label(curve) for curve in group.curves]
    assert labels == ["PyTorch, torch 1", "PyTorch, torch 2"]


def test_jax_is_compared_with_pytorch_eager_and_compiled(make_curve):
    eager = make_curve(STRONG, sizes=[1, 2])
    jax, compiled = (
        [replace(r, framework=name, compiled=True, path=r.path / name) for r in eager]
        for name in ("jax", "torch")
    )
    found = scaling([*eager, *compiled, *jax])
    pairs = [(v.under.setting.compiled, v.cell.world_size) for v in compared(found)]
    assert sorted(pairs) == [(False, 1), (False, 2), (True, 1), (True, 2)]
    ((group,), _) = grouped(found.curves)
    labels = [group.label(curve) for curve in group.curves]
    assert labels == ["PyTorch", "PyTorch compiled", "JAX"]


def test_a_grid_of_batches_and_sizes_has_no_curve_without_a_base(timed_run):
    grid = itertools.product([1, 2, 4], [64, 128, 256])
    runs = [
        timed_run(1.0 * p, world_size=p, global_batch_size=b, config_hash=str(b))
        for p, b in grid
    ]
    found = scaling(runs)
    assert not any(curve.reason for curve in found.curves)
    assert [c.regime for c in found.curves] == [STRONG] * 3 + [WEAK] * 2


def test_a_cell_given_twice_is_refused(make_curve):
    cells, _ = cells_of(make_curve(STRONG))
    with pytest.raises(
        RecordError, match="duplicate configurations on one curve: here"
    ):
        curve_of([*cells, cells[0]], STRONG, "here")


def test_where_noise_is_the_answer_the_comparison_says_so_in_one_sentence(timed_run):
    """Not "no difference" beside an interval that excludes 1."""
    wild, calm = [40.0, 100.0, 90.0], [100.0, 101.0, 99.0]
    runs = [timed_run(rate, framework="jax") for rate in wild]
    runs += [timed_run(rate, framework="torch") for rate in calm]
    (found,) = compared(scaling(runs))
    found = replace(found, withheld="", seconds=0.6)
    said = comparison_sentence(found, [found])
    assert "too noisy to tell (repeats differ by 2.5 ×, 0.6 s were timed; " in said
    assert "measure longer), JAX runs at 0.900 (" in said
    assert "no difference" not in said


@pytest.mark.parametrize(
    "devices, said",
    {
        ("An H100", "A CPU"): "differ, An H100 for PyTorch and A CPU for JAX",
        ("An H100", "An H100"): "",
    }.items(),
)
def test_frameworks_that_ran_on_other_devices_are_said_to(make_curve, devices, said):
    torch, jax = devices
    runs = make_curve(STRONG, device=torch)
    found = scaling(runs + make_curve(STRONG, device=jax, framework="jax"))
    assert different_devices(found.cells).endswith(said)
    assert bool(said) == bool(different_devices(found.cells))
    assert not different_devices(scaling(runs).cells)
