"""Rates and how far to trust them: intervals, a paired test, the questions a test needs, pass@k."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import binom, binomtest, bootstrap, hypergeom, norm


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval for a rate (Wilson 1927), by scipy.

    >>> [round(x, 2) for x in wilson_interval(7, 30)]
    [0.12, 0.41]
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"{successes} of {n} is no rate; an interval needs 0 ≤ successes ≤ n and n ≥ 1")
    interval = binomtest(int(successes), int(n)).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def paired_test(before: Sequence[bool], after: Sequence[bool]) -> dict[str, float]:
    """Exact McNemar test: did the same questions change more one way than the other?

    Returns:
        gained and lost (counts of questions) and p_value, two-sided; 1.0 when nothing changed.
    """
    if len(before) != len(after):
        raise ValueError(f"{len(before)} questions before, {len(after)} after; a paired test needs the same ones")
    gained = sum(not b and a for b, a in zip(before, after, strict=True))
    lost = sum(b and not a for b, a in zip(before, after, strict=True))
    p_value = float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
    return {"gained": gained, "lost": lost, "p_value": p_value}


def gain_interval(gained: int, lost: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """An interval for the change of a rate, (gained - lost) / n, measured in pairs: Wald's with half a question more
    in each cell of the two-by-two table (Agresti and Min 2005, Statistics in Medicine 24:729).

    >>> [round(x, 2) for x in gain_interval(8, 1, 50)]
    [0.02, 0.25]
    """
    if n < 1 or min(gained, lost) < 0 or gained + lost > n:
        raise ValueError(
            f"{gained} gained and {lost} lost of {n} questions: no such pairs; all are counts of questions"
        )
    change = (gained - lost) / (n + 2)
    half = norm.ppf((1 + confidence) / 2) * math.sqrt(((gained + lost + 1) / (n + 2) - change**2) / (n + 2))
    return max(-1.0, float(change - half)), min(1.0, float(change + half))


def paired_power(n: int, gained: float, lost: float, alpha: float = 0.05) -> float:
    """The chance that the exact McNemar test on `n` questions comes out below `alpha`.

    Exact: summed over how many questions flip, and over which way they do.

    Args:
        gained, lost: the shares of all questions that flip, 0 to 1 each.

    >>> round(paired_power(200, 0.10, 0.05), 2)
    0.37
    """
    flips = gained + lost
    if n < 1 or min(gained, lost) < 0 or not 0 < flips <= 1:
        raise ValueError(f"n={n}, gained={gained}, lost={lost}: n is a count, the others shares with a sum in (0, 1]")
    m = np.arange(n + 1)
    most = binom.ppf(alpha / 2, m, 0.5)  # of m flips, so many one way; `alpha` may still allow it, or one less
    most -= 2 * binom.cdf(most, m, 0.5) > alpha
    share = gained / flips
    noticed = binom.cdf(most, m, share) + binom.sf(m - most - 1, m, share)
    return float(binom.pmf(m, n, flips) @ noticed)


def questions_for_gain(gained: float, lost: float, power: float = 0.8, alpha: float = 0.05) -> int:
    """How many questions the exact McNemar test needs to notice such a change with the chance `power`.

    Found by bisection. Power rises with n in small saw-teeth, so a few questions less may do as well.

    >>> questions_for_gain(0.10, 0.05)
    498
    """
    if gained == lost or not 0 < power < 1:
        raise ValueError(f"gained={gained}, lost={lost}, power={power}: there must be a gain, and power is in (0, 1)")
    # Twice what the normal approximation says (Connor 1987, Biometrics 43:207) is enough for the exact test.
    rough = (norm.ppf(1 - alpha / 2) + norm.ppf(max(power, 0.5))) ** 2 * (gained + lost) / (gained - lost) ** 2
    counts = range(1, int(2 * rough) + 20)
    return counts[bisect_left(counts, power, key=lambda n: paired_power(n, gained, lost, alpha))]


def bootstrap_interval(values: Sequence[float], confidence: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """An interval for the mean of one value a question, by drawing the questions anew 2,000 times (percentiles)."""
    values = np.asarray(values, dtype=float)
    found = bootstrap((values,), np.mean, n_resamples=2000, confidence_level=confidence, method="percentile", rng=seed)
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def pass_at_k(n: Any, c: Any, k: Any) -> Any:
    """The chance that at least one of k completions is right, when c of n sampled ones were (unbiased), by scipy.

    1 - C(n - c, k) / C(n, k): the share of ways to pick k of the n that hold a
    right one (Chen et al. 2021, arXiv 2107.03374). The plug-in 1 - (1 - c/n)^k
    is too low on average.

    Args:
        n, c, k: counts, or arrays of them that broadcast.

    Returns:
        A float for three numbers, else an array of the broadcast shape.

    >>> pass_at_k(4, 1, 2)
    0.5
    """
    if np.any(np.less(k, 1) | np.less(n, k)):
        raise ValueError(f"n={n}, k={k}: pass@k needs 1 ≤ k ≤ n; sample at least k completions of each question")
    chance = hypergeom.sf(0, n, c, k)  # of k drawn without replacement, more than none are among the c right ones
    return chance if np.ndim(chance) else float(chance)
