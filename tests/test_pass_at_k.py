"""pass@k: against every way to pick, at its edges, and with input that makes no sense."""

import itertools
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo_helpers.evaluation import pass_at_k

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
    assert result == wanted and type(result) is float


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
    assert table[1, 0] == 0.25 and table[1, 1] == pass_at_k(8, 2, 4)
    assert pass_at_k([4, 2], [1, 1], 2).tolist() == [0.5, 1.0]


def test_no_questions_give_no_values():
    assert pass_at_k(8, np.array([], dtype=int), 2).shape == (0,)


def test_it_grows_with_k_and_never_leaves_0_to_1():
    for c in range(21):
        chances = [pass_at_k(20, c, k) for k in range(1, 21)]
        assert chances == sorted(chances) and chances[0] >= 0.0 and chances[-1] <= 1.0


def test_large_counts_stay_exact():
    assert pass_at_k(20_000, 1, 10_000) == 0.5
    assert pass_at_k(20_000, 1, 1) == 1 / 20_000


@pytest.mark.parametrize("n, c, k", [(4, 5, 1), (4, -1, 1), (4, 1, 0), (4, 1, 5), (0, 0, 1), (4, 1, -2)])
def test_counts_that_make_no_sense_are_named_with_the_remedy(n, c, k):
    with pytest.raises(ValueError, match=f"n={n}, c={c}, k={k}.*sample at least k"):
        pass_at_k(n, c, k)


def test_in_an_array_the_first_bad_one_is_named():
    with pytest.raises(ValueError, match="n=4, c=9, k=2"):
        pass_at_k(4, np.array([1, 9, 7]), 2)


@pytest.mark.parametrize("bad", [{"c": 0.25}, {"n": 4.0}, {"k": "2"}, {"c": True}, {"c": [0.5, 1.0]}])
def test_rates_in_place_of_counts_are_refused(bad):
    with pytest.raises(ValueError, match="no whole number"):
        pass_at_k(**({"n": 4, "c": 1, "k": 2} | bad))


def test_arrays_that_do_not_fit_together_are_refused():
    with pytest.raises(ValueError):
        pass_at_k(np.array([4, 4, 4]), np.array([1, 2]), 1)
