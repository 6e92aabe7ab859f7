"""Try reward functions before training with them, on your own task.

Nothing in here knows the layout or the task: it only needs rows with whatever
columns your rewards use, and a function that writes the ideal completion for
a row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from .adversarial import shorten
from .cost import growth
from .prompts import XML_COT_FORMAT
from .rewards import RewardFunc

Row = Mapping[str, Any]
COLUMNS = ["check", "reward", "row", "completion", "found", "remedy"]
LENGTH = 32_000  # characters, for the check of the cost
PIECES = 12  # words with a sign in them, such as tags, that are repeated for it
EXAMPLES = 3  # findings of one kind that are listed one by one


class Unusable(Exception):
    """What a reward function returned that no trainer can use, and what to do."""

    def __init__(self, found: str, remedy: str) -> None:
        super().__init__(found)
        self.found, self.remedy = found, remedy


def ideal_reply(row: Row) -> str:
    """The gold answer in the layout of this series. For another layout, pass a `render` of your own."""
    return XML_COT_FORMAT.format(reasoning="One step after the other.", answer=row["answer"])


def attacks(row: Row, others: Sequence[Row], render: Callable[[Row], str]) -> dict[str, str]:
    """Completions for `row` that must not earn full marks, by name, made from ideal ones.

    `others` are rows with another ideal completion: theirs is a wrong answer here.
    """
    ideal = render(row)
    found = {
        "nothing": "",
        "white space": " \n" * 20,
        "one character": "x",
        "the ideal reply twice": f"{ideal}\n{ideal}",
        "the ideal reply, then more": f"{ideal}\nBut I may be wrong.",
        "the first half": ideal[: len(ideal) // 2],
        "the ideal reply backwards": ideal[::-1],
        "control characters": "\0\x1b[0m\ufeff\u202e" * 8,
        "broken characters": "\ufffd\U0001f600\u0301" * 8,
    }
    if isinstance(row.get("answer"), str):
        found["the answer without the layout"] = f"The answer is {row['answer']}."
    if others:
        wrong = [render(other) for other in others]
        found |= {
            "a wrong answer": wrong[0],
            "a wrong answer, then the right one": f"{wrong[0]}\n{ideal}",
            "the right answer, then a wrong one": f"{ideal}\n{wrong[0]}",
            "a bet on many answers": "\n".join([*wrong, ideal, *wrong]),
        }
    return {name: text for name, text in found.items() if text.strip() != ideal.strip()}


def ask(reward_func: RewardFunc, completions: Sequence[str], rows: Sequence[Row]) -> list[float]:
    """The rewards of `completions` (one for each row), asked for as TRL's trainer does; None counts as 0.

    Completions are conversations where the row's `prompt` is one, as in training.

    Raises:
        Unusable: the function raised, or returned something that is no list of finite numbers.
    """
    name = reward_func.__name__
    chat = bool(rows) and not isinstance(rows[0].get("prompt", ""), str)
    said = [[{"role": "assistant", "content": c}] for c in completions] if chat else list(completions)
    columns = {k: [r[k] for r in rows] for k in (rows[0] if rows else {}) if k != "prompt"}
    extra = {"completion_ids": [[0]] * len(said), "trainer_state": None, "log_extra": None, "log_metric": None}
    try:
        got = reward_func(prompts=[r.get("prompt", "") for r in rows], completions=said, **columns, **extra)
    except Exception as error:
        raise Unusable(
            f"{name} raised {type(error).__name__}: {error}",
            "TRL catches no exception, so this ends the run: accept **kwargs, read completions with "
            "rewards.completion_text, and give 0.0 to a text that cannot be read",
        ) from None
    if isinstance(got, str) or not hasattr(got, "__iter__"):
        raise Unusable(f"{name} returned {got!r}", "return a list, one float for each completion")
    got = [r.item() if hasattr(r, "item") else r for r in got]  # numbers of numpy and torch
    if len(got) != len(said):
        raise Unusable(
            f"{name} returned {len(got)} rewards for {len(said)} completions", "return one float for each completion"
        )
    for reward in got:
        if reward is not None and not (isinstance(reward, (int, float)) and math.isfinite(reward)):
            raise Unusable(
                f"{name} returned {reward!r}", "return a finite float, or None for no opinion; TRL reads NaN as None"
            )
    return [0.0 if reward is None else float(reward) for reward in got]


def validate_rewards(
    reward_funcs: Sequence[RewardFunc],
    rows: Iterable[Row],
    render: Callable[[Row], str] = ideal_reply,
    *,
    full_marks: float | None = None,
    hostile: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """What is wrong with a set of reward functions, found before training with them.

    1. every ideal completion earns full marks, and every function pays for some;
    2. no empty or adversarial completion earns full marks, or more;
    3. every reward is a finite number, one for each completion;
    4. the time for a completion is linear in its length.

    Args:
        reward_funcs: in TRL's signature. Their sum is what is judged.
        rows: rows of your dataset, with the columns your rewards read (a few hundred are plenty).
        render: writes the ideal completion of a row.
        full_marks: the most that all rewards together should pay; None takes the highest sum of an ideal completion.
        hostile: further completions, by name, that must not earn full marks on the first row.

    Returns:
        One row for each finding: check, reward, row, completion (shortened),
        found, remedy. An empty table is the good news.

    Raises:
        ValueError: no rows, or no reward functions, or two of one name.
    """
    rows, reward_funcs = [dict(r) for r in rows], list(reward_funcs)
    names = [f.__name__ for f in reward_funcs]
    if not rows or not reward_funcs:
        raise ValueError(f"{len(reward_funcs)} reward functions and {len(rows)} rows: at least one of each is needed")
    if len(set(names)) < len(names):
        raise ValueError(f"reward functions of the same name, {names}: TRL logs them by name, so give each its own")
    ideal = [render(row) for row in rows]
    found: list[dict[str, Any]] = []
    usable, most = _ideal_replies(reward_funcs, rows, ideal, full_marks, found)
    if usable:
        _adversarial(usable, rows, ideal, render, most, hostile or {}, found)
        for function in usable:
            _cost(function, rows[0], ideal[0], found)
    return pd.DataFrame(found, columns=COLUMNS)


def _finding(check: str, reward: str, row: int | None, completion: str, found: str, remedy: str) -> dict[str, Any]:
    values = (check, reward, row, shorten(completion, 70), found, remedy)
    return dict(zip(COLUMNS, values, strict=True))


def _ideal_replies(
    reward_funcs: Sequence[RewardFunc],
    rows: Sequence[Row],
    ideal: Sequence[str],
    full_marks: float | None,
    found: list[dict[str, Any]],
) -> tuple[list[RewardFunc], float]:
    """Check 1; returns the functions that gave usable rewards at all, and what full marks are for them."""
    scores: dict[str, list[float]] = {}
    usable = []
    for function in reward_funcs:
        name = function.__name__
        try:
            scores[name] = ask(function, ideal, rows)
        except Unusable as error:
            found.append(_finding("usable rewards", name, None, ideal[0], error.found, error.remedy))
            continue
        usable.append(function)
        if max(scores[name]) <= 0:
            remedy = "print what it extracts from this completion and what it compares that with"
            note = f"pays none of the {len(rows)} ideal completions (most: {max(scores[name]):g})"
            found.append(_finding("can it fire?", name, 0, ideal[0], note, remedy))
    table = pd.DataFrame(scores, index=range(len(rows)))
    best, totals = table.max(), table.sum(axis=1)
    most = full_marks if full_marks is not None and len(usable) == len(reward_funcs) else float(totals.max())
    short = [i for i, total in enumerate(totals) if total < most - 1e-9]
    for i in short[:EXAMPLES]:
        low = [n for n in table if table[n][i] < best[n]] or list(table)
        note = f"earns {totals[i]:g} of {most:g}" + (f"; {len(short)} rows in all" if i == short[0] else "")
        remedy = "make the gold answer readable, or the reward tolerant of how it is written"
        found.append(_finding("ideal replies", ", ".join(low), i, ideal[i], note, remedy))
    over = [i for i, total in enumerate(totals) if total > most + 1e-9]
    for i in over[:EXAMPLES]:
        remedy = "full_marks is too low, or a reward has no upper bound"
        found.append(_finding("ideal replies", "all", i, ideal[i], f"earns {totals[i]:g}, over {most:g}", remedy))
    return usable, most


def _adversarial(
    reward_funcs: Sequence[RewardFunc],
    rows: Sequence[Row],
    ideal: Sequence[str],
    render: Callable[[Row], str],
    most: float,
    hostile: Mapping[str, str],
    found: list[dict[str, Any]],
) -> None:
    """Checks 2 and 3, on up to three rows; one finding for each attack that succeeds, with the first row it did on."""
    tried = range(min(EXAMPLES, len(rows)))
    paid: dict[str, list[tuple[int, str, float]]] = {}
    broken: set[tuple[str, str]] = set()
    for i in tried:
        others = [row for row, text in zip(rows, ideal, strict=True) if text != ideal[i]][:20]
        for name, text in (attacks(rows[i], others, render) | (dict(hostile) if i == 0 else {})).items():
            total = 0.0
            for function in reward_funcs:
                try:
                    total += ask(function, [text], [rows[i]])[0]
                except Unusable as error:
                    if (name, function.__name__) not in broken:
                        broken.add((name, function.__name__))
                        note = f"{name}: {error.found}"
                        found.append(_finding("usable rewards", function.__name__, i, text, note, error.remedy))
            if total >= most - 1e-9:
                paid.setdefault(name, []).append((i, text, total))
    for name, hits in paid.items():
        i, text, total = hits[0]
        note = f"{name} earns {total:g}; full marks are {most:g} ({len(hits)} of {len(tried)} rows tried)"
        remedy = "find the reward that pays for it, and write this completion into its tests"
        found.append(_finding("adversarial replies", "all", i, text, note, remedy))


def _cost(function: RewardFunc, row: Row, ideal: str, found: list[dict[str, Any]]) -> None:
    """Check 4: the ideal completion, white space, a digit, and what looks like markup, each over and over."""
    markup = [word for word in dict.fromkeys(ideal.split()) if not word.isalnum()]
    pieces = dict.fromkeys([ideal, "\n", " ", "9", *markup[:PIECES]])
    texts = [head + piece * (LENGTH // len(piece) + 1) for piece in pieces if piece for head in ("", ideal + "\n")]
    steepest = None
    for text in texts:
        try:
            measured = growth(lambda t: ask(function, [t], [row]), text)
        except Unusable as error:
            found.append(_finding("usable rewards", function.__name__, 0, text, error.found, error.remedy))
            return
        if measured.superlinear and (steepest is None or measured.seconds > steepest[0].seconds):
            steepest = (measured, text)
    if steepest:
        measured, text = steepest
        note = (
            f"time grows like length^{measured.exponent:.1f}: {measured.seconds:.2f} s for "
            f"{measured.size:,} characters, about {measured.predict(1_000_000):,.0f} s for a million"
        )
        remedy = "count or find the tags first, with str.count and str.find, and match a pattern only then"
        found.append(_finding("cost", function.__name__, 0, text, note, remedy))
