"""Intervals, the paired test and its power: against formulas, scipy, brute force and published values."""

import functools
import itertools
import math
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, norm

from grpo_helpers.statistics import bootstrap_interval, gain_interval, paired_test, wilson_interval

from .cells import definitions

taught = definitions("06_evaluation", "paired_power", "questions_for_gain", "choose")


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_is_the_formula(rate):
    k, n = rate
    z, p = 1.959963984540054, k / n
    middle, half = p + z**2 / (2 * n), z * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5
    low, high = wilson_interval(k, n)
    assert (low, high) == pytest.approx(((middle - half) / (1 + z**2 / n), (middle + half) / (1 + z**2 / n)), abs=1e-9)
    assert 0 <= low <= p <= high <= 1


@pytest.mark.parametrize("n", [1, 30, 10_000])
def test_wilson_interval_ends_at_zero_and_one_exactly(n):
    assert wilson_interval(0, n)[0] == 0.0 and wilson_interval(n, n)[1] == 1.0


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (6, 5), (-1, 5), (7.9, 30), (7, 30.5), (math.nan, 5)])
def test_what_is_no_rate_is_refused(successes, n):
    with pytest.raises(ValueError):
        wilson_interval(successes, n)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=60))
def test_paired_test_is_scipys_binomial_test(questions):
    before, after = pd.DataFrame(questions, columns=["before", "after"], dtype=bool).T.to_numpy()
    got = paired_test(before, after)
    assert (got["gained"], got["lost"]) == (questions.count((False, True)), questions.count((True, False)))
    changed = got["gained"] + got["lost"]
    assert got["p_value"] == pytest.approx(binomtest(got["gained"], changed, 0.5).pvalue if changed else 1.0)


@pytest.mark.parametrize(
    "verdicts",
    [
        [True, math.nan], [True, "False"], [True, pd.NA], [0, 2], [0.5, 1.0], pd.Series(["False", "True"]),
        pd.Series([True, None], dtype="boolean"), [[True], [False]], [{}, True], "10",
    ],
)  # fmt: skip
def test_what_is_no_verdict_is_refused(verdicts):
    for sides in ([verdicts, [True, False]], [[True, False], verdicts]):
        with pytest.raises(ValueError, match="verdicts are True or False"):
            paired_test(*sides)
    with pytest.raises(ValueError):
        paired_test([True] * 3, [True] * 2)


@pytest.mark.parametrize(
    "verdicts",
    [
        [1.0, 0.0], np.array([1, 0], dtype=np.uint8), iter([True, False]), pd.Series([True, False], dtype=object),
        pd.Series([True, False], dtype="boolean"), pd.Series([True, False], [7, 3]),
    ],
)  # fmt: skip
def test_verdicts_of_every_library_are_taken(verdicts):
    assert paired_test(verdicts, [False, True]) == {"gained": 1, "lost": 1, "p_value": 1.0}


@given(st.integers(0, 150), st.integers(0, 150), st.integers(0, 150))
def test_gain_interval_is_the_published_code(gained, lost, unchanged):
    """Agresti's own R function, diffpropci(b, c, n), in Python."""
    n = gained + lost + unchanged
    difference = (gained - lost) / (n + 2)
    sd = math.sqrt((gained + lost + 1) - (gained - lost) ** 2 / (n + 2)) / (n + 2)
    z = norm.ppf(0.975)
    expected = max(-1, difference - z * sd), min(1, difference + z * sd)
    assert gain_interval(gained, lost, n) == pytest.approx(expected)


@pytest.mark.parametrize(("gained", "lost", "n"), [(math.nan, 1, 30), (5, 1, 3), (-1, 2, 9), (0, 1, 0), (0.3, 0.1, 50)])
def test_what_are_no_counts_have_no_interval(gained, lost, n):
    with pytest.raises(ValueError, match="no counts"):
        gain_interval(gained, lost, n)


@pytest.mark.parametrize(
    ("n", "gained", "lost", "alpha"),
    [(1, 0.5, 0.2, 0.05), (6, 1.0, 0.0, 0.05), (7, 0.8, 0.1, 0.05), (8, 0.1, 0.7, 0.0625)],
)
def test_power_is_what_brute_force_counts(n, gained, lost, alpha):
    rejects = functools.cache(lambda g, lo: g + lo > 0 and binomtest(g, g + lo).pvalue <= alpha)
    power = 0.0
    for flips in itertools.product("gl-", repeat=n):
        g, lo = flips.count("g"), flips.count("l")
        power += gained**g * lost**lo * (1 - gained - lost) ** (n - g - lo) * rejects(g, lo)
    assert taught.paired_power(n, gained, lost, alpha) == pytest.approx(power, abs=1e-9)


def test_a_gain_that_no_20_000_questions_show_is_told_in_seconds():
    start = time.process_time()
    assert taught.questions_for_gain(0.051, 0.05) == taught.questions_for_gain(0.5, 0.5) == 20_000
    assert time.process_time() - start < 10, "it was 115 seconds"


@pytest.mark.parametrize(("gained", "lost"), [(0.05, 0.10), (1.0, 0.0), (0.02, 0.0), (0.3, 0.2)])
def test_questions_needed_have_the_power_and_hardly_fewer_do(gained, lost):
    n = taught.questions_for_gain(gained, lost)
    assert taught.paired_power(n, gained, lost) >= 0.8
    fewer = int(0.93 * n) - 3
    assert fewer < 1 or taught.paired_power(fewer, gained, lost) < 0.8


def test_choosing_is_scored_where_the_answer_is_known_and_flatters_as_the_best_of_coins():
    assert taught.choose(np.eye(2, dtype=bool), 1) == (1.0, 0.0, pytest.approx(0.5, abs=0.05))  # all of it luck
    assert taught.choose(np.array([[True] * 6, [False] * 6]), 3) == (1.0, 1.0, 0.0)  # the first of the two, and no luck
    tosses = np.random.default_rng(1).random((24, 400)) < 0.5
    on_a, on_b, _ = taught.choose(tosses[-1:], 100)  # no choice
    assert on_a == pytest.approx(on_b, abs=0.006)
    best = 0.5 + 1.948 * 0.5 / 100**0.5  # the highest of 24 normal draws, on average
    assert taught.choose(tosses, 100) == pytest.approx((best, 0.5, 0.5), abs=0.02)


def test_bootstrap_interval_is_known_for_a_small_sample_repeats_and_has_no_width_where_nothing_varies():
    """Drawing four values anew from {0, 1}: the mean is binomial, so the percentiles are known."""
    assert bootstrap_interval([0, 0, 1, 1]) == (binom.ppf(0.025, 4, 0.5) / 4, binom.ppf(0.975, 4, 0.5) / 4)
    values = [0.0, 0.25, 1.0, 0.5, 0.5]
    assert bootstrap_interval(values) == bootstrap_interval(values)
    assert bootstrap_interval([0.5] * 7) == (0.5, 0.5)
    assert bootstrap_interval([3]) == bootstrap_interval(pd.Series([3.0])) == (3.0, 3.0)
