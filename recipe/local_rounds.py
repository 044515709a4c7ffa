"""Local SGD: which leaves are averaged after which steps, and what comes of it.

Each of W replicas trains alone on its part of every global batch. Every H steps they
average their weights, a *round*. P fragments of the layers may have rounds of their
own, staggered by H / P steps, and a round's result may replace the replicas' weights
some steps later. All of it follows from the number n of steps done, so that a run
resumes at any step.

Source: Stich, Local SGD Converges Fast and Communicates Little, ICLR 2019; warm-up: Lin
et al., Don't Use Large Mini-Batches, Use Local SGD, ICLR 2020; the outer optimizer:
Douillard et al., DiLoCo, arXiv 2311.08105; fragments, delay and mix: Douillard et al.,
Streaming DiLoCo with overlapping communication, arXiv 2501.18512.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from recipe.config import Config
from recipe.errors import ConfigError
from recipe.execution import OuterConfig, ParallelConfig, Strategy
from recipe.optimizers import optimizer_state
from recipe.prefixes import is_frozen
from recipe.weights import (
    Shape,
    is_trained,
    is_updated,
    weight_dtype,
    weight_shapes,
)

OUTER, MOMENTUM = "outer", "outer.momentum"  # kinds of arrays in a checkpoint
REPLICAS = "replicas."  # before those that have an axis of replicas


@dataclass(frozen=True)
class Rounds:
    """When replicas meet.

    Args:
      every: H, optimizer steps between two rounds of a fragment; None: no rounds.
      warmup_steps: before the first local step, with gradients exchanged.
      fragments: P.
      delay: optimizer steps from a round to the arrival of its result.
    """

    every: int | None
    warmup_steps: int = 0
    fragments: int = 1
    delay: int = 0

    @classmethod
    def of(cls, parallel: ParallelConfig) -> "Rounds":
        given = parallel.every, parallel.warmup_steps, parallel.fragments
        return cls(*given, parallel.delay)

    def due(self, step: int) -> list[int]:
        """The fragments that are averaged after so many steps.

        Fragment p has its rounds where n - warmup is p H / P, rounded down, modulo H:
        the first of them H steps after warm-up, the others between.

        >>> rounds = Rounds(every=4, warmup_steps=1, fragments=2)
        >>> [rounds.due(step) for step in range(1, 10)]
        [[], [], [1], [], [0], [], [1], [], [0]]
        """
        local = step - self.warmup_steps
        if self.every is None or local < 1:
            return []
        return [
            fragment
            for fragment in range(self.fragments)
            if (local - fragment * self.every // self.fragments) % self.every == 0
        ]

    def arriving(self, step: int) -> list[int]:
        """The fragments whose result replaces the replicas' weights then.

        >>> rounds = Rounds(every=4, delay=1)
        >>> [rounds.arriving(step) for step in range(1, 10)]
        [[], [], [], [], [0], [], [], [], [0]]
        """
        return self.due(step - self.delay)

    def acts(self, step: int) -> bool:
        """Whether anything follows so many steps: also the end of the warm-up."""
        ends = step == self.warmup_steps
        return ends or bool(self.due(step) or self.arriving(step))

    def settled(self, step: int) -> list[int]:
        """The fragments of which the last round says all: it is under way or just over.

        If the run ended now, the others would be averaged once more.

        >>> rounds = Rounds(every=4, delay=1)
        >>> [step for step in range(1, 10) if rounds.settled(step)]
        [4, 5, 8, 9]
        """
        recent = range(step - self.delay, step + 1)
        return sorted({fragment for step in recent for fragment in self.due(step)})


def fragment_leaves(config: Config) -> list[list[str]]:
    """Canonical names of each fragment's leaves: layer i is in fragment i mod P.

    Frozen layers are in none: no replica moves them. Running statistics go with their
    layer, if they are averaged at all.
    """
    layers: dict[str, list[str]] = {}
    for name in weight_shapes(config):
        averaged = is_trained(name) or "stats" in config.parallel.average
        if averaged and not is_frozen(config, name):
            layers.setdefault(name.rpartition(".")[0] or name, []).append(name)
    count = config.parallel.fragments
    return [
        [name for names in list(layers.values())[first::count] for name in names]
        for first in range(count)
    ]


def outer_update(outer: OuterConfig, held: Any, average: Any, momentum: Any) -> Any:
    """One leaf's outer weights and momentum after a round.

    d = held - average is the pseudo-gradient: what replicas subtracted together.

        m = momentum m + d;  held -= lr (d + momentum m | m)

    Args:
      held: the outer weights; an array of either framework.
      average: of the replicas' weights.
      momentum: None without.

    Source: Douillard et al., arXiv 2311.08105, algorithm 1, with torch's Nesterov.

    >>> outer_update(OuterConfig(lr=0.5), 1.0, 0.0, None)
    (0.5, None)
    >>> outer_update(OuterConfig(momentum=0.5, nesterov=True), 1.0, 0.0, 2.0)
    (-1.0, 2.0)
    """
    if outer.lr == 1 and momentum is None:
        return average, None  # so that one replica is not even rounded
    gradient = held - average
    if momentum is None:
        return held - outer.lr * gradient, None
    momentum = outer.momentum * momentum + gradient
    step = gradient + outer.momentum * momentum if outer.nesterov else momentum
    return held - outer.lr * step, momentum


def after_round(
    outer: OuterConfig,
    held: Mapping[str, Any],
    averages: Mapping[str, Any],
    momenta: Mapping[str, Any],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A fragment's outer weights and momenta after a round, by canonical name.

    Running statistics are their average: no gradient moved them.
    """
    weights, moved = {}, {}
    for name, average in averages.items():
        if not is_trained(name):
            weights[name] = average
            continue
        given = held[name], average, momenta.get(name)
        weights[name], momentum = outer_update(outer, *given)
        if momentum is not None:
            moved[name] = momentum
    return weights, moved


