"""Intervals over repeats: how sure a median, a ratio, or what is computed of them is.

A repeat is a run, a process of its own: windows and steps of one run share its luck, so
they are no repeats. Rates are compared as logarithms, on which a ratio is a difference.

The interval is Student's about the median, with the median's own standard error. The
usual bootstrap percentiles are not used, since with the few repeats that a study has
they are not 95 % intervals: of three repeats no resample leaves the range of the three,
which holds the median three times in four, and of seven they hold it in 86 %.
`tests/report/analysis/test_intervals.py` measures both.

The median's standard error is that of normal noise. Of a machine with two speeds, whose
median jumps from one to the other, it is too small, which is why nothing is called
faster by its interval alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import scipy.integrate
import scipy.special
from jaxtyping import Bool, Float

CONFIDENCE = 0.95
ROUNDING = 1e-14  # of the logarithm of a rate, a few ulps: no verdict is of less
LEAST_REPEATS = 3  # with two, the interval's width is itself a guess


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % interval, or why it has none.

    Args:
      low, high: ends of the interval, None without.
      reason: in words, empty with an interval.
    """

    value: float
    low: float | None = None
    high: float | None = None
    reason: str = ""

    def interval(self, form: str) -> str:
        """Its ends in words; empty without."""
        if self.low is None or self.high is None:
            return ""
        return f"{self.low:{form}} to {self.high:{form}}"

    def __format__(self, form: str) -> str:
        """The figure with its interval, where it has one.

        >>> f"{Estimate(1.5, 1.25, 1.75):.2f}"
        '1.50 (1.25 to 1.75)'
        """
        interval = self.interval(form)
        return format(self.value, form) + f" ({interval})" * bool(interval)


def fraction_estimate(right: int, of: int) -> Estimate:
    """A fraction of independent examples, such as an accuracy.

    Source: Clopper and Pearson, The use of confidence or fiducial limits illustrated in
    the case of the binomial, Biometrika 26 (1934), by SciPy.

    >>> f"{fraction_estimate(9, 10):.3f}"
    '0.900 (0.555 to 0.997)'
    """
    from scipy.stats import binomtest  # slow to import, and no study needs it

    ends = binomtest(right, of).proportion_ci(CONFIDENCE)
    return Estimate(right / of, float(ends.low), float(ends.high))


def accuracy_fall(lost: int, won: int, of: int) -> Estimate:
    """How far a classifier's accuracy is below another's on the same examples.

    The interval is of the fraction that is lost of the examples that one of them alone
    classifies rightly, their number being given.

    Args:
      lost, won: how many the other alone, and this one alone classifies rightly.
      of: all examples.

    Source: McNemar, Note on the sampling error of the difference between correlated
    proportions or percentages, Psychometrika 12 (1947).

    >>> f"{accuracy_fall(9, 1, 100):.3f}"
    '0.080 (0.011 to 0.099)'
    """
    either = lost + won
    if not either:
        return Estimate(0.0, 0.0, 0.0)
    part = fraction_estimate(lost, either)
    assert part.low is not None and part.high is not None
    low, high = ((2 * end - 1) * either / of for end in (part.low, part.high))
    return Estimate((lost - won) / of, low, high)


@dataclass(frozen=True)
class Location:
    """The location of repeats, on the logarithm of what was measured.

    Leading dimensions, where there are any, are independent studies.

    Args:
      log_median: shape (...).
      variance: of that median, shape (...).
      freedom: degrees of freedom of that variance.
    """

    log_median: Float[np.ndarray, "..."]
    variance: Float[np.ndarray, "..."]
    freedom: int


def locate(rates: Float[np.ndarray, "... repeats"]) -> Location:
    """The median of repeats and its variance.

    Args:
      rates: positive, one for each repeat; with a single one the variance is NaN.
    """
    logs = np.log(rates)
    repeats = logs.shape[-1]
    variance = np.full(logs.shape[:-1], np.nan)
    if repeats > 1:
        factor = median_variance_factor(repeats)
        variance = factor * logs.var(axis=-1, ddof=1) / repeats
    return Location(np.median(logs, axis=-1), variance, repeats - 1)


