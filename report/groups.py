"""Curves that one panel shows together: the same question asked of both frameworks."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from report.cells import PER_DEVICE, Setting
from report.scaling import SINGLE, Curve, Versus

FRAMEWORKS = {"torch": "PyTorch", "jax": "JAX"}


@dataclass(frozen=True)
class Group:
    """Curves that differ in framework and in how devices are divided over processes.

    Args:
      title: what tells this group from the report's others.
      curves: PyTorch's first.
      versus: JAX against PyTorch in cells of these curves.
    """

    title: str
    curves: tuple[Curve, ...]
    versus: tuple[Versus, ...]

    @property
    def name(self) -> str:
        return file_name(self.title)

    def label(self, curve: Curve) -> str:
        """The curve's in a legend: its framework, and its layout where several are."""
        name = program(curve.setting)
        mine = [c for c in self.curves if program(c.setting) == name]
        if len(mine) > 1 or curve.setting.layout != PER_DEVICE:
            return f"{name}, {curve.setting.layout}"
        return name


def file_name(text: str) -> str:
    """Of lower case, digits and hyphens alone; two texts may have the same.

    >>> file_name("../My study, 2 < 3")
    'my-study-2-3'
    """
    kept = "".join(c if c.isascii() and c.isalnum() else " " for c in text)
    return "-".join(kept.lower().split())[:80]


def program(setting: Setting) -> str:
    """The framework, and whether that was compiled where it need not be."""
    name = FRAMEWORKS.get(setting.framework, setting.framework)
    return f"{name} compiled" if setting.beside_eager else name


def what_is_fixed(setting: Setting) -> dict[str, str]:
    """What all curves of a group share, by what it is called."""
    return {
        "experiment": setting.experiment,
        "model": f"{setting.model} on {setting.data}",
        "precision": setting.precision,
        "strategy": f"parallel={setting.parallel}",
        "device": setting.device,
        "kernels": "deterministic kernels" if setting.deterministic else "",
    }


def grouped(
    curves: Sequence[Curve], versus: Sequence[Versus]
) -> tuple[list[Group], dict[str, str]]:
    """Groups, and what is the same in all of them, which no title repeats."""
    piles: dict[tuple[str, ...], list[Curve]] = defaultdict(list)
    for curve in curves:
        fixed = what_is_fixed(curve.setting)
        piles[(*fixed.values(), curve.regime, curve.recipe)].append(curve)
    everywhere = [what_is_fixed(curve.setting) for curve in curves]
    common = {
        name: value
        for name, value in (everywhere[0] if everywhere else {}).items()
        if all(other[name] == value for other in everywhere)
    }
    groups = []
    for pile in piles.values():
        pile.sort(
            key=lambda c: (
                c.setting.framework != "torch",
                c.setting.compiled,
                c.setting.layout,
            )
        )
        cells = {id(point.cell.runs) for curve in pile for point in curve.points}
        inside = [
            v for v in versus if id(v.jax.runs) in cells and id(v.torch.runs) in cells
        ]
        fixed = what_is_fixed(pile[0].setting)
        own = [v for name, v in fixed.items() if v and name not in common]
        regime = pile[0].regime
        how = "one world size" if regime == SINGLE else f"{regime} scaling"
        title = ", ".join([*own, how, pile[0].recipe])
        groups.append(Group(title, tuple(pile), tuple(inside)))
    return groups, common
