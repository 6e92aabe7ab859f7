"""The reward functions: TRL's call, layouts and golds outside of the suite that test_adversarial.py asks, any text."""

import math
import re
from decimal import Decimal
from fractions import Fraction
from functools import partial, wraps

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from trl.trainer.utils import get_callable_name, is_async_callable

from grpo_helpers.prompts import XML_COT_FORMAT
from grpo_helpers.rewards import (
    MAX_REWARD,
    REWARD_FUNCS,
    TAGS,
    completion_text,
    correctness_reward_func,
    has_soft_format,
    has_strict_format,
    is_async,
    is_correct,
    reward_names,
    usable,
)

from .test_prompts import hostile_texts, numbers

PERFECT = "<reasoning>\n6 * 12 = 72\n</reasoning>\n<answer>\n72\n</answer>"
ONE_LINE = "<reasoning>6 * 12 = 72</reasoning> <answer>72</answer>"
ALLOWED = [{0.0, 0.125, 0.25, 0.375, 0.5}, {0.0, 0.5}, {0.0, 0.5}, {0.0, 0.5}, {0.0, 2.0}]
# of xmlcount, soft format, strict format, int, correctness
SOFT = [0.5, 0.5, 0.0, 0.5, 2.0]


def call(func, completions, answers):
    """Call `func` as TRL's trainer does."""
    size = len(completions)
    asked = {"prompts": [[{"role": "user", "content": "6 * 12?"}]] * size, "question": ["6 * 12?"] * size}
    asked |= {"completion_ids": [[1, 2, 3]] * size, "trainer_state": None, "log_extra": None, "log_metric": None}
    return func(completions=completions, answer=answers, **asked)


def paid(text, answer="72"):
    """What each of REWARD_FUNCS pays."""
    return [call(func, [text], [answer])[0] for func in REWARD_FUNCS]


@pytest.mark.parametrize("func", REWARD_FUNCS)
def test_every_completion_is_scored_on_its_own_and_a_conversation_as_its_text(func):
    texts, golds = ["", PERFECT, ONE_LINE, "72"], ["1", "72", "73", "72"]
    values = call(func, texts, golds)
    assert [type(value) for value in values] == [float] * 4
    assert values == [call(func, [text], [gold])[0] for text, gold in zip(texts, golds, strict=True)]
    assert values == call(func, [[{"role": "assistant", "content": text}] for text in texts], golds)


SAID, ASKED = {"role": "assistant", "content": "hm"}, {"role": "user", "content": "?"}
PARTS = [{"type": "text", "text": "<answer>"}, {"type": "image"}, {"type": "text", "text": "72</answer>"}]


@pytest.mark.parametrize(
    ("completion", "text"),
    [
        ("hm", "hm"), ([], ""), ((SAID,), "hm"), ([ASKED], ""), ([SAID, ASKED, SAID | {"content": "oh"}], "oh"),
        ([SAID, {"role": "tool", "name": "calculator", "content": PERFECT}], "hm"),  # the policy did not say that
        ([SAID | {"content": None, "tool_calls": [{}]}], ""), ([SAID | {"content": PARTS}], "<answer>72</answer>"),
        ([{"role": "assistant", "tool_calls": [{}]}], ""), ([{"content": "hm"}], "hm"), (None, ""),
        ([SAID | {"content": [{"type": "text", "text": None}]}], ""),
    ],
)  # fmt: skip
def test_the_text_of_a_completion_is_what_the_assistant_said_last(completion, text):
    assert completion_text(completion) == text
    assert [call(func, [completion], ["72"]) for func in REWARD_FUNCS] == [[points] for points in paid(text)]


@pytest.mark.parametrize(
    ("text", "points"),
    [
        pytest.param("\n" + PERFECT, SOFT, id="newline before"),
        pytest.param(PERFECT + "\n\n", SOFT, id="two newlines after"),
        pytest.param(PERFECT.replace("<answer>\n", "<answer>"), SOFT, id="answer on the tag line"),
        pytest.param(PERFECT.replace("\n</reasoning>", "</reasoning>"), SOFT, id="closing tag not on its own line"),
        pytest.param(ONE_LINE.replace(" <", "\n\n\t<"), SOFT, id="much space between"),
        pytest.param(ONE_LINE.replace("> <", "><"), SOFT, id="no space between"),
        pytest.param(PERFECT.replace("<answer>", "so\n<answer>"), [0.5, 0, 0, 0.5, 2], id="text between the blocks"),
        pytest.param(PERFECT.replace("72\n</", "</"), [0.5, 0.5, 0, 0, 0], id="empty answer"),
        pytest.param("<answer>\n<reasoning>\nr\n</reasoning>\n72\n</answer>", [0.5, 0, 0, 0, 0], id="nested in answer"),
        pytest.param("<reasoning>\nr\n<answer>\n</reasoning>\n72\n</answer>", [0.5, 0, 0, 0, 0], id="overlapping"),
        pytest.param(PERFECT.replace("72\n</a", "71\n<answer>\n72\n</a"), [0.375, 0, 0, 0.5, 0], id="answer in answer"),
        pytest.param("< answer>72</ answer>", [0.0] * 5, id="spaces in the tags"),
        *(pytest.param(PERFECT.replace(t, ""), [0.375, 0, 0], id=f"no {t}") for t in TAGS),
        *(pytest.param(PERFECT.replace(t, t * 2), [0.375, 0, 0], id=f"two {t}") for t in TAGS),
    ],
)
def test_points_for_a_layout(text, points):
    assert paid(text)[: len(points)] == points


