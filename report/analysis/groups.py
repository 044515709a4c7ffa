"""Curves that one panel shows together: the same question asked of both frameworks."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from report.analysis.cells import PER_DEVICE, Setting
from report.analysis.scaling import SINGLE, Curve, Point
from report.analysis.sweeps import format_varied, in_order

FRAMEWORKS = {"torch": "PyTorch", "jax": "JAX"}


@dataclass(frozen=True)
class Group:
    """Curves that differ in framework and in how devices are divided over processes.

    Args:
      title: how this group differs from the report's others.
      curves: PyTorch's first.
    """

    title: str
    curves: tuple[Curve, ...]

    @property
    def name(self) -> str:
        return file_name(self.title)

    @property
    def varied(self) -> tuple[str, ...]:
        """Keys in which the recipes of its curves differ."""
        return tuple(name for name, _ in self.curves[0].setting.varied)

    @property
    def is_sweep(self) -> bool:
        """Whether it compares recipes at one world size, not numbers of devices."""
        return bool(self.varied) and all(c.regime == SINGLE for c in self.curves)

    @property
    def points(self) -> list[tuple[str, Point]]:
        """The points of all its curves, each with its curve's label."""
        return [(self.label(c), point) for c in self.curves for point in c.points]

    def name_of(self, curve: Curve) -> str:
        """The curve's name where columns show what a sweep varies."""
        alike = [c.setting for c in self.curves]
        others = [replace(setting, varied=()) for setting in alike]
        return name_among(replace(curve.setting, varied=()), others)

    def label(self, curve: Curve) -> str:
        """The curve's name in a legend: framework, and how it differs from others."""
        return name_among(curve.setting, [other.setting for other in self.curves])


def file_name(text: str) -> str:
    """Only lower case, digits and hyphens; two texts may get the same name.

    >>> file_name("../My study, 2 < 3")
    'my-study-2-3'
    """
    kept = "".join(c if c.isascii() and c.isalnum() else " " for c in text)
    return "-".join(kept.lower().split())[:80]


def framework_name(framework: str) -> str:
    """The framework as its authors write it."""
    return FRAMEWORKS.get(framework, framework)


def program(setting: Setting) -> str:
    """The framework, and how it is compiled where it could have run eagerly."""
    name = framework_name(setting.framework)
    return f"{name} {setting.compilation}".rstrip()


def name_among(setting: Setting, others: Iterable[Setting]) -> str:
    """A program's name, with layout, versions and sweep where these tell it apart."""
    name = program(setting)
    alike = [other for other in others if program(other) == name]
    parts = [name]
    if {other.layout for other in alike} | {setting.layout} != {PER_DEVICE}:
        parts.append(setting.layout)
    if len({other.software for other in alike} | {setting.software}) > 1:
        parts.append(setting.software)
    if len({other.varied for other in alike} | {setting.varied}) > 1:
        parts.append(format_varied(setting.varied))
    return ", ".join(parts)


def what_is_fixed(setting: Setting) -> dict[str, str]:
    """What all curves of a group have in common: name -> value."""
    return {
        "experiment": setting.experiment,
        "model": f"{setting.model} on {setting.data}",
        "precision": setting.precision,
        "strategy": f"parallel={setting.parallel}",
        "device": setting.device,
        "machine": setting.machine,
        "kernels": "deterministic kernels" if setting.deterministic else "",
    }


def own_parts(setting: Setting, common: Mapping[str, str]) -> list[str]:
    """What is fixed along a curve and is not common to the whole report."""
    fixed = what_is_fixed(setting)
    return [value for name, value in fixed.items() if value and name not in common]


def grouped(curves: Sequence[Curve]) -> tuple[list[Group], dict[str, str]]:
    """Groups, and what they all have in common, which no title repeats."""
    piles: dict[tuple[str, ...], list[Curve]] = defaultdict(list)
    for curve in curves:
        fixed = what_is_fixed(curve.setting)
        swept = tuple(name for name, _ in curve.setting.varied)
        piles[(*fixed.values(), curve.regime, curve.recipe, *swept)].append(curve)
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
                c.setting.cuda_graphs,
                in_order(c.setting.varied),
                c.setting.layout,
                c.setting.software,
            )
        )
        regime = pile[0].regime
        how = "one world size" if regime == SINGLE else f"{regime} scaling"
        if pile[0].setting.varied:
            how += f", by {', '.join(name for name, _ in pile[0].setting.varied)}"
        own = own_parts(pile[0].setting, common)
        title = ", ".join([*own, how, pile[0].recipe])
        groups.append(Group(title, tuple(pile)))
    return groups, common
