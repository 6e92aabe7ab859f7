"""The checks of notebook 08's exercises: right functions pass, near misses are told what is missing."""

import math

import pytest

from grpo_helpers.checks import notebook_08 as checks


def said(check, function, capsys):
    check(function)
    return capsys.readouterr().out


def mean_curve(curves):
    return curves.groupby("completions")["flexible"].mean()


def reached_at(curves, accuracy):
    mean = mean_curve(curves)
    return next((int(at) for at, value in mean.items() if value >= accuracy - 1e-9), None)


RIGHT = {
    checks.chance_of_luck: lambda n, m: 2 / math.comb(n + m, n),
    checks.reached_at: reached_at,
    checks.what_differs: lambda a, b: sorted(k for k in a | b if k not in a or k not in b or a[k] != b[k]),
}
WRONG = {
    "one side only": (checks.chance_of_luck, lambda n, m: 1 / math.comb(n + m, n)),
    "orders counted": (checks.chance_of_luck, lambda n, m: 2 / math.perm(n + m, n)),
    "one seed is enough": (checks.reached_at, lambda c, a: next(iter(c[c["flexible"] >= a]["completions"]), None)),
    "zero is not never": (checks.reached_at, lambda c, a: reached_at(c, a) or 0),
    "the last time": (
        checks.reached_at,
        lambda c, a: max((int(x) for x, v in mean_curve(c).items() if v >= a), default=None),
    ),
    "the second's fields only": (checks.what_differs, lambda a, b: sorted(k for k in b if a.get(k) != b[k])),
    "None taken for missing": (checks.what_differs, lambda a, b: sorted(k for k in a | b if a.get(k) != b.get(k))),
    "unsorted": (
        checks.what_differs,
        lambda a, b: sorted((k for k in a | b if k not in a or k not in b or a[k] != b[k]), reverse=True),
    ),
    "an error": (checks.what_differs, lambda a, b: a["nothing"]),
}


@pytest.mark.parametrize("check", RIGHT, ids=lambda check: check.__name__)
def test_right_functions_are_accepted(check, capsys):
    assert said(check, RIGHT[check], capsys) == "Solved.\n"


@pytest.mark.parametrize("case", WRONG)
def test_near_misses_are_not(case, capsys):
    assert said(*WRONG[case], capsys).startswith("Not yet: ")
