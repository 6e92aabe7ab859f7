"""Any text at all, up to 100,000 characters of it: no reward raises or leaves its documented range."""

import math
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from grpo_helpers.lessons import flawed
from grpo_helpers.rewards import (
    REWARD_FUNCS,
    TAGS,
    correctness_reward_func,
    int_reward_func,
    soft_format_reward_func,
    strict_format_reward_func,
    xmlcount_reward_func,
)

LONGEST = 100_000
RANGES = {
    xmlcount_reward_func: (0.0, 0.5),
    soft_format_reward_func: (0.0, 0.5),
    strict_format_reward_func: (0.0, 0.5),
    int_reward_func: (0.0, 0.5),
    correctness_reward_func: (0.0, 2.0),
    flawed.patched_reward_func: (0.0, 4.0),
    flawed.published_xmlcount_reward_func: (0.0, 0.5),
    flawed.published_int_reward_func: (0.0, 0.5),
    flawed.published_correctness_reward_func: (0.0, 2.0),
}
relaxed = settings(deadline=None, database=None, max_examples=60)

pieces = st.one_of(st.sampled_from([*TAGS, "\n", " ", "72", "-", "$", ",000", ".", "</answer", "\0"]), st.text())


@st.composite
def long_texts(draw):
    """Pieces repeated and shuffled up to 100,000 characters, with a real reply somewhere in it, or not."""
    parts = draw(st.lists(pieces, min_size=1, max_size=8).filter(lambda p: any(p)))
    size = draw(st.integers(0, LONGEST))
    shuffle = random.Random(draw(st.integers(0, 2**32)))
    bulk = "".join(shuffle.choices(parts, k=min(size, 1 + size * len(parts) // sum(map(len, parts)))))[:size]
    reply = draw(st.sampled_from(["", "<reasoning>\nr\n</reasoning>\n<answer>\n72\n</answer>"]))
    cut = draw(st.integers(0, len(bulk)))
    return (bulk[:cut] + reply + bulk[cut:])[:LONGEST]


def test_every_reward_of_the_series_is_among_them():
    assert set(REWARD_FUNCS) <= set(RANGES)


@relaxed
@given(long_texts())
def test_long_texts_stay_within_the_documented_range(text):
    for func, (low, high) in RANGES.items():
        (reward,) = func(prompts=["?"], completions=[text], answer=["72"])
        assert type(reward) is float and math.isfinite(reward) and low <= reward <= high, func.__name__


@relaxed
@given(st.lists(long_texts(), max_size=4))
def test_a_batch_is_scored_as_its_completions_are_one_by_one(texts):
    for func in REWARD_FUNCS:
        golds = ["72"] * len(texts)
        alone = [func(completions=[t], answer=["72"])[0] for t in texts]
        assert func(completions=texts, answer=golds) == alone


@relaxed
@given(st.text(alphabet=st.characters(), max_size=300), st.integers(1, 300))
def test_any_unicode_repeated_is_in_range_too(text, times):
    for func, (low, high) in RANGES.items():
        (reward,) = func(completions=[(text * times)[:LONGEST]], answer=["72"])
        assert low <= reward <= high
