"""The rewards that are wrong on purpose must be wrong in exactly the ways the lessons say."""

import pytest

from grpo_helpers import rewards
from grpo_helpers.lessons import adversarial, flawed
from grpo_helpers.lessons.adversarial import SUITE
from grpo_helpers.prompts import XML_COT_FORMAT

from .cells import definitions

GOOD = XML_COT_FORMAT.format(reasoning="6 * 12 = 72", answer="72")
WRONG = GOOD.replace("72", "18")
TWICE = f"{GOOD}\n<answer>\n73\n</answer>"


def score(func, text, gold="72"):
    (value,) = func(prompts=["?"], completions=[text], answer=[gold])
    return value


def test_the_published_readers_lose_the_answer_and_keep_a_sign():
    read, gold = flawed.published_extract_xml_answer, flawed.published_extract_hash_answer
    assert [read(text) for text in (GOOD, GOOD + "\n# 72", "72", "<answer>72")] == ["", "# 72", "", ""]
    texts = ("#### 72", "#### 3.5", "#### $1,000", "72", "### 72")
    assert list(map(gold, texts)) == ["# 72", "# 35", "# 1,000", "", ""]


def test_no_completion_in_the_layout_is_ever_paid_for_its_answer_and_the_one_way_to_be_paid_is_absurd():
    for gold in ("72", "-5", "3.5", "1,000"):
        text = XML_COT_FORMAT.format(reasoning="r", answer=gold)
        for reward in (flawed.published_correctness_reward_func, flawed.published_int_reward_func):
            assert score(reward, text, gold) == score(reward, text + "\n", gold) == 0.0
    assert score(flawed.published_correctness_reward_func, WRONG + "\n# 72") == 2.0
    assert score(flawed.published_int_reward_func, WRONG + "²") == 0.5
    table = adversarial.left(flawed.published_correctness_reward_func)
    assert (table["deserves"] == "pay").sum() == sum(c.correct for c in SUITE)


def test_the_published_formats_want_newlines_that_no_model_writes_and_take_what_follows():
    paid = [score(flawed.published_strict_format_reward_func, t) for t in (GOOD, f"\n{GOOD}\n", f"\n{GOOD}\n{GOOD}\n")]
    assert paid == [0.0, 0.5, 0.5]
    for text in (GOOD, GOOD + "\nNo, wait: 73.", TWICE, f"{GOOD}\n{GOOD}"):
        assert score(flawed.published_soft_format_reward_func, text) == 0.5


NAMES = [*(f.__name__ for f in rewards.REWARD_FUNCS), "generous_reward_func", "patched_reward_func"]
built = definitions("03_reward_design", *NAMES)


@pytest.mark.parametrize("name", NAMES[:-2])
def test_a_reward_built_in_the_notebook_pays_as_the_one_of_the_package(name):
    own, ours = getattr(built, name), getattr(rewards, name)
    for case in SUITE:
        chat = [{"role": "assistant", "content": case.completion}]
        paid = score(ours, case.completion, case.gold)
        assert score(own, case.completion, case.gold) == score(own, chat, case.gold) == paid, case.name


def test_the_generous_reward_prefers_a_bet_to_the_right_answer_and_has_no_upper_bound():
    paid = [score(built.generous_reward_func, text) for text in (GOOD, TWICE, WRONG, "<answer>" * 1000)]
    assert paid == [4.0, 5.0, 2.0, 500.0]


def test_the_patched_reward_pays_most_only_where_it_is_deserved():
    for case in (c for c in SUITE if len(c.completion) < 10**5):
        paid = score(built.patched_reward_func, case.completion, case.gold)
        assert paid == 2.0 * case.correct + 0.5 * case.tags, case.name
