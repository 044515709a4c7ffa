"""The laws of scaling: their formulas, and their fits to measured curves.

    p   devices, as a multiple of the base case's
    S   speed-up, throughput over the base case's
    s   serial fraction

Amdahl keeps the work (strong scaling) and Gustafson the time (weak scaling); Gunther's
universal law adds to Amdahl's a cost that grows with every pair of devices.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from report.analysis.intervals import (
    Estimate,
    format_count,
    half_width,
    locate,
    too_few,
)

LEAST_POINTS = 5  # of which the largest is held out


def amdahl_speedup(
    devices: Float[np.ndarray, "..."], serial: float | Float[np.ndarray, "..."]
) -> Float[np.ndarray, "..."]:
    """S = 1 / (s + (1 - s) / p): the serial part of the same work stays.

    Source: Amdahl, Validity of the single processor approach to achieving large scale
    computing capabilities, AFIPS 1967. Quinn, Parallel Programming in C with MPI and
    OpenMP (2004), section 7.3: a program 95 % of which is parallel, on 8 processors.

    >>> float(amdahl_speedup(np.array(8.0), 0.05).round(1))
    5.9
    """
    return 1 / (serial + (1 - serial) / devices)


def gustafson_speedup(
    devices: Float[np.ndarray, "..."], serial: float | Float[np.ndarray, "..."]
) -> Float[np.ndarray, "..."]:
    """S = p + (1 - p) s: the parallel part of the work grows with the devices.

    Args:
      serial: fraction of the parallel run's time.

    Source: Gustafson, Reevaluating Amdahl's law, CACM 31 (1988), where s of 0.4 % to
    0.8 % on 1,024 processors stand beside speed-ups of 1,020 and 1,016.

    >>> gustafson_speedup(np.array([1024.0]), 0.004).round()
    array([1020.])
    """
    return devices + (1 - devices) * serial


def karp_flatt(
    speedup: Float[np.ndarray, "..."], devices: Float[np.ndarray, "..."]
) -> Float[np.ndarray, "..."]:
    """The experimentally determined serial fraction, e = (1/S - 1/p) / (1 - 1/p).

    Flat over p it is a serial part; rising, an overhead that grows with the devices;
    below 0, a speed-up above linear. NaN for a single device, which has none.

    Source: Karp and Flatt, Measuring parallel processor performance, CACM 33 (1990).

    >>> karp_flatt(np.array([1.87, 4.71]), np.array([2.0, 8.0])).round(3)
    array([0.07, 0.1 ])
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return (1 / speedup - 1 / devices) / (1 - 1 / devices)


