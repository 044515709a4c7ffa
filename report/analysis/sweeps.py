"""Recipes beside each other: seeds of one are pooled, sweeps are told apart by key.

Two runs that differ in their seed alone are repeats. Two that could share a cell and
differ in another key, as a learning rate, are a sweep: the keys in which any of them
differ become part of their setting.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from report.analysis.recipes import Recipe
from report.analysis.runs import TimedRun

ABSENT = "–"
Varied = tuple[tuple[str, str], ...]  # keys of a sweep and their values, by key


def with_varied(
    runs: Sequence[TimedRun], recipes: Mapping[str, Recipe]
) -> list[TimedRun]:
    """The runs with `family`, what they share but for seeds, and `varied`.

    Args:
      recipes: by `config_hash`; a run without its own stays a recipe of its own.
    """
    keys: dict[tuple[object, ...], set[str]] = defaultdict(set)
    piles: dict[tuple[object, ...], dict[str, Recipe]] = defaultdict(dict)
    for run in runs:
        if (recipe := _recipe(run, recipes)) is not None:
            piles[(*_of_sweep(run), *_of_cell(run))][recipe.family] = recipe
    for (*sweep, _), families in piles.items():
        keys[tuple(sweep)] |= _differing(families.values())
    found = []
    for run in runs:
        if (recipe := _recipe(run, recipes)) is not None:
            names = sorted(keys[_of_sweep(run)])
            varied = tuple((name, _value(recipe, name)) for name in names)
            run = replace(run, family=recipe.family, varied=varied)
        found.append(run)
    return found


def _recipe(run: TimedRun, recipes: Mapping[str, Recipe]) -> Recipe | None:
    """A run's, as it was when it ran."""
    found = recipes.get(run.config_hash)
    return found if found and found.config_hash == run.config_hash else None


def _of_sweep(run: TimedRun) -> tuple[object, ...]:
    """What runs of a sweep share; either framework's are told apart by the same."""
    return run.experiment, run.data, run.model, run.device, run.machine


def _of_cell(run: TimedRun) -> tuple[object, ...]:
    """What else the repeats of a point share."""
    compilation = run.compiled, run.cuda_graphs
    program = run.framework, *compilation, run.software, run.deterministic
    point = run.world_size, run.processes, run.global_batch_size, run.grad_accum_steps
    return ((*program, *point, run.precision, run.parallel, run.ablated),)


def _differing(recipes: Collection[Recipe]) -> set[str]:
    """Keys that are not the same in all."""
    names = {name for recipe in recipes for name in recipe.keys}
    return {name for name in names if len({_value(r, name) for r in recipes}) > 1}


def _value(recipe: Recipe, name: str) -> str:
    return _text(recipe.keys.get(name, ABSENT))


def _text(value: Any) -> str:
    """As it is typed: null, true, [64,32].

    >>> _text(None), _text(True), _text(0.1), _text([64, 32])
    ('null', 'true', '0.1', '[64,32]')
    """
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)


def in_order(varied: Varied) -> tuple[tuple[int, float, str], ...]:
    """To sort by: numbers by their size, before words."""
    pairs = ((number_of(value), value) for _, value in varied)
    return tuple((1, 0.0, v) if n is None else (0, n, "") for n, v in pairs)


def number_of(value: str) -> float | None:
    """A value as a number; None where it is none."""
    try:
        return float(value)
    except ValueError:
        return None


def format_varied(varied: Varied) -> str:
    """What tells a recipe of a sweep from the others, in words.

    >>> format_varied((("optim.peak_lr", "0.1"), ("train.epochs", "3")))
    'optim.peak_lr=0.1, train.epochs=3'
    """
    return ", ".join(f"{name}={value}" for name, value in varied)
