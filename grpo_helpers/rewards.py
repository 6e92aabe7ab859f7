"""The five reward functions of the series, in TRL's signature.

Names and values are the source article's; what they check is repaired (each fault of the published version is a test in
`tests/test_rewards.py`). TRL calls a reward function with keywords, one list entry per completion, and wants one float
per completion back. `completions` may be plain strings or conversations (`[{"role": "assistant", "content": ...}]`).
"""

import contextlib
import functools
import inspect
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Any, SupportsFloat

from .prompts import extract_xml_answer, gold_text, parse_number, same_number

Completion = str | Sequence[dict[str, Any]]
RewardFunc = Callable[..., list[float]]
# keywords that TRL itself passes to a reward, and columns that it takes for pictures
TAKEN = {"prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric", "image", "images"}
LARGEST = 3e38  # a reward is kept as float32
REMEDY = "accept **kwargs, read completions with rewards.completion_text, return one finite float (or None) for each"

TAGS = ("<reasoning>", "</reasoning>", "<answer>", "</answer>")

# Used only where `count_xml` is 0.5: every tag is there once, so that nothing can repeat
# and the match takes time linear in the length of the text.
_STRICT = re.compile(r"<reasoning>\n.+\n</reasoning>\n<answer>\n.+\n</answer>\n?", re.DOTALL)
_SOFT = re.compile(r"\s*<reasoning>.*</reasoning>\s*<answer>.*</answer>\s*", re.DOTALL)


def completion_text(completion: Completion) -> str:
    """The text of a completion: itself, or what the assistant (not a user, not a tool) said last, its parts joined."""
    if isinstance(completion, str):
        return completion
    said = [turn.get("content") for turn in completion or () if turn.get("role", "assistant") == "assistant"]
    content = (said[-1] if said else "") or ""
    return content if isinstance(content, str) else "".join(part.get("text") or "" for part in content)


def _unwrapped(reward_func: RewardFunc) -> Any:
    while isinstance(reward_func, functools.partial):
        reward_func = reward_func.func
    return reward_func


def reward_names(reward_funcs: Iterable[RewardFunc]) -> list[str]:
    """The name that TRL gives each: a function's own, that of the function in a partial, a callable object's class.

    TRL logs what has the same name as one, averaged; so here the second is called name_2.
    """
    names = [getattr(f, "__name__", type(f).__name__) for f in map(_unwrapped, reward_funcs)]
    return [f"{name}_{k + 1}" if (k := names[:i].count(name)) else name for i, name in enumerate(names)]


def is_model(reward_func: Any) -> bool:
    """Whether it is a reward model, or the name of one: TRL loads and asks these itself."""
    return isinstance(reward_func, str) or hasattr(reward_func, "state_dict")


def is_async(reward_func: RewardFunc) -> bool:
    """Whether a call returns a coroutine, as TRL decides it."""
    inner = _unwrapped(reward_func)
    return inspect.iscoroutinefunction(inner) or inspect.iscoroutinefunction(inner.__call__)


def usable(got: Any, name: str, completions: Sequence[Completion]) -> list[float | None]:
    """What the reward function `name` returned for `completions`: a finite number or None for each, else a ValueError.

    TRL takes NaN for "no opinion", and the keys of a dict for rewards, and trains on.
    """
    rewards, numbers = None, []
    with contextlib.suppress(TypeError):  # no list at all
        rewards = None if isinstance(got, (str, bytes, Mapping, Set)) or hasattr(got, "columns") else list(iter(got))
    if rewards is None:
        raise ValueError(f"{name} returned {got!r:.200}; {REMEDY}")
    if len(rewards) != len(completions):
        raise ValueError(f"{name} returned {len(rewards)} rewards for {len(completions)} completions; {REMEDY}")
    for reward, completion in zip(rewards, completions, strict=True):
        number = None if reward is None else math.nan
        with contextlib.suppress(TypeError, ValueError, ArithmeticError, RuntimeError):
            number = float(reward) if isinstance(reward, SupportsFloat) else number
        if number is not None and not abs(number) < LARGEST:
            raise ValueError(f"{name} returned {reward!r} for {str(completion)[:200]!r}; {REMEDY}")
        numbers.append(number)
    return numbers


def check_columns(columns: Iterable[str]) -> None:
    """Refuse a dataset (ValueError) with columns whose names TRL takes for itself."""
    for name in sorted(TAKEN & set(columns)):
        raise ValueError(f"the dataset has a column {name!r}, a name that TRL takes for itself: rename that column")


def short_name(name: str) -> str:
    """A reward function's name as tables and figures show it: "strict_format_reward_func" → "strict format"."""
    return name.removesuffix("_reward_func").replace("_", " ")


def has_strict_format(text: str) -> bool:
    """Whether `text` is the requested layout and nothing else, every tag on its own line.

    One newline after the last tag is allowed, none is needed: a model usually ends its turn right after `</answer>`.
    """
    return count_xml(text) == 0.5 and _STRICT.fullmatch(text) is not None


def has_soft_format(text: str) -> bool:
    """Whether `text` is one reasoning block, then one answer block, with any white space around them."""
    return count_xml(text) == 0.5 and _SOFT.fullmatch(text) is not None


def final_answer(text: str) -> str:
    """The content of the answer block if `text` has exactly one and ends with it, else ""."""
    once = text.count("<answer>") == 1 and text.count("</answer>") == 1
    return extract_xml_answer(text) if once and text.rstrip().endswith("</answer>") else ""


def is_correct(text: str, answer: str) -> bool:
    """Whether the final answer of `text` is the number `answer` (if that is none, a ValueError): 1,000 = $1,000.0."""
    return same_number(final_answer(text), gold_text(answer))


def correctness_reward_func(completions: Sequence[Completion], answer: Sequence[str], **kwargs: Any) -> list[float]:
    """2.0 when the final answer equals the gold one as a number, else 0.0.

    A completion must end with its one answer block: a second one, or an afterthought, would be a bet on many answers.
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
