"""Weights that no gradient moved: rounding alone did.

A bias that a normalisation, a softmax or a mean removes again has a gradient of zero in
exact arithmetic, and in floating point the rounding of a sum. Such a leaf drifts with
that rounding, differently in each framework, and no output of the model depends on it:
relative to itself it differs by 100 %. It is recognised:

- in fp64, by a distance from its initial value that the optimizer could reach on
  rounding alone, which is `reach`;
- elsewhere, by controls, which differ by rounding alone and end at other values.
"""

import contextlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from recipe.errors import ConfigError
from recipe.weights import SIGNIFICAND_BITS, Weights, is_trained, is_updated
from record.run import Run
from record.weights import starting_weights
from report.parity.differences import size

# A sum of n terms is rounded to some sqrt(n) units in the last place of its size, and
# to more where what it is taken over is far from zero, as before a norm. Measured on
# biases before a BatchNorm: 0.05, and at a mean of 300 deviations between 1 and 10.3,
# the most where one thread of PyTorch adds one term after the other. In fp64 there is
# room for more: a gradient that moves anything is no 1e-12 of the model's.
MARGIN, FP64_MARGIN = 10.0, 100.0
# Where rounding decides so much of a leaf, no gradient did.
WANDERS = 0.1


def wandering(
    a: Run, b: Run, controls: Mapping[str, float] | None, precision: str
) -> tuple[frozenset[str], bool]:
    """Which parameters of two runs rounding alone moved.

    Args:
      controls: name -> how far controls are from their originals, relative, where there
        are some.
      precision: the looser of both runs'.

    Returns:
      Their names, and whether there is evidence; without, they may as well differ.
    """
    if controls is not None:
        apart = (n for n, v in controls.items() if is_trained(n) and v > WANDERS)
        return frozenset(apart), True
    most, moves = reach([a, b]), [moved(run) for run in (a, b)]
    near = frozenset(
        name
        for name in moves[0].keys() & moves[1].keys()
        if max(size(move[name]) for move in moves) <= most
    )
    if precision == "fp64" and np.isfinite(most):
        return near, True
    # In fewer bits a gradient may be as small as another's rounding, and AdamW makes of
    # both as large an update; that two values have nothing in common is no more than a
    # doubt. What multiplies, a kernel, is never taken out again.
    unlike = (
        name
        for name in near
        if not name.endswith(".kernel") and _unlike(*(move[name] for move in moves))
    )
    return frozenset(unlike), False


def moved(run: Run) -> Weights:
    """How far each parameter is from where it began: from zero, as drawn biases begin.

    Without frozen ones, which nothing may move: they are always compared. Of a run that
    began with `model.weights`, from the file's, unless that is gone.
    """
    start: Weights = {}
    if run.config.model.weights is not None:
        with contextlib.suppress(ConfigError):
            start = starting_weights(run.config)
    return {
        name: array - start[name] if name in start else array
        for name, array in run.weights.items()
        if is_updated(run.config, name)
    }


def reach(runs: Sequence[Run], steps: int | None = None) -> float:
    """How far rounding alone may have taken a weight, at the most.

    A gradient's rounding is taken to be 10 sqrt(n) units in the last place (in fp64
    100) of the norm of all gradients, n the numbers of a batch. SGD moves a weight by
    the learning rate times that over 1 - momentum, AdamW by the learning rate times
    that over its eps.

    Args:
      runs: the furthest counts.
      steps: from the first; None for all.

    Returns:
      In units of the weights; infinite for AdamW where rounding is beyond a tenth of
      its eps, as the update that it makes of that is as large as any.
    """
    return max(_reach(run, steps) for run in runs)


def _reach(run: Run, steps: int | None) -> float:
    config, optim = run.config, run.config.optim
    rows = run.of_kind("step")[:steps]
    norms = np.array([row["grad_norm"] for row in rows], np.float64)
    rates = np.array([row["learning_rate"] for row in rows], np.float64)
    rates *= max([1.0, *(optim.lr_factors or {}).values()])
    if optim.clip_norm is not None:
        norms = np.minimum(norms, optim.clip_norm)
    terms = config.train.global_batch_size * int(np.prod(config.data.image_shape))
    rounding = gradient_rounding(config.precision.name, terms) * norms
    if optim.name == "sgd":
        return _finite(float((rates * rounding).sum() / (1 - optim.momentum)))
    assert optim.name == "adamw"  # another one has a formula of its own
    if not (rounding <= optim.eps / 10).all():
        return np.inf
    return _finite(float((rates * rounding).sum() / optim.eps))


def gradient_rounding(precision: str, terms: int) -> float:
    """What rounding may make of a gradient of zero, over the norm of all gradients."""
    margin = FP64_MARGIN if precision == "fp64" else MARGIN
    return float(margin * np.sqrt(terms) * 2.0 ** (1 - SIGNIFICAND_BITS[precision]))


def _finite(reach: float) -> float:
    return reach if np.isfinite(reach) else 0.0  # diverged: it shows nothing


def taken(name: str, a: Weights, b: Weights, biases: frozenset[str]) -> float:
    """How far wandering biases may have taken a weight, relative to its largest value.

    Themselves any distance. A BatchNorm's mean follows the bias before it, some steps
    behind, and may so be further from the other's than the bias itself, which has come
    back: twice as far. Nothing else.
    """
    if name in biases:
        return np.inf
    largest = max(size(a[name]), size(b[name]))
    if not name.endswith(".mean") or not largest:
        return 0.0
    alike = (n for n in biases if a[n].shape == a[name].shape)
    return 2 * max((size(a[n] - b[n]) for n in alike), default=0.0) / largest


def no_gradient(names: Iterable[str]) -> str:
    """The message for parameters that were not compared."""
    return (
        f"no gradient beyond rounding: {', '.join(names)}. What follows "
        "cancels it (a norm, a softmax, a mean), so it was not compared"
    )


def _unlike(a: Float[np.ndarray, "..."], b: Float[np.ndarray, "..."]) -> bool:
    """Whether neither is near a multiple of the other: their cosine is below 0.9."""
    a, b = a.ravel().astype(np.float64), b.ravel().astype(np.float64)
    return bool(abs(a @ b) <= 0.9 * np.sqrt((a @ a) * (b @ b)))
