from collections.abc import Sequence
from typing import Any

import pandas as pd

from ..prompts import XML_COT_FORMAT
from ..rewards import completion_text, has_strict_format, is_correct
from ._exercise import NotYet, Solution, exercise, expect, expect_each, short_run


@exercise
def break_even(function: Solution) -> None:
    """The smallest q with training + q < k · q; None where a vote is a single reply."""
    cases = {(2048, 32): 67, (31, 32): 2, (30, 32): 1, (0, 2): 1, (100, 2): 101, (9, 1): None}
    for (training, k), wanted in cases.items():
        hint = " (no training pays, so None)" if wanted is None else ""
        expect(function(training, k), wanted, f"a training of {training} completions, and k={k}{hint}")


@exercise
def choose_replies(function: Solution) -> None:
    """The right ones that state a calculation, each text once, at most so many, in order."""
    a, b, c = (XML_COT_FORMAT.format(reasoning=f"{n} * 2 = {2 * n}", answer=str(2 * n)) for n in (3, 4, 5))
    guess = XML_COT_FORMAT.format(reasoning="Easy: x = 6.", answer="6")
    cases = {
        "right and wrong replies": (([a, b, c], [True, False, True], 8), [a, c]),
        "a lucky guess": (([guess, a], [True, True], 8), [a]),
        "the same reply twice": (([a, b, a, c], [True, True, True, False], 8), [a, b]),
        "more than enough": (([guess, a, b, c], [True, True, True, True], 2), [a, b]),
        "the same reply twice, at most two": (([b, b, a], [True, True, True], 2), [b, a]),
        "nothing right": (([a, b], [False, False], 8), []),
    }
    expect_each(function, cases)


def verdict(completions: Sequence[Any], answer: Sequence[str], **kwargs: Any) -> list[float]:
    """1 for a right answer in the layout."""
    texts = [completion_text(c) for c in completions]
    return [float(has_strict_format(text) and is_correct(text, a)) for text, a in zip(texts, answer, strict=True)]


@exercise
def judge_division(function: Solution) -> None:
    """What a run without the division by the group's spread is, by the learner's own two runs."""
    ends: dict[str, float] = {}

    def train(**changes: Any) -> pd.DataFrame:
        history = short_run(verdict, **{"steps": 12, "problem_steps": (1, 2), "max_completion_length": 64} | changes)
        if changes.keys() <= {"scale_rewards"}:
            ends[str(changes.get("scale_rewards", "group"))] = history["reward"].tail(5).mean()
        return history

    got = function(train)
    if not {"group", "none"} <= ends.keys():
        raise NotYet(f"for a judgement two runs are needed, with the division and without it; you made {[*ends] or 0}")
    gain = ends["none"] - ends["group"]
    expect(got, "no difference" if abs(gain) <= 0.1 else "better" if gain > 0 else "worse", f"a gain of {gain:.2f}")
