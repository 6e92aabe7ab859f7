"""A suite of nasty completions, each with the verdict it deserves and why.

For rewards that read a number from the layout of `prompts.SYSTEM_PROMPT`. The verdicts, in `data/adversarial.jsonl`,
are judgements, written down by hand and not computed by the rewards they test: five of them for every case, so that
each reward can be held to its own. `left` says which cases a correctness reward gets wrong.
"""

import json
from typing import NamedTuple

import pandas as pd

from ..profiles import DATA
from ..rewards import RewardFunc
from .validation import ask, growth

LONG, PATIENCE = 100_000, 5.0  # characters; seconds for one of them


class Case(NamedTuple):
    """One completion and what it deserves.

    `correct`: must correctness pay; `number`: is there an answer block that holds a number; `soft` and `strict`: is it
    the layout, with any spacing or to the letter; `tags`: how many of the four tags occur exactly once. `fill` makes a
    huge text of a small one: (mark, what replaces it, how many times).
    """

    name: str
    text: str
    gold: str
    correct: bool
    number: bool
    soft: bool
    strict: bool
    tags: int
    why: str
    fill: tuple[str, str, int] | None = None

    @property
    def completion(self) -> str:
        """The whole text; a huge one is built when it is asked for, and not kept."""
        if self.fill is None:
            return self.text
        mark, piece, times = self.fill
        return self.text.replace(mark, piece * times)


SUITE = tuple(Case(**json.loads(line)) for line in (DATA / "adversarial.jsonl").read_text("utf-8").splitlines())


def left(reward_func: RewardFunc) -> pd.DataFrame:
    """The cases where `reward_func` pays and must not, by the verdict `correct`, or does not pay and must.

    Any reward above zero counts as paid. Every case is a call of its own, so that an exception is found and named as
    well. A long case is tried on its beginning first, and left out when the whole of it would take more than 5 seconds:
    a careless pattern takes hours for 10 MB.

    Columns: name, deserves ("pay" or "nothing"), got (the reward, or why there is none), why.
    """
    rows = []
    for case in SUITE:
        got = _reward(reward_func, case)
        if isinstance(got, str) or (got > 0) != case.correct:
            rows.append((case.name, "pay" if case.correct else "nothing", got, case.why))
    return pd.DataFrame(rows, columns=["name", "deserves", "got", "why"])


def _reward(reward_func: RewardFunc, case: Case) -> float | str:
    """The reward of a case, or in words why there is none."""
    completion, row = case.completion, [{"prompt": "?", "answer": case.gold}]
    if len(completion) > LONG:
        seconds = growth(lambda text: ask(reward_func, [text], row), completion).predict(len(completion))
        if seconds > PATIENCE:
            return f"too slow: {len(completion):,} characters would take about {seconds:,.0f} s"
    return ask(reward_func, [completion], row)[0]  # of what is wrong the first half, without the remedy