@cache
def median_variance_factor(repeats: int) -> float:
    """How many times larger the variance of a median is than that of a mean.

    Of normal repeats, 1 for two of them and pi/2 for very many; from the density of the
    median, by quadrature.

    Source: the table of Rider, Variance of the median of small samples from several
    special populations, JASA 55 (1960), has 0.2868 as the variance for five.

    >>> round(median_variance_factor(5) / 5, 4)
    0.2868
    """
    if repeats > 60:
        return float(np.pi / 2)  # within 3 %
    below = (repeats - 1) // 2  # the median, or the lower of the two it is between
    x, t = np.linspace(-8, 8, 401)[:, None], np.linspace(0, 8, 401)
    log_ndtr = scipy.special.log_ndtr
    if repeats % 2:  # the middle one, x
        t = np.zeros(1)
    log_density = (
        scipy.special.gammaln(repeats + 1)
        - 2 * scipy.special.gammaln(below + 1)
        + below * (log_ndtr(x - t) + log_ndtr(-x - t))
        - ((x - t) ** 2 + np.log(2 * np.pi)) / 2
    )
    if repeats % 2:
        moments = (x**2 * np.exp(log_density))[:, 0]
    else:  # the mean of the two in the middle, x - t and x + t
        log_density -= ((x + t) ** 2 + np.log(2 * np.pi)) / 2
        moments = scipy.integrate.simpson(2 * x**2 * np.exp(log_density), x=t)
    return float(scipy.integrate.simpson(moments, x=x[:, 0]) * repeats)


def half_width(
    variances: Float[np.ndarray, "... terms"],
    freedoms: Sequence[int],
    confidence: float = CONFIDENCE,
) -> Float[np.ndarray, "..."]:
    """Half the interval of a sum of independent terms whose variances are estimated.

    Source: Welch, The generalization of Student's problem when several different
    population variances are involved, Biometrika 34 (1947); degrees of freedom by
    Satterthwaite, Biometrics Bulletin 2 (1946).

    >>> float(half_width(np.array([4.0]), [4]).round(3))  # 2 x Student's 2.776
    5.553
    """
    total = variances.sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        freedom = total**2 / (variances**2 / np.asarray(freedoms)).sum(axis=-1)
    freedom = np.where(total > 0, freedom, sum(freedoms))  # equal to the last digit
    # Student's quantile; scipy.stats.t.ppf is this behind 200 us of checks
    quantile = scipy.special.stdtrit(freedom, (1 + confidence) / 2)
    return np.maximum(quantile * np.sqrt(total), ROUNDING)


def ratio_interval(
    over: Float[np.ndarray, "... repeats"],
    under: Float[np.ndarray, "... others"],
    confidence: float = CONFIDENCE,
) -> tuple[
    Float[np.ndarray, "..."], Float[np.ndarray, "..."], Float[np.ndarray, "..."]
]:
    """The ratio of two medians and its interval, both terms uncertain.

    Args:
      over, under: rates of the repeats of each; leading dimensions are studies.

    Returns:
      The ratio, and the interval's low and high end.
    """
    a, b = locate(over), locate(under)
    log_ratio = a.log_median - b.log_median
    both = np.stack([a.variance, b.variance], axis=-1)
    half = half_width(both, [a.freedom, b.freedom], confidence)
    return np.exp(log_ratio), np.exp(log_ratio - half), np.exp(log_ratio + half)


def means_differ(
    over: Float[np.ndarray, "... repeats"],
    under: Float[np.ndarray, "... others"],
    confidence: float = CONFIDENCE,
) -> Bool[np.ndarray, "..."]:
    """Whether the means of the logarithms differ by more than chance allows.

    Welch's statistic on the fewer repeats' degrees of freedom. Satterthwaite's are
    more, and too many where runs have two speeds: a group's may all have the same.

    Source: Mickey and Brown, Bounds on the distribution functions of the Behrens-Fisher
    statistic, Annals of Mathematical Statistics 37 (1966): so it errs on the safe side.
    """
    logs = np.log(over), np.log(under)
    variance = sum(x.var(axis=-1, ddof=1) / x.shape[-1] for x in logs)
    freedom = min(x.shape[-1] for x in logs) - 1
    half = half_width(np.asarray(variance)[..., None], [freedom], confidence)
    return np.abs(logs[0].mean(axis=-1) - logs[1].mean(axis=-1)) > half


def median_estimate(rates: Sequence[float]) -> Estimate:
    """The median of repeats with its interval, or why there is none.

    >>> median_estimate([100.0, 98.0])
    Estimate(value=99.0, low=None, high=None, reason='2 repeats, an interval needs 3')
    """
    value = float(np.median(rates))
    if reason := too_few(rates):
        return Estimate(value, reason=reason)
    at = locate(np.asarray(rates, np.float64))
    half = half_width(at.variance[..., None], [at.freedom])
    low, high = np.exp([at.log_median - half, at.log_median + half]).tolist()
    return Estimate(value, low, high)


