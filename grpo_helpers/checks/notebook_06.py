"""Checks for the exercises of notebook 06."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

from ..prompts import XML_COT_FORMAT
from ..statistics import wilson_interval
from ._exercise import exercise, expect


@exercise
def questions_needed(function: Callable[..., Any]) -> None:
    """The smallest n for which the Wilson interval of round(rate · n) in n is at most `width` wide."""
    for rate, width in ((0.5, 0.5), (0.5, 0.2), (0.9, 0.2), (1.0, 0.1)):
        intervals = ((n, *wilson_interval(round(rate * n), n)) for n in count(1))
        wanted = next(n for n, low, high in intervals if high - low <= width)
        expect(function(rate, width), wanted, f"rate={rate}, width={width}")


@exercise
def verdict(function: Callable[..., Any]) -> None:
    """One of four words for a completion: right, layout, wrong, nothing."""
    right, wrong = (XML_COT_FORMAT.format(reasoning="6 * 12", answer=answer) for answer in ("72", "12"))
    cases = {
        "the right number in the requested layout": (right, "right"),
        "the right number, written 72.0": (right.replace("\n72\n", "\n72.0\n"), "right"),
        "the right number without tags": ("6 * 12 = 72. The answer is 72.", "layout"),
        "the right number, then an afterthought": (right + "\nYes, 72.", "layout"),
        "a wrong number in the requested layout": (wrong, "wrong"),
        "a wrong number without tags": ("I think 27.", "wrong"),
        "a reply without any number": ("I do not know.", "nothing"),
        "an empty reply": ("", "nothing"),
    }
    for case, (completion, wanted) in cases.items():
        expect(function(completion, "72"), wanted, f"{case}, {completion!r}")


@exercise
def chance_to_notice(function: Callable[..., Any]) -> None:
    """The power of the paired test by simulation, to within 0.08 of the exact value."""
    for (n, gained, lost), exact in {(50, 0.3, 0.1): 0.5467, (200, 0.1, 0.05): 0.3733, (100, 0.1, 0.1): 0.0294}.items():
        got = function(n, gained, lost)
        if not isinstance(got, (int, float)) or abs(got - exact) > 0.08:
            expect(got, round(exact, 2), f"n={n}, gained={gained}, lost={lost} (0.08 either way is close enough)")
