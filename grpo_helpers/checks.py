"""Checks for the notebooks' exercises: each prints what is still missing, and never raises.

A check takes the learner's function, calls it on small inputs and compares.
Notebooks stay executable from top to bottom with every exercise unsolved.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

from .evaluation import wilson_interval
from .prompts import XML_COT_FORMAT


class NotYet(Exception):
    """What an exercise still lacks, in words for the learner."""


def exercise(check: Callable[[Callable[..., Any]], None]) -> Callable[[Callable[..., Any]], None]:
    """Turn a check that raises into one that prints its verdict: "Solved." or "Not yet: …"."""

    @functools.wraps(check)
    def verdict(solution: Callable[..., Any]) -> None:
        try:
            check(solution)
        except NotYet as missing:
            print(f"Not yet: {missing}")
        except Exception as error:
            print(f"Not yet: {solution.__name__} raised {type(error).__name__}: {error}")
        else:
            print("Solved.")

    return verdict


def _same(got: Any, wanted: Any) -> bool:
    if isinstance(wanted, float):
        return isinstance(got, (int, float)) and math.isclose(got, wanted, abs_tol=1e-9)
    if isinstance(wanted, list):
        return isinstance(got, list) and len(got) == len(wanted) and all(map(_same, got, wanted))
    return got == wanted


def _expect(got: Any, wanted: Any, case: str) -> None:
    if got is None and wanted is not None:
        raise NotYet(f"for {case} your function returned None; write its body and return {wanted!r} here")
    if not _same(got, wanted):
        raise NotYet(f"for {case} your function returned {got!r}, expected {wanted!r}")


# Notebook 05


@exercise
def steps_shown(reward_func: Callable[..., Any]) -> None:
    """0.25 for a completion whose reasoning block holds an equals sign, else 0.0; in TRL's signature."""
    cases = {
        "a reasoning block with a calculation": (XML_COT_FORMAT.format(reasoning="6 * 12 = 72", answer="72"), 0.25),
        "a reasoning block without a calculation": (XML_COT_FORMAT.format(reasoning="easy", answer="72"), 0.0),
        "an equals sign outside the reasoning block": (XML_COT_FORMAT.format(reasoning="easy", answer="x = 72"), 0.0),
        "no tags at all": ("6 * 12 = 72", 0.0),
        "a reasoning block that is never closed": ("<reasoning>\n6 * 12 = 72", 0.0),
        "a calculation spread over lines": ("<reasoning>\n6 * 12\n= 72\n</reasoning>", 0.25),
    }
    for case, (text, wanted) in cases.items():
        _expect(reward_func(completions=[text], answer=["72"], prompts=["?"]), [wanted], case)
    texts, wanted = map(list, zip(*cases.values(), strict=True))
    _expect(reward_func(completions=texts), wanted, f"{len(texts)} completions at once")
    chats = [[{"role": "assistant", "content": text}] for text in texts]
    _expect(reward_func(completions=chats), wanted, "completions given as conversations")


@exercise
def silent_groups(function: Callable[..., Any]) -> None:
    """The share of groups (rows) whose rewards are all equal."""
    cases: dict[str, tuple[list[list[float]], float]] = {
        "two groups, one of them tied": ([[4.0, 4.0, 4.0], [0.0, 4.0, 0.5]], 0.5),
        "a group tied at zero": ([[0.0, 0.0]], 1.0),
        "groups that differ from each other but not within": ([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]], 1.0),
        "groups without a tie": ([[0.0, 0.125], [4.0, 0.0], [0.5, 1.0], [2.0, 2.5]], 0.0),
    }
    for case, (rewards, wanted) in cases.items():
        _expect(function(rewards), wanted, f"{case}, {rewards}")


# Notebook 06


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
        _expect(function(rate, width), n, f"rate={rate}, width={width}")


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
        _expect(function(completion, "72"), wanted, f"{case}, {completion!r}")
