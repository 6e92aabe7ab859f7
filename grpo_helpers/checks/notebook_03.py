from typing import Any

import numpy as np
import pandas as pd

from ..lessons.flawed import published_correctness_reward_func
from ..rewards import REWARD_FUNCS, RewardFunc, correctness_reward_func, strict_format_reward_func
from ._exercise import NotYet, Solution, decided, exercise, one_of, short_run

LONGEST = 250  # characters of a cheat


@exercise
def cheat(function: Solution, reward_func: RewardFunc) -> None:
    """One completion of at most LONGEST characters that `reward_func` pays for every gold answer from 0 to 99."""
    text = function(LONGEST)
    if not isinstance(text, str) or len(text) > LONGEST:
        size = f"{len(text)} characters" if isinstance(text, str) else repr(text)
        raise NotYet(f"for {LONGEST} your function returned {size}; return one text of at most {LONGEST} characters")
    golds = [str(number) for number in range(100)]
    paid = reward_func(completions=[text] * len(golds), answer=golds)
    if unpaid := [gold for gold, points in zip(golds, paid, strict=True) if not points]:
        raise NotYet(f"for the gold answer {unpaid[0]} it earns nothing, nor for {len(unpaid) - 1} others of 100")


def right_in_the_layout(completions: list[Any], answer: list[str], **kwargs: Any) -> list[float]:
    """2.0 for a completion that is right and in the layout to the letter, else 0.0."""
    right = correctness_reward_func(completions=completions, answer=answer)
    return [r if f else 0.0 for r, f in zip(right, strict_format_reward_func(completions=completions), strict=True)]


CANDIDATES: dict[str, tuple[RewardFunc, ...]] = {
    "as it is": (published_correctness_reward_func,),
    "right in the layout": (right_in_the_layout,),
    "all five": tuple(REWARD_FUNCS),
}


def history_of(name: str, /) -> pd.DataFrame:
    """The log of 20 steps of `tiny` with a candidate, its correctness paid or as a witness."""
    paid = CANDIDATES[name]
    witnesses = () if correctness_reward_func in paid else (correctness_reward_func,)
    return short_run(*paid, witnesses=witnesses)


@exercise
def start_with(function: Solution) -> None:
    """The candidate whose run ends with the most right answers, of runs that the learner has made with `train`."""
    got, made = decided(function, history_of)
    ends = {name: run["rewards/correctness_reward_func/mean"].tail(5).mean() for name, run in made.items()}
    one_of(got, list(CANDIDATES), CANDIDATES, ends)
    if ends[got] < max(ends.values()):
        told = ", ".join(f"{name} {end:.2f}" for name, end in ends.items())
        raise NotYet(f"for {got!r} another ends with more right answers (correctness over the last 5 steps: {told})")


@exercise
def disputed_group(function: Solution) -> None:
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
