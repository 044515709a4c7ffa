"""Timed runs -> curves of one regime each, and what every point of them shows.

A cell is what was run alike: its runs are the repeats. A curve is the cells of one
setting over world sizes, in one regime:

    weak                    the batch of a device is fixed, the global batch grows
    strong                  the global batch is fixed, a device's share of it shrinks
    strong by accumulation  global batch and micro-batch are fixed, accumulation shrinks

A cell may lie on several curves, a strong one and a weak one, but no curve mixes them.
Speed-up is throughput over that of one device: of the time of the same work in the
strong regimes, of the work in the same time in the weak one.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recipe.errors import RecordError
from report.analysis.cells import Cell, Setting, cells_of, different_recipes
from report.analysis.intervals import Estimate, median_estimate, ratio_estimate, through
from report.analysis.laws import (
    AMDAHL,
    GUSTAFSON,
    UNIVERSAL,
    Fit,
    fit,
    karp_flatt,
    scaled_serial_fraction,
)
from report.analysis.runs import Skipped, TimedRun

STRONG, WEAK, ACCUMULATION = "strong", "weak", "strong by accumulation"
SINGLE = "single"  # one world size: no speed-up
REGIMES = (STRONG, ACCUMULATION, WEAK)


@dataclass(frozen=True)
class Point:
    """A cell on a curve; the last three are None at the base case or without one.

    Args:
      images_per_second: median over the repeats.
      speedup: over the base case.
      efficiency: speed-up over devices.
      serial_fraction: Karp and Flatt's e(p); of weak curves, Gustafson's s(p).
    """

    cell: Cell
    images_per_second: Estimate
    speedup: Estimate | None
    efficiency: Estimate | None
    serial_fraction: Estimate | None


@dataclass(frozen=True)
class Curve:
    """Points of one setting and regime, by world size.

    Args:
      recipe: what is fixed along it, such as "global batch 512".
      base: devices of the base case, None without one.
      reason: why there are no speed-ups, in words; empty if there are.
      fits: of the laws that speak of the regime.
    """

    setting: Setting
    regime: str
    recipe: str
    points: tuple[Point, ...]
    base: int | None
    reason: str
    fits: tuple[Fit, ...]

    def __str__(self) -> str:
        return f"{self.setting}: {self.regime}, {self.recipe}"


@dataclass(frozen=True)
class Scaling:
    """Cells and the curves that they lie on, and the runs that were skipped."""

    cells: tuple[Cell, ...]
    curves: tuple[Curve, ...]
    skipped: tuple[Skipped, ...]


def scaling(runs: Sequence[TimedRun], base: int = 1) -> Scaling:
    """Curves over every regime that the runs hold.

    Args:
      runs: in any order; see `read_timed_runs`.
      base: world size that speed-ups are over; another than 1 for what does not fit on
        one device.
    """
    cells, skipped = cells_of(runs)
    groups: dict[Setting, list[Cell]] = defaultdict(list)
    for cell in cells:
        groups[cell.setting].append(cell)
    curves: list[Curve] = []
    for _, group in sorted(groups.items()):
        found, others = _curves_of(group, base)
        curves += found
        skipped += others
    return Scaling(tuple(cells), tuple(curves), tuple(skipped))


def _curves_of(cells: list[Cell], base: int) -> tuple[list[Curve], list[Skipped]]:
    """The curves that a setting's cells lie on, each cell on one at least."""
    families: dict[tuple[str, str], list[Cell]] = defaultdict(list)
    for cell in cells:
        batch, parts = f"global batch {cell.global_batch_size}", cell.grad_accum_steps
        share = f"batch {cell.device_batch:g} per device"
        in_parts = f", {parts} micro-batches" if parts > 1 else ""
        families[STRONG, batch + in_parts].append(cell)
        families[WEAK, share + in_parts].append(cell)
        families[ACCUMULATION, f"{batch}, {share} and micro-batch"].append(cell)
    several = {key: at for key, at in families.items() if len(at) > 1}
    with_base = [at for at in several.values() if at[0].world_size == base]
    placed = {id(cell) for at in with_base for cell in at}
    curves: list[Curve] = []
    skipped: list[Skipped] = []
    in_order = sorted(several.items(), key=lambda family: REGIMES.index(family[0][0]))
    for (regime, recipe), at in in_order:
        # A grid of world sizes and batches has diagonals without a base by the way.
        if at[0].world_size == base or not all(id(cell) in placed for cell in at):
            curve, others = curve_of(at, regime, recipe, base)
            curves.append(curve)
            skipped += others
    drawn = {id(cell) for at in several.values() for cell in at}
    for cell in cells:
        if id(cell) not in drawn:
            alone = f"global batch {cell.global_batch_size}"
            curves.append(curve_of([cell], SINGLE, alone, base)[0])
    return curves, skipped


