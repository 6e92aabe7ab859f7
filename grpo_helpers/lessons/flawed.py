"""The source article's rewards as published, wrong on purpose, in our own words and lines. Never train with them."""

import re
from collections.abc import Sequence
from typing import Any

from ..rewards import Completion, RewardFunc, completion_text, xmlcount_reward_func


def published_extract_xml_answer(text: str) -> str:
    """What the published reader returns: the text behind the closing tag, not before it; "" when a tag is missing.

    >>> published_extract_xml_answer("<answer>72</answer>")
    ''
    """
    return text.rpartition("</answer>")[2].strip() if "<answer>" in text and "</answer>" in text else ""


def published_extract_hash_answer(text: str) -> str:
    """What the published gold reader returns: looks for four signs, splits at three, so that one stays; drops `$` and
    every point, and keeps commas.

    >>> published_extract_hash_answer("6 * 12 = 72\\n#### 72")
    '# 72'
    """
    return text.split("###")[1].replace("$", "").replace(".", "").strip() if "####" in text else ""


def published_correctness_reward_func(
    completions: Sequence[Completion], answer: Sequence[str], **kwargs: Any
) -> list[float]:
    """2.0 when the published reader's answer is, letter by letter, the published gold answer, else 0.0.

    `answer` is the number as it stands behind GSM8K's `####`; the published gold reader is applied to it here, so that
    the rewards of the series can be asked about the same rows.
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
