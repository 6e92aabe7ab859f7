"""Probing: prompts as they are meant, replies paid by their own rows, rates and chances that can be counted by hand."""

import itertools
import math

import pandas as pd
import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from grpo_helpers import data, rewards
from grpo_helpers.lessons import probing
from grpo_helpers.profiles import get_profile
from grpo_helpers.rewards import MAX_REWARD, TAGS

from .cells import definitions

taught = definitions("02_prompts_and_data", "as_text", "signal_per_token", "tied_groups")


@pytest.fixture(scope="module")
def profile():
    return get_profile("tiny").with_(max_completion_length=32, eval_batch=64)


@pytest.fixture(scope="module")
def replies(profile, policy):
    chosen = {name: probing.variants()[name] for name in ("layout shown", "one example, a product")}
    return probing.ask_variants(profile, *policy, chosen, n=6, seed=3)


def test_variants_name_all_tags_or_none_and_their_examples_are_right_and_of_the_training_set():
    train, counts = {row["question"] for row in data.word_problem_rows("train")}, set()
    for name, variant in probing.variants().items():
        assert sum(tag in (variant.system_prompt or "") for tag in TAGS) in (0, 4), name
        counts.add(len(variant.shots))
        for question, reply in variant.shots:
            paid = [f(completions=[reply], answer=[reply.split("\n")[-2]])[0] for f in rewards.REWARD_FUNCS]
            assert question in train and sum(paid) == MAX_REWARD
    assert counts == {0, 1, 2}


def test_each_variant_is_asked_the_same_training_questions_and_none_that_it_was_shown(replies):
    per_variant = replies.groupby("variant")["question"].apply(list)
    assert per_variant.iloc[0] == per_variant.iloc[1] and len(set(per_variant.iloc[0])) == 6
    shown = {question for v in probing.variants().values() for question, _ in v.shots}
    assert not (shown | {row["question"] for row in data.word_problem_rows("test")}) & set(replies["question"])


def test_an_example_among_the_first_questions_is_passed_over(profile, policy):
    first, second = data.load_task(profile, "train", 2)["question"]
    shown = {"example": probing.PromptVariant(None, ((first, "72"),))}
    table = probing.ask_variants(profile, *policy, shown, n=1)
    assert table["question"].tolist() == [second]


def test_the_rows_hold_what_their_names_say(replies, profile):
    assert list(replies.index) == list(range(12))
    names = [rewards.short_name(f.__name__) for f in rewards.REWARD_FUNCS]
    for row in replies.to_dict("records"):
        assert all(row[tag] == (row["completion"].count(tag) == 1) for tag in TAGS)
        assert 1 <= row["tokens"] <= profile.max_completion_length
        assert not row["truncated"] or row["tokens"] == profile.max_completion_length
        paid = [f(completions=[row["completion"]], answer=[row["gold"]])[0] for f in rewards.REWARD_FUNCS]
        assert [row[name] for name in names] == paid and row["total"] == sum(paid)
        assert row["format"] == rewards.has_strict_format(row["completion"])
    costs = replies.groupby("variant")["prompt_tokens"].mean()
    assert costs["one example, a product"] > costs["layout shown"] > 20


def test_completions_of_a_question_stand_together_and_a_seed_repeats_them(profile, policy):
    questions = data.load_task(profile, "train", 3)
    first, again, other = (
        probing.sample_replies(profile, *policy, questions, num_generations=4, seed=s) for s in (1, 1, 2)
    )
    assert first["number"].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert first["question"].tolist() == [q for q in questions["question"] for _ in range(4)]
    pd.testing.assert_frame_equal(first, again)
    assert first["completion"].tolist() != other["completion"].tolist()


@pytest.mark.parametrize("n, why", [(0, "at least one"), (10_000, "but only 2000 training")])
def test_no_questions_and_more_than_there_are_are_refused_with_their_number(profile, policy, n, why):
    with pytest.raises(ValueError, match=f"n={n}.*{why}"):
        probing.ask_variants(profile, *policy, {"bare": probing.PromptVariant(None)}, n=n)


ROWS = Dataset.from_list([{"prompt": "a", "colour": "red"}, {"prompt": "b", "colour": "blue"}])


def names_colour(completions, colour, **kwargs):
    return [2.0 if c in text else 0.0 for text, c in zip(completions, colour, strict=True)]


def is_short(completions, **kwargs):
    return [0.5 if len(text) < 5 else 0.0 for text in completions]