def mixed(mix: float, own: Any, result: Any) -> Any:
    """A replica's weights once a round's result has arrived."""
    return mix * own + (1 - mix) * result if mix else result


def round_bytes(config: Config, fragment: int, world_size: int) -> int:
    """What a device sends in a round, by a ring: 2 (W - 1) / W of the leaves' bytes."""
    shapes = weight_shapes(config)
    numbers = sum(prod(shapes[name]) for name in fragment_leaves(config)[fragment])
    payload = numbers * weight_dtype(config)(0).nbytes
    return round(2 * (world_size - 1) / world_size * payload)


def state_shapes(config: Config, world_size: int) -> dict[str, dict[str, Shape]]:
    """A checkpoint's kinds of arrays beside "weights": kind -> name -> shape."""
    shapes = weight_shapes(config)
    averaged = {n: shapes[n] for names in fragment_leaves(config) for n in names}
    trained = {n: shape for n, shape in shapes.items() if is_updated(config, n)}
    kinds = {"weights": shapes} | dict.fromkeys(optimizer_state(config.optim), trained)
    found = {OUTER: averaged}
    if config.parallel.outer.momentum:
        found[MOMENTUM] = trained
    for kind, held in kinds.items():
        rows = {name: (world_size, *shape) for name, shape in held.items()}
        found[f"{REPLICAS}{kind}"] = rows
    return found


def check_rounds(config: Config) -> None:
    """Refuse what replicas that train alone cannot have.

    Raises:
      ConfigError: saying why.
    """
    if config.parallel.name != Strategy.LOCAL_SGD:
        return
    refused = {
        "precision=fp16": (
            config.precision.name == "fp16",
            "each replica would scale its loss and skip steps alone; use bf16 or fp32",
        ),
        f"optim.ema_decay={config.optim.ema_decay}": (
            config.optim.ema_decay is not None,
            "each replica would average weights of its own; leave it at null",
        ),
        "model.norm.sync=true": (
            config.model.norm.sync and not all(map(is_trained, weight_shapes(config))),
            "BatchNorm would exchange statistics at each step; set "
            "model.norm.sync=false",
        ),
    }
    for key, (given, why) in refused.items():
        if given:
            raise ConfigError(f"{key} with parallel=local_sgd: {why}")
    if config.train.steps is not None:
        check_length(config.parallel, config.train.steps)
    count = config.parallel.fragments
    if not all(fragment_leaves(config)):
        layers = sum(map(bool, fragment_leaves(config)))
        raise ConfigError(
            f"parallel.fragments={count} exceeds the layers of {config.model.name} "
            f"that are trained; take at most {layers}"
        )


def check_length(parallel: ParallelConfig, steps: int) -> None:
    """Refuse rounds that a run never reaches.

    Args:
      steps: of the whole run.

    Raises:
      ConfigError: quoting the numbers.
    """
    if parallel.name != Strategy.LOCAL_SGD:
        return
    if parallel.warmup_steps > steps:
        raise ConfigError(
            f"parallel.warmup_steps={parallel.warmup_steps} is beyond the last step, "
            f"{steps}; take at most {steps}"
        )
    local = steps - parallel.warmup_steps
    if parallel.every is not None and 0 < local < parallel.every:
        after = " after the warm-up" if parallel.warmup_steps else ""
        raise ConfigError(
            f"parallel.every={parallel.every} is beyond the {local} steps of the run"
            f"{after}; take at most {local}, or null to average once, at the end"
        )