def ratio_estimate(
    over: Sequence[float], under: Sequence[float], confidence: float = CONFIDENCE
) -> Estimate:
    """The ratio of two medians with its interval, or why there is none.

    >>> ratio_estimate([200.0], [100.0, 101.0, 99.0]).reason
    '1 repeat, an interval needs 3'
    """
    value = float(np.median(over) / np.median(under))
    if reason := too_few(over) or too_few(under):
        return Estimate(value, reason=reason)
    a, b = np.asarray(over, np.float64), np.asarray(under, np.float64)
    _, low, high = ratio_interval(a, b, confidence)
    return Estimate(value, float(low), float(high))


def through(
    estimate: Estimate, function: Callable[[np.ndarray], np.ndarray]
) -> Estimate:
    """A monotone function of a figure and of its interval."""
    value = float(function(np.array(estimate.value)))
    if estimate.low is None or estimate.high is None:
        return Estimate(value, reason=estimate.reason)
    ends = function(np.array([estimate.low, estimate.high]))
    return Estimate(value, float(ends.min()), float(ends.max()))


def too_few(values: Sequence[float] | np.ndarray, what: str = "repeat") -> str:
    """Why these repeats carry no interval; empty if they do."""
    if len(values) >= LEAST_REPEATS:
        return ""
    return f"{format_count(len(values), what)}, an interval needs {LEAST_REPEATS}"


def format_count(count: int, what: str) -> str:
    """Such as "1 repeat" and "2,000 repeats"."""
    return f"{count:,} {what}{'s' * (count != 1)}"


SAME, TOO_NOISY = "no difference shown", "too noisy to tell"
NOISY = 1.25  # the fastest of equal repeats over the slowest: noise


@dataclass(frozen=True)
class Difference:
    """Whether one group of runs is faster than another.

    Args:
      ratio: the first's median over the second's, with the family's interval.
      verdict: "faster", "slower", "no difference shown" or "too noisy to tell"; of the
        first.
      repeats: of the first and of the second.
      confidence: of the family's interval.
      reason: why none is shown whatever the interval says, in words.
    """

    ratio: Estimate
    verdict: str
    repeats: tuple[int, int]
    confidence: float
    reason: str = ""

    @property
    def level(self) -> str:
        """The confidence in words, such as "97.5 %"."""
        return f"{100 * self.confidence:.6g} %"

    def __str__(self) -> str:
        n = " and ".join(map(str, self.repeats))
        why = f" ({self.reason})" if self.reason else ""
        return f"{self.verdict} at n = {n}{why}"


def compare(
    pairs: Sequence[tuple[Sequence[float], Sequence[float]]],
) -> list[Difference]:
    """Which of each pair is faster, claimed wrongly anywhere in at most 5 % of studies.

    All pairs of a study are one family: a study that asks twenty questions at 95 % each
    would find a difference in two of three studies without any. So the intervals are
    Bonferroni's, each at 1 - 0.05 / pairs, and "faster" stands only where the interval
    of the ratio excludes 1 and the means differ as surely as that: the one promise is
    of normal noise, the other nearly of any.

    Args:
      pairs: of images/s, one for each repeat.

    >>> str(compare([([103.0, 102.0, 104.0], [50.0, 51.0, 50.5])])[0])
    'faster at n = 3 and 3'
    >>> str(compare([([103.0, 102.0, 104.0], [102.0, 104.0, 103.5])])[0])
    'no difference shown at n = 3 and 3'
    """
    asked = sum(min(len(a), len(b)) >= LEAST_REPEATS for a, b in pairs)
    confidence = 1 - (1 - CONFIDENCE) / max(asked, 1)
    return [_difference(a, b, confidence) for a, b in pairs]


def _difference(
    over: Sequence[float], under: Sequence[float], confidence: float
) -> Difference:
    ratio = ratio_estimate(over, under, confidence)
    repeats = len(over), len(under)
    verdict, reason = SAME, ratio.reason
    if ratio.low is not None and ratio.high is not None:
        spread = max(max(rates) / min(rates) for rates in (over, under))
        apart = not ratio.low <= 1 <= ratio.high
        if apart and means_differ(np.array(over), np.array(under), confidence):
            verdict = "faster" if ratio.low > 1 else "slower"
        elif apart or spread > NOISY:
            # The medians may differ where the means do not: neither is to be relied on.
            verdict, reason = TOO_NOISY, f"repeats differ by {spread:.3g} ×"
    return Difference(ratio, verdict, repeats, confidence, reason)
