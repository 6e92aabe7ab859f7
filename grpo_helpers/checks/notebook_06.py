"""Checks for the exercises of notebook 06."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..evaluation import wilson_interval
from ..prompts import XML_COT_FORMAT
from ._exercise import exercise, expect


@exercise
def questions_needed(function: Callable[..., Any]) -> None:
    """The smallest n for which the Wilson interval of round(rate · n) in n is at most `width` wide."""
    for rate, width in ((0.5, 0.5), (0.5, 0.2), (0.9, 0.2), (1.0, 0.1)):
        n = 1
        while True:
            low, high = wilson_interval(round(rate * n), n)
            if high - low <= width:
                break
            n += 1
        expect(function(rate, width), n, f"rate={rate}, width={width}")


@exercise
def verdict(function: Callable[..., Any]) -> None:
    """One of four words for a completion: right, layout, wrong, nothing."""
    cases = {
        "the right number in the requested layout": (XML_COT_FORMAT.format(reasoning="6 * 12", answer="72"), "right"),
        "the right number, written 72.0": (XML_COT_FORMAT.format(reasoning="6 * 12", answer="72.0"), "right"),
        "the right number without tags": ("6 * 12 = 72. The answer is 72.", "layout"),
        "the right number, then an afterthought": (
            XML_COT_FORMAT.format(reasoning="6 * 12", answer="72") + "\nYes, 72.",
            "layout",
        ),
        "a wrong number in the requested layout": (XML_COT_FORMAT.format(reasoning="6 * 2 = 12", answer="12"), "wrong"),
        "a wrong number without tags": ("I think 27.", "wrong"),
        "a reply without any number": ("I do not know.", "nothing"),
        "an empty reply": ("", "nothing"),
    }
    for case, (completion, wanted) in cases.items():
        expect(function(completion, "72"), wanted, f"{case}, {completion!r}")
