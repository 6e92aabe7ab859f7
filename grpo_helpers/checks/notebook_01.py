"""Checks for the exercises of notebook 01."""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean, stdev
from typing import Any

from ._exercise import exercise, expect


@exercise
def leave_one_out(function: Callable[..., Any]) -> None:
    """Each reward less the mean of the *other* rewards of its group (a list in, a list out)."""
    cases = {
        "a group of four": ([4.0, 0.0, 2.0, 2.0], [8 / 3, -8 / 3, 0.0, 0.0]),
        "a tie": ([1.5, 1.5, 1.5], [0.0, 0.0, 0.0]),
        "one success among five": ([0.0, 0.0, 0.0, 0.0, 1.0], [-0.25, -0.25, -0.25, -0.25, 1.0]),
        "a group of two": ([0.5, 2.0], [-1.5, 1.5]),
    }
    for case, (rewards, wanted) in cases.items():
        expect(function(list(rewards)), wanted, f"{case}, {rewards}")


@exercise
def learns_from(function: Callable[..., Any]) -> None:
    """Whether a token still moves the policy: False where the clip binds or the advantage is 0."""
    cases = {
        "a token of a good completion, still inside": (1.1, 1.0, 0.2, 0.28, True),
        "a good one, already raised enough": (1.4, 1.0, 0.2, 0.28, False),
        "a good one between 1.2 and 1.28": (1.25, 1.0, 0.2, 0.28, True),
        "the same under a symmetric clip": (1.25, 1.0, 0.2, 0.2, False),
        "a good one that has become rarer": (0.5, 0.3, 0.2, 0.28, True),
        "a bad one, already lowered enough": (0.7, -1.0, 0.2, 0.28, False),
        "a bad one that has become likelier": (1.9, -2.0, 0.2, 0.28, True),
        "a bad one, still inside": (0.9, -0.1, 0.2, 0.28, True),
        "an advantage of 0": (1.0, 0.0, 0.2, 0.28, False),
    }
    for case, (ratio, advantage, low, high, wanted) in cases.items():
        where = f"{case} (ratio={ratio}, advantage={advantage}, epsilon_low={low}, epsilon_high={high})"
        expect(function(ratio, advantage, low, high), wanted, where)


@exercise
def step_by_hand(function: Callable[..., Any]) -> None:
    """d loss / d log-probability of a token of each completion: loss "grpo", first pass over one group."""
    cases = {
        "equal lengths": ([4.0, 0.0, 2.0, 2.0], [10, 10, 10, 10]),
        "the wrong one is long": ([4.0, 0.0], [5, 50]),
        "a tie": ([1.0, 1.0, 1.0], [3, 7, 30]),
        "one success among six": ([0.0, 0.0, 1.0, 0.0, 0.0, 0.0], [8, 9, 4, 12, 30, 7]),
    }
    for case, (rewards, lengths) in cases.items():
        mean, scale = fmean(rewards), (stdev(rewards) + 1e-4) * len(rewards)
        wanted = [(mean - r) / scale / n for r, n in zip(rewards, lengths, strict=True)]
        expect(function(list(rewards), list(lengths)), wanted, f"{case}, rewards={rewards}, lengths={lengths}")