def scaled_serial_fraction(
    speedup: Float[np.ndarray, "..."], devices: Float[np.ndarray, "..."]
) -> Float[np.ndarray, "..."]:
    """Gustafson's law solved for s = (p - S) / (p - 1), NaN for a single device.

    >>> scaled_serial_fraction(np.array([1020.0]), np.array([1024.0])).round(4)
    array([0.0039])
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return (devices - speedup) / (devices - 1)


@dataclass(frozen=True)
class Law:
    """A law as a linear model of the rate X of p devices.

    Args:
      parameters: their names; as many as there are columns beside the constant.
      of_time: whether p / X is linear in the columns (the time of one example on one
        device), or X itself.
    """

    name: str
    parameters: tuple[str, ...]
    of_time: bool

    def columns(
        self, devices: Float[np.ndarray, " points"]
    ) -> Float[np.ndarray, "points terms"]:
        others = devices - 1
        powers = [np.ones_like(devices), others, devices * others]
        return np.stack(powers[: len(self.parameters) + 1], axis=-1)

    def linear(
        self, devices: Float[np.ndarray, " points"], rates: Float[np.ndarray, "..."]
    ) -> Float[np.ndarray, "..."]:
        """From rates to what is linear; its own inverse."""
        return devices / rates if self.of_time else rates

    def of_terms(
        self, terms: Float[np.ndarray, "... terms"]
    ) -> Float[np.ndarray, "... parameters"]:
        """The parameters, from the coefficients of the columns."""
        share = terms[..., 1:] / terms[..., :1]
        return share if self.of_time else 1 - share


AMDAHL = Law("Amdahl", ("serial fraction",), of_time=True)
GUSTAFSON = Law("Gustafson", ("serial fraction",), of_time=False)
# S = p / (1 + sigma (p - 1) + kappa p (p - 1)), where contention, sigma, is waiting for
# what is shared, and coherency, kappa, exchange between every two devices; Amdahl's law
# where kappa is 0. Gunther, Guerrilla Capacity Planning (2007), equation 4.31.
UNIVERSAL = Law("universal scalability", ("contention", "coherency"), of_time=True)


@dataclass(frozen=True)
class Fit:
    """A law fitted to a curve whose largest point was held out.

    Args:
      law: its name.
      parameters: by name; empty where there is no fit.
      base_rate: images/s of the base case, by the law.
      held_out: devices of the point that was kept from the fit.
      predicted: images/s there, by the law.
      prediction_error: predicted over measured, minus 1.
      reason: why there is no fit, in words; empty if there is one.
    """

    law: str
    parameters: dict[str, Estimate]
    base_rate: float | None = None
    held_out: int | None = None
    predicted: float | None = None
    prediction_error: float | None = None
    reason: str = ""


def fit(law: Law, devices: Sequence[int], repeats: Sequence[Sequence[float]]) -> Fit:
    """Fit a law to a curve, and compare its prediction with the largest point.

    Args:
      devices: of each point, increasing; the first is the base case.
      repeats: images/s of every run of each point.

    >>> fit(AMDAHL, [1, 2, 4], [[100.0], [190.0], [350.0]]).reason
    '3 points, a fit needs 5: the largest is held out'
    """
    if len(devices) < LEAST_POINTS:
        points = format_count(len(devices), "point")
        reason = f"{points}, a fit needs {LEAST_POINTS}: the largest is held out"
        return Fit(law.name, {}, reason=reason)
    multiples = np.asarray(devices, np.float64) / devices[0]
    points = [np.asarray(rates, np.float64) for rates in repeats]
    medians = np.array([np.median(rates) for rates in points[:-1]])
    terms = fitted_terms(law, multiples[:-1], medians)
    values = law.of_terms(terms).tolist()
    if reason := next(filter(None, map(too_few, points[:-1])), ""):
        found = [Estimate(value, reason=reason) for value in values]
    else:
        _, low, high = parameter_intervals(law, multiples[:-1], points[:-1])
        found = list(map(Estimate, values, low.tolist(), high.tolist()))
    linear = law.columns(multiples[-1:]) @ terms
    predicted = law.linear(multiples[-1:], linear).item()
    measured = float(np.median(points[-1]))
    return Fit(
        law.name,
        dict(zip(law.parameters, found, strict=True)),
        base_rate=float(law.linear(np.ones(()), terms[0])),
        held_out=devices[-1],
        predicted=predicted,
        prediction_error=predicted / measured - 1,
    )


def fitted_terms(
    law: Law,
    devices: Float[np.ndarray, " points"],
    rates: Float[np.ndarray, "... points"],
) -> Float[np.ndarray, "... terms"]:
    """Coefficients of the law's columns: least squares of relative errors.

    Unconstrained: a parameter below 0 says that the curve shows no such cost.
    """
    target = law.linear(devices, rates)
    weighted = law.columns(devices) / target[..., None]
    return np.linalg.pinv(weighted).sum(axis=-1)  # the weighted target is 1 everywhere


def parameter_intervals(
    law: Law,
    devices: Float[np.ndarray, " points"],
    repeats: Sequence[Float[np.ndarray, "... repeats"]],
) -> tuple[
    Float[np.ndarray, "... parameters"],
    Float[np.ndarray, "... parameters"],
    Float[np.ndarray, "... parameters"],
]:
    """The law's parameters and the ends of their 95 % intervals.

    The spread of each point's own repeats is carried to the parameters by their
    derivatives (the delta method), so that points may differ in how noisy they are.

    Args:
      repeats: of each point, images/s of its runs; leading dimensions are studies.
    """
    at = [locate(rates) for rates in repeats]
    logs = np.stack([point.log_median for point in at], axis=-1)
    variances = np.stack([point.variance for point in at], axis=-1)

    def parameters(logs: Float[np.ndarray, "... points"]) -> np.ndarray:
        return law.of_terms(fitted_terms(law, devices, np.exp(logs)))

    step = 1e-4 * np.eye(len(repeats))
    beside = logs[..., None, :]
    # shape (..., points, parameters)
    slopes = (parameters(beside + step) - parameters(beside - step)) / 2e-4
    parts = np.swapaxes(slopes**2 * variances[..., None], -1, -2)
    half = half_width(parts, [point.freedom for point in at])
    value = parameters(logs)
    return value, value - half, value + half
