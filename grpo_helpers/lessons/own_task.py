"""For a task of your own: demonstrations to warm up on, and replies paid by your own rewards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..evaluation import generate_predictions
from ..rewards import RewardFunc, short_name
from .validation import ask


def demonstrations(rows: Iterable[Mapping[str, Any]], reply: Callable[[Mapping[str, Any]], str]) -> Dataset:
    """The prompts of `rows` with a reply to each, as `warm_up` wants them: columns prompt and completion, messages."""
    said = [(row["prompt"], [{"role": "assistant", "content": reply(row)}]) for row in rows]
    return Dataset.from_list([{"prompt": prompt, "completion": completion} for prompt, completion in said])


def scored_replies(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Dataset,
    reward_funcs: Sequence[RewardFunc],
    max_new_tokens: int,
    **sampling: Any,
) -> pd.DataFrame:
    """Replies to every row, paid by reward functions that see all its columns, as in training.

    Args:
        rows: a column `prompt`, and whatever the rewards read.
        sampling: keywords of `evaluation.generate_predictions`; without any, one greedy reply to each row.

    Returns:
        A line for each reply, those to one row side by side: number (of the row), completion, truncated, each reward
        by its short name, and total (points).

    Raises:
        ValueError: a reward function raised, or did not return a finite number for each completion.
    """
    replies = generate_predictions(model, tokenizer, rows["prompt"], max_new_tokens, **sampling)
    lines = [(number, text, cut) for number, group in enumerate(replies) for text, cut in group]
    table = pd.DataFrame(lines, columns=["number", "completion", "truncated"])
    asked = [rows[number] for number in table["number"]]
    paid = {}
    for function in reward_funcs:
        paid[short_name(function.__name__)] = points = ask(function, table["completion"].tolist(), asked)
        if isinstance(points, tuple):
            raise ValueError(": ".join(points))
    points = pd.DataFrame(paid)
    return table.join(points.assign(total=points.sum(axis=1)))
