"""What is said of speeds: one cell over another, and the parity checks behind it."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from report.analysis.breakdown import Ratio
from report.analysis.cells import Cell
from report.analysis.checks import Check, check_of
from report.analysis.intervals import Difference, compare
from report.analysis.recipes import Recipe
from report.analysis.timings import NOTHING, Rows
from report.parity.bounds import PASSES


@dataclass(frozen=True)
class SpeedComparison:
    """The same cell in JAX and in PyTorch, and the parity check that it stands on.

    Args:
      withheld: why nothing is claimed; empty where a check found both identical.
      seconds: that the shortest of its runs was timed for; 0 where that is not known.
    """

    jax: Cell
    torch: Cell
    difference: Difference
    check: Check | None
    withheld: str
    seconds: float

    @property
    def commits(self) -> tuple[str, ...]:
        """Of the runs and of the check's, as far as is known."""
        return _commits(self.jax, self.torch, *filter(None, [self.check]))


@dataclass(frozen=True)
class Compiled:
    """PyTorch's images/s compiled over eager in one cell.

    Args:
      checks: of the compiled cell and of the eager one.
      withheld: why nothing is said; empty where checks found both of them identical
        with JAX.
    """

    ratio: Ratio
    checks: tuple[Check, ...]
    withheld: str

    @property
    def commits(self) -> tuple[str, ...]:
        """Of the runs and of the checks', as far as is known."""
        return _commits(self.ratio.cell, self.ratio.under, *self.checks)


def _commits(*places: Cell | Check) -> tuple[str, ...]:
    return tuple(sorted({commit for place in places for commit in place.commits}))


def jax_against_torch(
    cells: Sequence[Cell],
    rows: Mapping[Path, Rows],
    recipes: Mapping[str, Recipe],
    checks: Sequence[Check],
) -> list[SpeedComparison]:
    """Every cell that both frameworks ran by the same recipe, JAX over PyTorch.

    A cell of one recipe in one framework and of another in the other is not compared.
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
            difference,
            *_proven(other, recipes, checks),
            seconds=min(_timed(run.path, rows) for run in (*jax.runs, *other.runs)),
        )
        for (jax, other), difference in zip(pairs, differences, strict=True)
    ]


def compiled_of(
    ratio: Ratio, recipes: Mapping[str, Recipe], checks: Sequence[Check]
) -> Compiled:
    """What may be said of PyTorch compiled against eager."""
    compiled, eager = (_proven(c, recipes, checks) for c in (ratio.cell, ratio.under))
    both = tuple(check for check, _ in (compiled, eager) if check is not None)
    return Compiled(ratio, both, compiled[1] or eager[1])


def _proven(
    cell: Cell, recipes: Mapping[str, Recipe], checks: Sequence[Check]
) -> tuple[Check | None, str]:
    """The check that comparisons of PyTorch's cell stand on; why they are withheld."""
    recipe = recipes.get(cell.runs[0].config_hash)
    check = check_of(cell, recipe, checks)
    failed = [check for check in checks if check.verdict not in PASSES]
    reason = ""
    if check is None:
        reason = _unchecked(cell, recipe, checks)
    elif check.verdict not in PASSES:
        reason = f"its parity check is {check.verdict}"
    elif failed:  # one bug of a framework is rarely of one recipe alone
        reason = f"the parity check of {failed[0].name} is {failed[0].verdict}"
    return check, reason


def _unchecked(cell: Cell, recipe: Recipe | None, checks: Sequence[Check]) -> str:
    """Why no parity check answers for a cell."""
    setting = cell.setting
    of = (
        f"{setting.experiment} in {setting.precision} with parallel={setting.parallel}"
        f"{' and compile=true' * setting.beside_eager}"
    )
    near = next((check for check in checks if check.is_called_like(cell)), None)
    if near is None:
        return f"no parity check of {of} is among the folders"
    if recipe is None:
        return f"whether the parity check of {of} is of its recipe cannot be read"
    parts = " and ".join(near.differences(cell, recipe))
    return f"the parity check of {of} is of other {parts}: {near.path}"


def _timed(run: Path, rows: Mapping[Path, Rows]) -> float:
    """The seconds of its timed windows."""
    return sum(window.seconds for window in rows.get(run, NOTHING).windows)