def regime_of(cells: Sequence[Cell]) -> str:
    """The regime of cells that are meant to be one curve.

    Raises:
      RecordError: if they are of no one regime, naming what each holds.
    """
    if len({cell.world_size for cell in cells}) < 2:
        return SINGLE
    batches = {cell.global_batch_size for cell in cells}
    shares = {cell.device_batch for cell in cells}
    parts = {cell.grad_accum_steps for cell in cells}
    if len(batches) == 1 and len(parts) == 1:
        return STRONG
    if len(batches) == 1 and len(shares) == 1:
        return ACCUMULATION
    if len(shares) == 1 and len(parts) == 1:
        return WEAK
    held = "; ".join(
        f"world size {c.world_size}: global batch {c.global_batch_size}, "
        f"{c.device_batch:g} per device, {c.grad_accum_steps} micro-batches"
        for c in cells
    )
    raise RecordError(
        f"mixed regimes on one curve ({held}); keep the global batch (strong) or the "
        "batch per device (weak) along it"
    )


def curve_of(
    cells: Sequence[Cell], regime: str, recipe: str, base: int = 1
) -> tuple[Curve, list[Skipped]]:
    """Cells of one regime as a curve, and those that are not of its recipe.

    The base case's recipe is the curve's, or the first's where there is no base case. A
    weak curve's recipe changes with its global batch (and often the learning rate), as
    one by accumulation does with its micro-batches; data and model stay.

    Raises:
      RecordError: if the cells are of another regime, or of several.
    """
    if (found := regime_of(cells)) != regime:
        raise RecordError(f"{recipe} is {found}, not {regime}")
    if len({cell.world_size for cell in cells}) < len(cells):
        raise RecordError(
            f"duplicate configurations on one curve: {recipe}, {cells[0].setting}"
        )
    cells = sorted(cells, key=lambda cell: cell.world_size)
    kept: list[Cell] = []
    skipped: list[Skipped] = []
    for cell in cells:
        both = (cells[0].runs[0], cell.runs[0])
        if mixed := different_recipes(both, of_recipe=regime == STRONG):
            reason = f"would be on one curve with others, but these are of {mixed}"
            skipped.append(Skipped(f"{regime} curve: {cell}", reason))
        else:
            kept.append(cell)
    reason = ""
    if regime == SINGLE:
        reason = "only one world size was run"
    elif kept[0].world_size != base:
        sizes = ", ".join(str(cell.world_size) for cell in kept)
        reason = f"missing base case: no run at world size {base}, only at {sizes}"
    under = None if reason else kept[0]
    points = tuple(_point(cell, under, regime) for cell in kept)
    fits: tuple[Fit, ...] = ()
    if under is not None:
        laws = (GUSTAFSON if regime == WEAK else AMDAHL, UNIVERSAL)
        sizes, rates = [c.world_size for c in kept], [c.rates for c in kept]
        fits = tuple(fit(law, sizes, rates) for law in laws)
    at = None if under is None else base
    curve = Curve(cells[0].setting, regime, recipe, points, at, reason, fits)
    return curve, skipped


def _point(cell: Cell, base: Cell | None, regime: str) -> Point:
    rate = median_estimate(cell.rates)
    if base is None or cell is base:
        one = None if base is None else Estimate(1.0, reason="the base case")
        return Point(cell, rate, one, one, None)
    speedup = ratio_estimate(cell.rates, base.rates)
    devices = cell.world_size / base.world_size
    serial = scaled_serial_fraction if regime == WEAK else karp_flatt
    return Point(
        cell,
        rate,
        speedup,
        efficiency=through(speedup, lambda s: s / devices),
        serial_fraction=through(speedup, lambda s: serial(s, np.array(devices))),
    )
