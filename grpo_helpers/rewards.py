"""The five reward functions of the series, in TRL's signature.

Names and values are the source article's; what they check is repaired (each
fault of the published version is a test in `tests/test_rewards.py`). TRL calls
a reward function with keywords, one list entry per completion, and wants one
float per completion back. `completions` may be plain strings or conversations
(`[{"role": "assistant", "content": ...}]`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from .prompts import extract_xml_answer, parse_number, same_number

Completion = str | Sequence[dict[str, str]]
RewardFunc = Callable[..., list[float]]

TAGS = ("<reasoning>", "</reasoning>", "<answer>", "</answer>")

# Used only after every tag has been counted once, so that nothing can repeat
# and the match takes time linear in the length of the text.
_STRICT = re.compile(r"<reasoning>\n.+\n</reasoning>\n<answer>\n.+\n</answer>\n?", re.DOTALL)
_SOFT = re.compile(r"\s*<reasoning>.*</reasoning>\s*<answer>.*</answer>\s*", re.DOTALL)


def completion_text(completion: Completion) -> str:
    """The text of a completion: itself, or the content of its last message."""
    return completion if isinstance(completion, str) else completion[-1]["content"]


def short_name(name: str) -> str:
    """A reward function's name as tables and figures show it: "strict_format_reward_func" → "strict format"."""
    return name.removesuffix("_reward_func").replace("_", " ")


def _each_tag_once(text: str) -> bool:
    return all(text.count(tag) == 1 for tag in TAGS)


def has_strict_format(text: str) -> bool:
    """Whether `text` is the requested layout and nothing else, every tag on its own line.

    One newline after the last tag is allowed, none is needed: a model usually
    ends its turn right after `</answer>`.
    """
    return _each_tag_once(text) and _STRICT.fullmatch(text) is not None


def has_soft_format(text: str) -> bool:
    """Whether `text` is one reasoning block, then one answer block, with any white space around them."""
    return _each_tag_once(text) and _SOFT.fullmatch(text) is not None


def final_answer(text: str) -> str:
    """The content of the answer block if `text` has exactly one and ends with it, else ""."""
    once = text.count("<answer>") == 1 and text.count("</answer>") == 1
    return extract_xml_answer(text) if once and text.rstrip().endswith("</answer>") else ""


def is_correct(text: str, answer: str) -> bool:
    """Whether the final answer of `text` is the number `answer`: 1,000 = 1000 = 1000.0 = $1,000.

    Raises:
        ValueError: `answer`, the gold answer, is not a number, so that no
            completion could ever be rewarded.
    """
    answer = str(answer)
    if parse_number(answer) is None:
        raise ValueError(
            f"the gold answer {answer!r} is not a number, so no completion can ever match it; "
            "give the bare number in the column 'answer' (extract_hash_answer reads it from GSM8K's text)"
        )
    return same_number(final_answer(text), answer)


def correctness_reward_func(completions: Sequence[Completion], answer: Sequence[str], **kwargs: Any) -> list[float]:
    """2.0 when the final answer equals the gold one as a number, else 0.0.

    Only a completion that ends with its one answer block is paid: a second
    block or an afterthought would let a model bet on several answers.
    """
    texts = [completion_text(c) for c in completions]
    return [2.0 if is_correct(text, gold) else 0.0 for text, gold in zip(texts, answer, strict=True)]


def int_reward_func(completions: Sequence[Completion], **kwargs: Any) -> list[float]:
    """0.5 when the extracted answer is a number (-5, 3.50, $1,000 are; "²" is not), else 0.0."""
    return [0.5 if parse_number(extract_xml_answer(completion_text(c))) is not None else 0.0 for c in completions]


def strict_format_reward_func(completions: Sequence[Completion], **kwargs: Any) -> list[float]:
    """0.5 when the completion is exactly the requested layout, else 0.0."""
    return [0.5 if has_strict_format(completion_text(c)) else 0.0 for c in completions]


def soft_format_reward_func(completions: Sequence[Completion], **kwargs: Any) -> list[float]:
    """0.5 when the completion is a reasoning block and an answer block, any spacing, else 0.0."""
    return [0.5 if has_soft_format(completion_text(c)) else 0.0 for c in completions]


def count_xml(text: str) -> float:
    """0.125 for each of the four tags that occurs exactly once: 0.0 to 0.5."""
    return 0.125 * sum(text.count(tag) == 1 for tag in TAGS)


def xmlcount_reward_func(completions: Sequence[Completion], **kwargs: Any) -> list[float]:
    """`count_xml` of every completion: a first step towards the layout that pays before the rest does."""
    return [count_xml(completion_text(c)) for c in completions]


REWARD_FUNCS: tuple[RewardFunc, ...] = (
    xmlcount_reward_func,
    soft_format_reward_func,
    strict_format_reward_func,
    int_reward_func,
    correctness_reward_func,
)
# the most that each of them pays, and all together
MOST = {f.__name__: 2.0 if f is correctness_reward_func else 0.5 for f in REWARD_FUNCS}
MAX_REWARD = sum(MOST.values())
