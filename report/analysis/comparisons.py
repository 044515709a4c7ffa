"""Comparisons of speed: one cell over another, and the parity checks behind them."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from report.analysis.breakdown import Ratio, compiled_over_eager
from report.analysis.cells import Cell
from report.analysis.checks import Check, check_of
from report.analysis.intervals import Difference, compare
from report.analysis.recipes import Recipe
from report.analysis.timings import NOTHING, Rows
from report.parity.bounds import PASSES


@dataclass(frozen=True)
class SpeedComparison(Ratio):
    """JAX's images/s over PyTorch's, or compiled PyTorch's over eager PyTorch's.

    Args:
      checks: the parity checks of PyTorch's cells that it stands on.
      withheld: why nothing is claimed; empty where checks found all of it identical.
      difference: whether JAX is faster, None for PyTorch alone.
      seconds: that the shortest of its runs was timed for; 0 where that is not known.
    """

    checks: tuple[Check, ...]
    withheld: str
    difference: Difference | None = None
    seconds: float = 0.0

    @property
    def commits(self) -> tuple[str, ...]:
        """The known commits of the runs and of the checks."""
        places = (self.cell, self.under, *self.checks)
        return tuple(sorted({commit for place in places for commit in place.commits}))


def jax_against_torch(
    cells: Sequence[Cell],
    rows: Mapping[Path, Rows],
    recipes: Mapping[str, Recipe],
    checks: Sequence[Check],
) -> list[SpeedComparison]:
    """Every cell that both frameworks ran with the same recipe, JAX over PyTorch.

    A cell whose recipes differ between the frameworks is not compared.
    """

    def same(cell: Cell) -> tuple[object, ...]:
        run, s = cell.runs[0], cell.setting
        how = (s.precision, s.parallel, s.deterministic, cell.grad_accum_steps)
        where = (s.device, s.machine, cell.world_size)
        return (*how, *where, run.of_recipe, run.data_fingerprint)

    torch: dict[tuple[object, ...], list[Cell]] = defaultdict(list)
    for cell in cells:
        if cell.setting.framework == "torch":  # eager or compiled
            torch[same(cell)].append(cell)
    found: dict[object, tuple[Cell, Cell]] = {}
    for cell in cells:
        if cell.setting.framework == "jax":
            for other in torch[same(cell)]:
                # One device's runs are the base of several layouts, and asked once.
                found.setdefault((cell.runs, other.runs), (cell, other))
    pairs = list(found.values())
    differences = compare([(jax.rates, other.rates) for jax, other in pairs])
    return [
        SpeedComparison(
            jax,
            other,
            difference.ratio,
            *proven([other], recipes, checks),
            difference,
            seconds=min(
                sum(window.seconds for window in rows.get(run.path, NOTHING).windows)
                for run in (*jax.runs, *other.runs)
            ),
        )
        for (jax, other), difference in zip(pairs, differences, strict=True)
    ]


def compiled_against_eager(
    cells: Sequence[Cell], recipes: Mapping[str, Recipe], checks: Sequence[Check]
) -> list[SpeedComparison]:
    """PyTorch's compiled cells over its eager ones."""
    return [
        SpeedComparison(
            ratio.cell,
            ratio.under,
            ratio.estimate,
            *proven([ratio.cell, ratio.under], recipes, checks),
        )
        for ratio in compiled_over_eager(cells)
    ]


def proven(
    cells: Sequence[Cell], recipes: Mapping[str, Recipe], checks: Sequence[Check]
) -> tuple[tuple[Check, ...], str]:
    """The checks of PyTorch's cells, and why no comparison may stand on them."""
    failed = [check for check in checks if check.verdict not in PASSES]
    found, reasons = [], []
    for cell in cells:
        recipe = recipes.get(cell.runs[0].config_hash)
        check = check_of(cell, recipe, checks)
        if check is None:
            reasons.append(_unchecked(cell, recipe, checks))
            continue
        found.append(check)
        if check.verdict not in PASSES:
            reasons.append(f"its parity check is {check.verdict}")
        elif failed:  # one bug of a framework is rarely of one recipe alone
            name, verdict = failed[0].name, failed[0].verdict
            reasons.append(f"the parity check of {name} is {verdict}")
    return tuple(found), next(iter(reasons), "")


def _unchecked(cell: Cell, recipe: Recipe | None, checks: Sequence[Check]) -> str:
    """Why no parity check answers for a cell."""
    setting = cell.setting
    of = (
        f"{setting.experiment} in {setting.precision} with parallel={setting.parallel}"
        f"{setting.compile_key}"
    )
    near = next((check for check in checks if check.is_called_like(cell)), None)
    if near is None:
        return f"no parity check of {of} is among the folders"
    if recipe is None:
        return f"whether the parity check of {of} is of its recipe cannot be read"
    parts = " and ".join(near.differences(cell, recipe))
    return f"the parity check of {of} is of other {parts}: {near.path}"


def different_devices(cells: Sequence[Cell]) -> str:
    """That the frameworks ran on different devices throughout; else empty."""
    kinds = {
        name: {c.setting.device for c in cells if c.setting.framework == name}
        for name in ("torch", "jax")
    }
    if not all(kinds.values()) or kinds["torch"] & kinds["jax"]:
        return ""
    torch, jax = (", ".join(sorted(kinds[name])) for name in ("torch", "jax"))
    return f"Their devices differ, {torch} for PyTorch and {jax} for JAX"
