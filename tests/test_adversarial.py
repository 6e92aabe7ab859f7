"""The adversarial suite: its own soundness, and the rewards held to it."""

import pytest

from grpo_helpers import rewards
from grpo_helpers.lessons.adversarial import SUITE, left
from grpo_helpers.prompts import parse_number

from .cells import definitions

JUDGES = {
    "correct": rewards.correctness_reward_func, "number": rewards.int_reward_func,
    "soft": rewards.soft_format_reward_func, "strict": rewards.strict_format_reward_func,
}  # fmt: skip


def test_there_are_64_cases_of_their_own_and_paying_nobody_or_all_is_no_way_out():
    assert len(SUITE) == len({c.name for c in SUITE}) == len({(c.completion, c.gold) for c in SUITE}) == 64
    for verdict in JUDGES:
        assert 0.2 < sum(getattr(c, verdict) for c in SUITE) / len(SUITE) < 0.8, verdict


@pytest.mark.parametrize("case", SUITE, ids=lambda c: c.name)
def test_its_verdicts_do_not_contradict_each_other_and_the_rewards_of_the_series_agree_with_them(case):
    assert case.why.strip().endswith(".") and parse_number(case.gold) is not None
    assert case.strict <= case.soft <= (case.tags == 4) and case.correct <= case.number
    for verdict, judge in JUDGES.items():
        (reward,) = judge(prompts=["?"], completions=[case.completion], answer=[case.gold])
        assert (reward > 0) is getattr(case, verdict), verdict
    assert rewards.count_xml(case.completion) == 0.125 * case.tags


@pytest.mark.parametrize("paid", [0.0, 2.0, None])
def test_a_constant_reward_fails_all_of_one_kind(paid):
    table = left(lambda completions, **kwargs: [paid])
    assert set(table["deserves"]) == {"nothing" if paid else "pay"}
    assert len(table) == sum(c.correct is not bool(paid) for c in SUITE)


def test_an_exception_and_what_is_no_reward_are_named_beside_their_case():
    def chokes(completions, answer, **kwargs):
        return [2.0 * (float(completions[0].split("\n")[-2]) == float(answer[0]))]

    table = left(chokes).set_index("name")
    assert "as asked" not in table.index
    assert "ValueError" in table.loc["in words", "got"] and "IndexError" in table.loc["empty", "got"]
    for paid in ([1.0, 1.0], [float("nan")], None):
        assert left(lambda completions, paid=paid, **kwargs: paid)["got"].str.contains("returned").all()


def test_a_careless_pattern_does_not_take_hours():
    generous = definitions("03_reward_design", "generous_reward_func").generous_reward_func
    table = left(generous).set_index("name")
    assert table.loc["10 MB of opening tags", "got"].startswith("too slow: 10,485,760 characters")