@pytest.fixture
def asked(monkeypatch):
    """The policy says red, and then nothing; what it was asked with is handed out."""
    found = []

    def generate(model, tokenizer, prompts, limit, **sampling):
        found.append((list(prompts), limit, sampling))
        return [[("red", False), ("it is blue", True)], [("red", False), ("it is blue", False)]]

    monkeypatch.setattr(probing, "generate_predictions", generate)
    return found


def test_every_reply_is_judged_by_its_own_row(asked):
    table = probing.scored_replies(None, None, ROWS, [names_colour, is_short], 48, num_generations=2, seed=7)
    assert asked == [(["a", "b"], 48, {"num_generations": 2, "seed": 7})]
    assert table["number"].tolist() == [0, 0, 1, 1] and table["truncated"].tolist() == [False, True, False, False]
    assert table["names colour"].tolist() == [2, 0, 0, 2] and table["is short"].tolist() == [0.5, 0, 0.5, 0]
    assert table["total"].tolist() == [2.5, 0, 0.5, 2]


def test_a_reward_that_cannot_be_used_is_named(asked):
    def picky(completions, size, **kwargs):
        return [0.0] * len(completions)

    with pytest.raises(ValueError, match="picky raised TypeError.*size"):
        probing.scored_replies(None, None, ROWS, [picky], 48)


def test_rates_are_counts_over_n_in_the_order_given():
    table = pd.DataFrame({"variant": ["z"] * 4 + ["a"] * 4, "tokens": [5] * 8})
    table["prompt_tokens"] = [10, 20, 30, 40] + [7] * 4
    table["strict"] = [True, False, False, False] + [False] * 4
    table["flexible"] = [True, True, False, False] + [True] * 4
    table[["format", "truncated", *TAGS]] = False
    table["<answer>"] = [True, False, True, True] * 2
    rates = probing.measure_prompts(table)
    assert list(rates.index) == ["z", "a"] and rates["n"].tolist() == [4, 4]
    wanted = {"prompt_tokens": [25, 7], "strict": [0.25, 0], "flexible": [0.5, 1], "<answer>": [0.75] * 2}
    assert {name: rates[name].tolist() for name in wanted} == wanted
    for outcome in probing.OUTCOMES:
        assert (rates[f"{outcome}_low"] <= rates[outcome] + 1e-12).all()
        assert (rates[outcome] <= rates[f"{outcome}_high"] + 1e-12).all()
    assert taught.as_text(rates).loc["a", "right, flexible"] == "100 (51-100)"


def test_the_prompt_that_buys_most_is_neither_the_cheapest_nor_the_best():
    rows = {"silent": (0.0, 20), "long": (0.4, 300), "short": (0.2, 90)}
    rates = pd.DataFrame.from_dict(rows, orient="index", columns=["strict_low", "prompt_tokens"])
    bought = taught.signal_per_token(rates.assign(completion_tokens=20), group_size=8)
    assert bought.idxmax() == "short" and bought["silent"] == 0
    assert bought["short"] == pytest.approx(1000 * (1 - 0.8**8) / 110)


@given(st.lists(st.sampled_from([0.0, 0.125, 4.0]), max_size=7), st.integers(0, 7))
def test_the_chance_is_the_share_of_picks_that_are_tied(points, group_size):
    if not 1 <= group_size <= len(points):
        with pytest.raises(ValueError, match=f"groups of {group_size}; sample at least as many"):
            probing.tied_chance(points, group_size)
        return
    picks = list(itertools.combinations(points, group_size))
    wanted = sum(len(set(pick)) == 1 for pick in picks) / len(picks)
    assert probing.tied_chance(points, group_size) == pytest.approx(wanted)


def test_what_is_no_reward_has_no_chance_and_what_is_equal_but_for_rounding_is_a_tie():
    for rewards_of_a_group in ([1.0, 1.0, math.nan], [0.0, -math.inf]):
        with pytest.raises(ValueError, match="a reward that is a number"):
            probing.tied_chance(rewards_of_a_group, 2)
    assert probing.tied_chance([0.1 + 0.2, 0.3], 2) == 1.0


def test_shares_and_groups_made_by_hand():
    groups = [0, 0, 0, 0], [0, 4, 0, 4], [4, 4, 4, 4], [0, 0, 0, 0.125]
    table = pd.DataFrame([{"number": i, "total": r} for i, group in enumerate(groups) for r in group])
    assert probing.predicted_tied_share(table, 2) == pytest.approx((1 + 1 / 3 + 1 + 1 / 2) / 4)
    assert taught.tied_groups(table, 4, "total") == (2, 4)
    assert taught.tied_groups(table, 3, "total") == (3, 4)  # only the first three count
