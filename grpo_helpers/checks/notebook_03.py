"""Checks for the exercises of notebook 03."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..lessons.adversarial import GOOD, SUITE, left
from ..lessons.flawed import PUBLISHED_REWARD_FUNCS
from ..prompts import XML_COT_FORMAT
from ..rewards import REWARD_FUNCS, correctness_reward_func, strict_format_reward_func, xmlcount_reward_func
from ._exercise import NotYet, exercise, expect

NAMED = 3  # cases listed in one message


@exercise
def break_the_reward(reward_func: Callable[..., Any]) -> None:
    """2.0 for every case of the adversarial suite whose verdict `correct` says so, else 0.0."""
    wrong = XML_COT_FORMAT.format(reasoning="6 + 12 = 18", answer="18")
    expect(reward_func(prompts=["?"], completions=[GOOD], answer=["72"]), [2.0], "a completion exactly as asked for")
    expect(reward_func(completions=[GOOD, wrong], answer=["72", "72"]), [2.0, 0.0], "two completions at once")
    chat = [[{"role": "assistant", "content": GOOD}]]
    expect(reward_func(completions=chat, answer=["72"]), [2.0], "a completion given as a conversation")
    rest = left(reward_func)
    if len(rest):
        listed = [f"\n  {r.name}: deserves {r.deserves}, got {r.got}. {r.why}" for r in rest[:NAMED].itertuples(False)]
        more = f"\n  … and {len(rest) - NAMED} more" if len(rest) > NAMED else ""
        raise NotYet(f"{len(rest)} of {len(SUITE)} cases are judged wrongly.{''.join(listed)}{more}")


@exercise
def never_fires(function: Callable[..., Any]) -> None:
    """The names of the reward functions that pay none of some completions, in their order."""
    golds = ["72", "-5", "1,000"]
    ideal = [XML_COT_FORMAT.format(reasoning="worked out", answer=gold) for gold in golds]
    mixed = ["72", ideal[1], "<answer>"]
    cases = {
        "the published rewards on ideal completions": (
            PUBLISHED_REWARD_FUNCS,
            ideal,
            ["published_int_reward_func", "published_correctness_reward_func"],
        ),
        "the repaired rewards on ideal completions": (REWARD_FUNCS, ideal, []),
        "three completions of which only the second is any good": (
            (correctness_reward_func, strict_format_reward_func),
            mixed,
            [],
        ),
        "three completions without an answer": (
            (correctness_reward_func, xmlcount_reward_func, strict_format_reward_func),
            ["<answer>", "", "I do not know"],
            ["correctness_reward_func", "strict_format_reward_func"],
        ),
    }
    for case, (reward_funcs, completions, wanted) in cases.items():
        expect(function(reward_funcs, completions, golds), wanted, case)


@exercise
def disputed_group(function: Callable[..., Any]) -> None:
    """A group, as (format, correctness) rewards, of which sum and normalised sum prefer different completions."""
    for size in (4, 8):
        group = function(size)
        if group is None or len(group) != size or any(len(pair) != 2 for pair in group):
            raise NotYet(f"for size={size} your function returned {group!r}, expected {size} pairs (format, correct)")
        odd = [pair for pair in group if pair[0] not in (0.0, 0.5) or pair[1] not in (0.0, 2.0)]
        if odd:
            raise NotYet(f"for size={size} there is a pair {odd[0]}; the format pays 0 or 0.5, correctness 0 or 2")
        paid = np.array(group, dtype=float)
        normalised = (paid - paid.mean(axis=0)) / (paid.std(axis=0, ddof=1) + 1e-4)
        first, second = (
            {tuple(pair) for pair in paid[values > values.max() - 1e-9].tolist()}
            for values in (paid.sum(axis=1), normalised.sum(axis=1))
        )
        if first & second:
            raise NotYet(f"for size={size} both ways prefer {min(first & second)} in your group {group}")
