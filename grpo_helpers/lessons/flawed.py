"""Rewards that are wrong on purpose, to learn from. Never train with them in earnest.

1. `published_*`: what the source article's reward code does as published, in
   our own words and lines. The faults, one by one:

   - its answer reader takes the text behind `</answer>` in place of the text before it;
   - its gold reader looks for `####` and splits at `###`, so that a `#` stays;
   - it removes every `.` from the gold answer and keeps its commas;
   - it asks `str.isdigit` what a number is;
   - its strict pattern wants a newline before the first tag and after the last,
     and its soft pattern lets anything follow.

2. `generous_reward_func`: plausible, and a policy can farm it; beside it the
   version that cannot be farmed, `patched_reward_func`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from ..prompts import same_number
from ..rewards import TAGS, Completion, RewardFunc, completion_text, count_xml, final_answer, xmlcount_reward_func

# --- 1. as published ---------------------------------------------------------


def published_extract_xml_answer(text: str) -> str:
    """What the published reader returns: the text behind the closing tag; "" when a tag is missing.

    >>> published_extract_xml_answer("<answer>72</answer>")
    ''
    """
    return text.rpartition("</answer>")[2].strip() if "<answer>" in text and "</answer>" in text else ""


def published_extract_hash_answer(text: str) -> str:
    """What the published gold reader returns: looks for four signs, splits at three, drops `$` and every point.

    >>> published_extract_hash_answer("6 * 12 = 72\\n#### 72")
    '# 72'
    """
    return text.split("###")[1].replace("$", "").replace(".", "").strip() if "####" in text else ""


def published_correctness_reward_func(
    completions: Sequence[Completion], answer: Sequence[str], **kwargs: Any
) -> list[float]:
    """2.0 when the published reader's answer is, letter by letter, the published gold answer, else 0.0.

    `answer` is the number as it stands behind GSM8K's `####`; the published
    gold reader is applied to it here, so that the rewards of the series can be
    asked about the same rows.
    """
    said = [published_extract_xml_answer(completion_text(c)) for c in completions]
    golds = [published_extract_hash_answer(f"#### {gold}") for gold in answer]
    return [2.0 if s == gold else 0.0 for s, gold in zip(said, golds, strict=True)]


def published_int_reward_func(completions: Sequence[Completion], **kwargs: Any) -> list[float]:
    """0.5 when the published reader's answer satisfies `str.isdigit`, else 0.0."""
    return [0.5 if published_extract_xml_answer(completion_text(c)).isdigit() else 0.0 for c in completions]


def published_strict_format_reward_func(completions: Sequence[Completion], **kwargs: Any) -> list[float]:
    """0.5 for a newline, the layout, and a newline; anything may stand inside, further tags included."""
    layout = r"\n<reasoning>\n.*\n</reasoning>\n<answer>\n.*\n</answer>\n"
    return [0.5 if re.fullmatch(layout, completion_text(c), re.DOTALL) else 0.0 for c in completions]


def published_soft_format_reward_func(completions: Sequence[Completion], **kwargs: Any) -> list[float]:
    """0.5 when a reasoning block and an answer block occur in this order; anything may follow."""
    blocks = r"<reasoning>.*?</reasoning>\s*<answer>.*?</answer>"
    return [0.5 if re.match(blocks, completion_text(c), re.DOTALL) else 0.0 for c in completions]


def published_xmlcount_reward_func(completions: Sequence[Completion], **kwargs: Any) -> list[float]:
    """0.125 for each of the four tags that occurs exactly once: the one that works as published."""
    return xmlcount_reward_func(completions=completions)


# The strict reward is defined in the article's code and not handed to its trainer.
PUBLISHED_REWARD_FUNCS: tuple[RewardFunc, ...] = (
    published_xmlcount_reward_func,
    published_soft_format_reward_func,
    published_int_reward_func,
    published_correctness_reward_func,
)


# --- 2. plausible, and farmed ------------------------------------------------


def generous_reward_func(completions: Sequence[Completion], answer: Sequence[str], **kwargs: Any) -> list[float]:
    """2.0 when *an* answer block holds the gold number, and 0.5 for every tag found. No upper bound."""
    scores = []
    for completion, gold in zip(completions, answer, strict=True):
        text = completion_text(completion)
        right = any(same_number(said, gold) for said in re.findall(r"<answer>(.*?)</answer>", text, re.DOTALL))
        scores.append(2.0 * right + 0.5 * sum(text.count(tag) for tag in TAGS))
    return scores


def patched_reward_func(completions: Sequence[Completion], answer: Sequence[str], **kwargs: Any) -> list[float]:
    """2.0 when the *final* answer is the gold number, and 0.5 for every tag that occurs exactly once. At most 4.0."""
    scores = []
    for completion, gold in zip(completions, answer, strict=True):
        text = completion_text(completion)
        right = same_number(final_answer(text), gold)
        scores.append(2.0 * right + 4 * count_xml(text))
    return scores
