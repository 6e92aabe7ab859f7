"""Rates and how far to trust them: intervals and a paired test. scipy calculates."""

import math
from collections.abc import Sequence

import numpy as np
from scipy.stats import binomtest, bootstrap, norm


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """Wilson's score interval for a rate (Wilson 1927), 95 %.

    >>> [round(x, 2) for x in wilson_interval(7, 30)]
    [0.12, 0.41]
    """
    if successes != int(successes) or n != int(n):
        raise ValueError(f"{successes} of {n}: these are no counts")
    interval = binomtest(int(successes), int(n)).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def paired_test(before: Sequence[bool], after: Sequence[bool]) -> dict[str, float]:
    """Exact McNemar test: did the same questions change more one way than the other?

    Returns gained and lost (counts of questions) and p_value, two-sided; 1.0 when nothing changed. What is no verdict,
    or not as many before as after, is a ValueError.
    """
    sides = [np.asarray(list(verdicts)) for verdicts in (before, after)]
    for side in sides:
        if side.ndim != 1 or side.dtype.kind not in "biuf" or not np.isin(side, (0, 1)).all():
            raise ValueError(f"{side[:5].tolist()} ...: verdicts are True or False, one for each question")
    gained = sum(int(not b and a) for b, a in zip(*sides, strict=True))
    lost = sum(int(b and not a) for b, a in zip(*sides, strict=True))
    p_value = float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
    return {"gained": gained, "lost": lost, "p_value": p_value}


def gain_interval(gained: int, lost: int, n: int) -> tuple[float, float]:
    """A 95 % interval for the change of a rate, (gained - lost) / n, measured in pairs: Wald's with half a question
    more in each cell of the two-by-two table (Agresti and Min 2005, Statistics in Medicine 24:729).

    >>> [round(x, 2) for x in gain_interval(8, 1, 50)]
    [0.02, 0.25]
    """
    if not 0 <= min(gained, lost) <= gained + lost <= n or any(x != int(x) for x in (gained, lost, n)):
        raise ValueError(f"{gained} gained and {lost} lost of {n} questions: these are no counts")
    change = (gained - lost) / (n + 2)
    half = norm.ppf(0.975) * math.sqrt(((gained + lost + 1) / (n + 2) - change**2) / (n + 2))
    return max(-1.0, float(change - half)), min(1.0, float(change + half))


def bootstrap_interval(values: Sequence[float]) -> tuple[float, float]:
    """A 95 % interval for the mean of one value a question, by drawing the questions anew 2,000 times (percentiles)."""
    if len(values) == 1:  # drawn anew, it is always the same
        return (float(np.mean(values)),) * 2
    found = bootstrap((np.asarray(values, dtype=float),), np.mean, n_resamples=2000, method="percentile", rng=0)
    return float(found.confidence_interval.low), float(found.confidence_interval.high)