@pytest.mark.parametrize("gold", ["", "# 72", "72 apples", "6 * 12 = <<6*12=72>>72\n#### 72"])
def test_unreadable_gold_answer_raises_and_is_named(gold):
    with pytest.raises(ValueError, match=re.escape(repr(gold))):
        call(correctness_reward_func, [PERFECT, ""], ["72", gold])
    with pytest.raises(ValueError):
        call(correctness_reward_func, [PERFECT, PERFECT], ["72"])


@given(hostile_texts)
def test_no_text_raises_or_earns_an_unknown_value_and_the_rewards_agree(text):
    tags, soft, strict, number, correct = points = paid(text)
    assert all(value in allowed for value, allowed in zip(points, ALLOWED, strict=True))
    assert strict <= soft and (not soft or tags == 0.5) and (not correct or number)
    assert strict == 0.5 * has_strict_format(text) and soft == 0.5 * has_soft_format(text)


@given(numbers, st.text(min_size=1).filter(lambda t: not any(tag in t for tag in TAGS)))
def test_perfect_completion_scores_the_maximum_for_any_number(number, reasoning):
    for answer in (f"{number:f}", f"{number:,f}", f"${number:,f}"):
        assert sum(paid(XML_COT_FORMAT.format(reasoning=reasoning, answer=answer), f"{number:f}")) == MAX_REWARD


@given(numbers, numbers)
def test_wrong_number_is_never_correct(said, gold):
    text = XML_COT_FORMAT.format(reasoning="r", answer=f"{said:f}")
    assert is_correct(text, f"{gold:f}") == (said == gold)


@given(hostile_texts.filter(str.strip))
def test_anything_after_the_answer_block_takes_correctness_and_format_away(tail):
    assert paid(PERFECT + tail)[1:3] == [0.0, 0.0] and paid(PERFECT + tail)[4] == 0.0


@given(hostile_texts)
def test_text_before_the_answer_block_pays_only_without_a_second_block(head):
    assert is_correct(head + "<answer>72</answer>", "72") == ("<answer>" not in head and "</answer>" not in head)


MEGA = 1_000_000  # characters, for which a careless pattern takes hours


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("</answer>" * (10 * MEGA // 9), id="10 MB of closing tags"),
        pytest.param("<reasoning>\n" * (MEGA // 12), id="1 MB of opened reasoning"),
        pytest.param(PERFECT.replace("\n", "\n" * MEGA) + "x", id="newlines everywhere, every tag once"),
        pytest.param(PERFECT.replace("\n<answer>", " " * MEGA + "x<answer>"), id="spaces between the blocks"),
        pytest.param(PERFECT.replace("6 * 12", "\n</reasoning" * (MEGA // 12)), id="almost closed over and over"),
        pytest.param(PERFECT.replace("\n72\n", "1" + ",000" * (MEGA // 4) + "x"), id="groups of three, then a letter"),
        pytest.param(PERFECT.replace("\n72\n", "-" + "9" * (MEGA + 1)), id="minus a million digits"),
    ],
)
def test_megabytes_finish(text):
    assert all(value in allowed for value, allowed in zip(paid(text), ALLOWED, strict=True))


def mine(completions, pays=1.0, **kwargs):
    return [pays] * len(completions)


async def slow(completions, **kwargs):
    return mine(completions)


class Judge:
    def __call__(self, completions, **kwargs):
        return mine(completions)


class SlowJudge:
    async def __call__(self, completions, **kwargs):
        return mine(completions)


KINDS = [mine, slow, Judge(), SlowJudge(), partial(mine, pays=2.0), partial(partial(slow)), partial(SlowJudge())]
KINDS += [lambda completions, **kwargs: mine(completions), Judge().__call__, wraps(mine)(Judge())]


@pytest.mark.parametrize("reward_func", KINDS)
def test_name_and_kind_of_a_reward_are_those_that_trl_sees(reward_func):
    assert reward_names([reward_func]) == [get_callable_name(reward_func)]
    assert is_async(reward_func) == is_async_callable(reward_func)


TWO = ["a", "b"]


@pytest.mark.parametrize(
    ("returned", "rewards"),
    [
        ((1, None), [1.0, None]), ([None, None], [None, None]), ([True, False], [1.0, 0.0]), ([], []),
        (np.array([0.5, 1], dtype=np.float32), [0.5, 1.0]), (torch.ones(2, 1), [1.0, 1.0]),
        ([torch.tensor(1.0), np.int8(3)], [1.0, 3.0]), (pd.Series([1, 2]), [1.0, 2.0]),
        ([Decimal("1.5"), Fraction(1, 2)], [1.5, 0.5]), (map(float, [1, 2]), [1.0, 2.0]), ({1: 2}.values(), [2]),
    ],
)  # fmt: skip
def test_what_trl_takes_for_rewards_is_usable(returned, rewards):
    got = usable(returned, "mine", TWO[: len(rewards)])
    assert got == rewards and {type(reward) for reward in got} <= {float, type(None)}


@pytest.mark.parametrize(
    "returned",
    [
        None, 1.0, "ab", b"ab", {1: 0, 2: 0}, {1.0, 2.0}, mine, torch.tensor(1.0), ["1", "2"], [[1.0], [2.0]],
        np.ones((2, 2)), [1.0, math.nan], [math.inf, 1.0], [1.0, 1e39], [10**400, 1], [1.0, 2j], [1.0, {}], [1.0], [],
        [1.0] * 3, [1.0, Decimal("sNaN")], pd.DataFrame([[1, 2]]),
    ],
)  # fmt: skip
def test_what_is_no_list_of_numbers_is_refused_with_the_functions_name_the_value_and_the_remedy(returned):
    with pytest.raises(ValueError) as caught:
        usable(returned, "mine", TWO)
    assert str(caught.value).startswith("mine returned ") and "one finite float (or None) for each" in str(caught.value)
