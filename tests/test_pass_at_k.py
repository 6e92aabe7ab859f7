"""pass@k: against every way to pick, at its edges, and with more tries than samples."""

import itertools
import random
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo_helpers.statistics import pass_at_k

relaxed = settings(deadline=None, database=None)

attempts = st.integers(1, 8).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n)))


@relaxed
@given(attempts)
def test_it_is_the_share_of_picks_that_hold_a_right_one(case):
    n, c, k = case
    picks = list(itertools.combinations([True] * c + [False] * (n - c), k))
    assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, picks)) / len(picks))


@pytest.mark.parametrize(
    "n, c, k, wanted",
    [(1, 0, 1, 0.0), (1, 1, 1, 1.0), (8, 3, 1, 3 / 8), (8, 0, 8, 0.0), (8, 1, 8, 1.0), (5, 3, 3, 1.0), (4, 1, 2, 0.5)],
)
def test_values_known_by_hand(n, c, k, wanted):
    result = pass_at_k(n, c, k)
    assert result == pytest.approx(wanted, abs=1e-15) and type(result) is float


def test_it_has_no_bias_where_the_plug_in_has_one():
    rng, p, n, k = random.Random(0), 0.2, 10, 5
    right = [sum(rng.random() < p for _ in range(n)) for _ in range(20_000)]
    truth = 1 - (1 - p) ** k
    assert np.mean(pass_at_k(n, np.array(right), k)) == pytest.approx(truth, abs=0.01)
    plug_in = np.mean([1 - (1 - c / n) ** k for c in right])
    assert plug_in < truth - 0.03


def test_arrays_broadcast():
    table = pass_at_k(8, np.array([[0], [2], [8]]), np.array([1, 4]))
    assert table.shape == (3, 2)
    assert table[0].tolist() == [0.0, 0.0] and table[2].tolist() == [1.0, 1.0]
    assert table[1].tolist() == pytest.approx([0.25, pass_at_k(8, 2, 4)])
    assert pass_at_k([4, 2], [1, 1], 2).tolist() == pytest.approx([0.5, 1.0])


def test_no_questions_give_no_values():
    assert pass_at_k(8, np.array([], dtype=int), 2).shape == (0,)


def test_it_grows_with_k_and_never_leaves_0_to_1():
    for c in range(21):
        chances = [pass_at_k(20, c, k) for k in range(1, 21)]
        assert chances == sorted(chances) and chances[0] >= 0.0 and chances[-1] <= 1.0


def test_large_counts_do_not_overflow():
    assert pass_at_k(20_000, 1, 10_000) == pytest.approx(0.5)
    assert pass_at_k(20_000, 1, 1) == pytest.approx(1 / 20_000)


@pytest.mark.parametrize(("n", "k"), [(4, 0), (4, 5), (0, 1), (4, -2), ([8, 4], 5)])
def test_more_tries_than_samples_are_named_with_the_remedy(n, k):
    with pytest.raises(ValueError, match=re.escape(f"n={n}, k={k}") + ".*sample at least k"):
        pass_at_k(n, 1, k)


def test_arrays_that_do_not_fit_together_are_refused():
    with pytest.raises(ValueError):
        pass_at_k(np.array([4, 4, 4]), np.array([1, 2]), 1)
