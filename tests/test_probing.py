"""Probing: prompts as they are meant, rates and chances that can be counted by hand, and no question used twice."""

import itertools
import json
import random

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo_helpers import data, models
from grpo_helpers.checks.notebook_02 import chance_of_a_pass, read_gold, silent_chance
from grpo_helpers.experiments import prompt_variants
from grpo_helpers.lessons import probing
from grpo_helpers.plotting import prompts as figures
from grpo_helpers.profiles import get_profile
from grpo_helpers.prompts import SYSTEM_PROMPT, XML_COT_FORMAT, extract_hash_answer, parse_number
from grpo_helpers.rewards import MAX_REWARD, TAGS
from grpo_helpers.statistics import pass_at_k

relaxed = settings(deadline=None, database=None)
GOOD = XML_COT_FORMAT.format(reasoning="6 * 12 = 72", answer="72")


@pytest.fixture(scope="module")
def profile():
    return get_profile("tiny").with_(max_completion_length=32, eval_batch=64)


@pytest.fixture(scope="module")
def policy(profile):
    return models.load_policy(profile)


@pytest.fixture(scope="module")
def replies(profile, policy):
    chosen = {name: probing.variants()[name] for name in ("layout shown", "one example, a product")}
    return probing.ask_variants(profile, *policy, chosen, n=6, seed=3)


def rewards_frame(*groups):
    rows = [{"number": number, "total": r} for number, group in enumerate(groups) for r in group]
    return pd.DataFrame(rows)


# The variants


def test_every_variant_names_all_tags_or_none_and_the_bare_one_asks_nothing():
    for name, variant in probing.variants().items():
        asked = variant.system_prompt or ""
        assert sum(tag in asked for tag in TAGS) in (0, 4), name
    assert probing.variants()["question only"] == probing.PromptVariant(None)


def test_the_examples_of_the_variants_are_right_and_from_the_training_set():
    train = {row["question"] for row in data.word_problem_rows("train")}
    counts = set()
    for variant in probing.variants().values():
        counts.add(len(variant.shots))
        for question, reply in variant.shots:
            assert question in train
            assert probing.reward_table([reply], [reply.split("\n")[-2]])["total"].item() == MAX_REWARD
    assert counts == {0, 1, 2}


def test_with_prompt_changes_the_prompt_and_nothing_else():
    before = data.word_problems("train", 3)
    after = probing.with_prompt(before, probing.PromptVariant("Be brief.", (("1 + 1?", "2"),)))
    assert after["question"] == before["question"] and after["answer"] == before["answer"]
    assert [m["role"] for m in after["prompt"][0]] == ["system", "user", "assistant", "user"]
    assert after["prompt"][2][-1]["content"] == before["question"][2]


# Sampling


def test_each_variant_is_asked_the_same_questions_and_none_that_it_was_shown(replies):
    per_variant = replies.groupby("variant")["question"].apply(list)
    assert per_variant.iloc[0] == per_variant.iloc[1] and len(set(per_variant.iloc[0])) == 6
    shown = {question for v in probing.variants().values() for question, _ in v.shots}
    assert not shown & set(replies["question"])


def test_no_question_comes_from_the_test_set(replies):
    assert not set(replies["question"]) & {row["question"] for row in data.word_problem_rows("test")}


def test_an_example_among_the_first_questions_is_passed_over(profile, policy):
    first, second = data.load_task(profile, "train", 2)["question"]
    shown = {"example": probing.PromptVariant(SYSTEM_PROMPT, ((first, GOOD),))}
    table = probing.ask_variants(profile, *policy, shown, n=1)
    assert table["question"].tolist() == [second]


def test_the_rows_hold_what_their_names_say(replies, profile, policy):
    _, tokenizer = policy
    assert list(replies.index) == list(range(12))
    for row in replies.to_dict("records"):
        assert all(row[tag] == (row["completion"].count(tag) == 1) for tag in TAGS)
        assert 1 <= row["tokens"] <= profile.max_completion_length
        assert not row["truncated"] or row["tokens"] == profile.max_completion_length
        assert row["total"] == probing.reward_table([row["completion"]], [row["gold"]])["total"].item()
    costs = replies.groupby("variant")["prompt_tokens"].mean()
    assert costs["one example, a product"] > costs["layout shown"] > 20


def test_completions_of_a_question_stand_together_and_a_seed_repeats_them(profile, policy):
    questions = data.load_task(profile, "train", 3)
    first, again, other = (
        probing.sample_replies(profile, *policy, questions, num_generations=4, seed=s) for s in (1, 1, 2)
    )
    assert first["number"].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    pd.testing.assert_frame_equal(first, again)
    assert first["completion"].tolist() != other["completion"].tolist()


@pytest.mark.parametrize("n, why", [(0, "at least one"), (-1, "at least one"), (10_000, "but only 2000 training")])
def test_no_questions_and_more_than_there_are_are_refused_with_their_number(profile, policy, n, why):
    with pytest.raises(ValueError, match=f"n={n}.*{why}"):
        probing.ask_variants(profile, *policy, {"bare": probing.PromptVariant(None)}, n=n)


# Rates


def hand_made(**columns):
    n = len(next(iter(columns.values())))
    defaults = {
        "variant": ["a"] * n,
        "prompt_tokens": [10] * n,
        "tokens": [5] * n,
        "strict": [False] * n,
        "flexible": [False] * n,
    }
    defaults |= {"format": [False] * n, "truncated": [False] * n} | {tag: [False] * n for tag in TAGS}
    return pd.DataFrame(defaults | columns)


def test_rates_are_counts_over_n_in_the_order_given():
    table = hand_made(
        variant=["z"] * 4 + ["a"] * 4,
        strict=[True, False, False, False] + [False] * 4,
        flexible=[True, True, False, False] + [True] * 4,
        prompt_tokens=[10, 20, 30, 40] + [7] * 4,
    )
    rates = probing.measure_prompts(table)
    assert list(rates.index) == ["z", "a"]
    assert rates["n"].tolist() == [4, 4] and rates["prompt_tokens"].tolist() == [25.0, 7.0]
    assert rates["strict"].tolist() == [0.25, 0.0] and rates["flexible"].tolist() == [0.5, 1.0]
    for outcome in probing.OUTCOMES:
        assert (rates[f"{outcome}_low"] <= rates[outcome] + 1e-12).all()
        assert (rates[outcome] <= rates[f"{outcome}_high"] + 1e-12).all()
    assert probing.rates_as_text(rates).loc["a", "right, flexible"].startswith("100 (")


def test_a_tag_counts_only_where_it_occurs_exactly_once():
    rates = probing.measure_prompts(hand_made(**{"<answer>": [True, False, True, True]}))
    assert rates["<answer>"].item() == 0.75 and rates["</answer>"].item() == 0.0


def rates_of(**low_and_tokens):
    rows = {
        name: {"strict_low": low, "prompt_tokens": tokens, "completion_tokens": 20}
        for name, (low, tokens) in low_and_tokens.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def test_the_prompt_that_buys_most_is_neither_the_cheapest_nor_the_best():
    bought = probing.signal_per_token(rates_of(silent=(0.0, 20), long=(0.4, 300), short=(0.2, 90)), group_size=8)
    assert bought.idxmax() == "short" and bought["silent"] == 0
    assert bought["short"] == pytest.approx(1000 * (1 - 0.8**8) / 110)


def test_two_tokens_fewer_do_not_make_up_for_half_the_answers():
    assert probing.signal_per_token(rates_of(half=(0.04, 66), whole=(0.08, 68)), group_size=8).idxmax() == "whole"


def test_without_a_single_right_answer_no_prompt_buys_anything():
    rates = probing.measure_prompts(hand_made(variant=["a", "b"]))
    assert (probing.signal_per_token(rates, group_size=8) == 0).all()


# Rewards and truncation


def test_the_reward_table_adds_up():
    table = probing.reward_table([GOOD, "no idea"], ["72", "72"])
    assert table["total"].tolist() == [MAX_REWARD, 0.0]
    assert table.drop(columns="total").sum(axis=1).tolist() == table["total"].tolist()


def test_the_reward_table_wants_a_gold_answer_for_each():
    with pytest.raises(ValueError, match="2 completions and 1 gold"):
        probing.reward_table([GOOD, GOOD], ["72"])


def test_cutting_a_perfect_completion_costs_everything_but_tags(policy):
    _, tokenizer = policy
    length = len(tokenizer(GOOD, add_special_tokens=False)["input_ids"])
    curve = probing.truncation_curve(tokenizer, [GOOD], ["72"], range(1, length + 3))
    assert curve["total"].iloc[-1] == curve["total"].iloc[length - 1] == MAX_REWARD
    assert curve["cut"].tolist() == [1.0] * (length - 1) + [0.0] * 3
    assert (curve["correctness"].iloc[: length - 1] == 0).all()
    assert curve["total"].iloc[0] < curve["total"].iloc[length // 2] <= 0.5


def test_a_limit_of_nothing_is_refused(policy):
    with pytest.raises(ValueError, match="limit of 0"):
        probing.truncation_curve(policy[1], [GOOD], ["72"], [0])


# Silent groups


@relaxed
@given(st.lists(st.sampled_from([0.0, 0.125, 4.0]), min_size=1, max_size=7), st.integers(1, 7))
def test_the_chance_is_the_share_of_picks_that_are_tied(rewards, group_size):
    if group_size > len(rewards):
        with pytest.raises(ValueError, match=f"sample at least {group_size}"):
            probing.silent_chance(rewards, group_size)
        return
    picks = list(itertools.combinations(rewards, group_size))
    wanted = sum(len(set(pick)) == 1 for pick in picks) / len(picks)
    assert probing.silent_chance(rewards, group_size) == pytest.approx(wanted)


def test_the_estimate_has_no_bias_and_the_plug_in_is_too_high():
    rng, values, weights, size = random.Random(0), [0.0, 0.5, 4.0], [0.6, 0.3, 0.1], 4
    truth = sum(w**size for w in weights)
    draws = [rng.choices(values, weights, k=8) for _ in range(20_000)]
    unbiased = sum(probing.silent_chance(d, size) for d in draws) / len(draws)
    plug_in = sum(probing.silent_chance(d, size, unbiased=False) for d in draws) / len(draws)
    assert unbiased == pytest.approx(truth, abs=0.01)
    assert plug_in > truth + 0.03


def test_chances_known_by_hand():
    assert probing.silent_chance([1.0, 1.0], 2) == 1.0
    assert probing.silent_chance([1.0, 0.0], 2) == 0.0
    assert probing.silent_chance([1.0, 0.0], 2, unbiased=False) == 0.5
    assert probing.silent_chance([1.0, 0.0], 8, unbiased=False) == 2 * 0.5**8
    assert probing.silent_chance([0.1 + 0.2, 0.3], 2) == 1.0  # equal but for rounding


@pytest.mark.parametrize("rewards, size", [([], 1), ([1.0], 0), ([1.0], -1)])
def test_no_rewards_or_no_group_is_refused(rewards, size):
    with pytest.raises(ValueError, match="at least one of each"):
        probing.silent_chance(rewards, size)


def test_shares_and_filter_on_questions_made_by_hand():
    table = rewards_frame([0, 0, 0, 0], [0, 4, 0, 4], [4, 4, 4, 4], [0, 0, 0, 0.125])
    assert probing.predicted_silent_share(table, 2) == pytest.approx((1 + 1 / 3 + 1 + 1 / 2) / 4)
    assert probing.silent_groups(table, 4) == (2, 4)
    assert probing.silent_groups(table, 3) == (3, 4)  # only the first three count
    assert probing.questions_with_signal(table, 2, at_most=0.5) == [1, 3]
    assert probing.questions_with_signal(table, 2, at_most=0.4) == [1]
    assert probing.questions_with_signal(rewards_frame([1, 1]), 2) == []


def test_groups_larger_than_what_was_sampled_are_refused():
    with pytest.raises(ValueError, match="2 completions, fewer than a group of 3"):
        probing.silent_groups(rewards_frame([0, 1], [0, 1, 1]), 3)


def test_prediction_agrees_with_groups_drawn_afresh():
    rng = random.Random(1)
    rates = [rng.random() ** 2 for _ in range(2000)]
    seen, fresh = (rewards_frame(*([float(rng.random() < p) for _ in range(k)] for p in rates)) for k in (16, 8))
    silent, groups = probing.silent_groups(fresh, 8)
    assert probing.predicted_silent_share(seen, 8) == pytest.approx(silent / groups, abs=0.03)


# Recorded runs


def write_run(folder, profile, shares, **changes):
    folder.mkdir(parents=True)
    recipe = profile.as_dict() | {"model": "data/tiny_policy"} | changes
    (folder / "run.json").write_text(json.dumps({"profile": recipe}))
    table = pd.DataFrame({"step": range(1, len(shares) + 1), "frac_reward_zero_std": shares})
    (folder / "history.csv").write_text(table.to_csv(index=False))


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    monkeypatch.setattr(probing, "DATA", tmp_path / "data")
    return tmp_path / "data" / "runs"


def test_recorded_shares_are_turned_into_counts_of_groups(recorded, tmp_path):
    profile = get_profile("tiny").with_(model=str(tmp_path / "data" / "tiny_policy"))
    write_run(recorded / "tiny-1", profile, [0.0, 0.25, 1.0])
    write_run(recorded / "tiny-2", profile, [0.5])
    found = probing.recorded_silent_share(profile, steps=2)
    assert found.to_dict("records") == [
        {"run": "tiny-1", "groups": 16, "silent": 2},
        {"run": "tiny-2", "groups": 8, "silent": 4},
    ]
    assert probing.recorded_silent_share(profile, steps=1, last=True)["silent"].tolist() == [8, 4]


@pytest.mark.parametrize("change", [{"temperature": 0.5}, {"num_generations": 4}, {"shots": ["+"]}, {"model": "other"}])
def test_a_run_of_another_recipe_is_not_compared(recorded, tmp_path, change):
    profile = get_profile("tiny").with_(model=str(tmp_path / "data" / "tiny_policy"))
    write_run(recorded / "tiny-1", profile, [0.0], **change)
    assert probing.recorded_silent_share(profile).empty


def test_without_recorded_runs_the_table_is_empty(recorded):
    found = probing.recorded_silent_share(get_profile("t4"))
    assert found.empty and list(found.columns) == ["run", "groups", "silent"]


# The experiment


def test_the_experiment_gives_tables_for_every_variant(monkeypatch):
    monkeypatch.setattr(prompt_variants, "QUESTIONS", 4)
    tables = prompt_variants.prompt_variants(get_profile("tiny").with_(max_completion_length=16), seed=0)
    assert tables["rates"]["variant"].tolist() == list(probing.variants())
    assert tables["rates"]["n"].tolist() == [4] * len(probing.variants())
    assert len(tables["completions"]) == 3 * len(probing.variants())
    read = pd.read_csv(pd.io.common.StringIO(tables["rates"].to_csv(index=False)))
    figure = figures.plot_variants(read.set_index("variant"))
    assert figure.axes[0].get_xlabel().startswith("per cent of 4 replies")


# Figures


def described(figure):
    assert figure.get_suptitle() or figure.axes[0].get_title()
    for ax in figure.axes:
        assert ax.get_xlabel()
    plt.close(figure)
    return figure


def test_every_figure_is_titled_and_labelled(policy):
    described(figures.plot_lengths({"prompts": [10, 20, 30], "completions": [5]}, {"prompts": 40, "completions": 5}))
    described(figures.plot_passes([0, 0, 1, 4], k=4))
    curve = probing.truncation_curve(policy[1], [GOOD], ["72"], [5, 50])
    described(figures.plot_truncation(curve))
    silent = pd.DataFrame(
        {
            "rewards": ["all", "all", "correctness"],
            "group_size": [2, 4, 2],
            "predicted": [0.3, 0.1, 0.8],
            "silent": [3, None, 10],
            "groups": [10, None, 10],
        }
    )
    described(figures.plot_silent(silent))


def test_the_pass_histogram_counts_every_question():
    figure = figures.plot_passes([0, 0, 1, 4, 2, 2], k=4)
    assert sum(bar.get_height() for bar in figure.axes[0].patches) == 6
    plt.close(figure)


# The exercises' checks


def said(check, function, capsys):
    check(function)
    return capsys.readouterr().out


def test_the_checks_of_notebook_02_tell_near_misses_from_solutions(capsys):
    keeps_commas = said(read_gold, lambda text: float(extract_hash_answer(text)), capsys)
    assert "raised ValueError" in keeps_commas
    first_mark = said(read_gold, lambda text: _number(text.split("####")[1]) if "####" in text else None, capsys)
    assert first_mark.startswith("Not yet: for hash marks twice")
    only_wrong = said(silent_chance, lambda p, group_size: (1 - p) ** group_size, capsys)
    assert only_wrong.startswith("Not yet: for p=0.5")
    plug_in = said(chance_of_a_pass, lambda n, c, k: 1 - (1 - c / n) ** k, capsys)
    assert plug_in.startswith("Not yet: for n=4, c=1, k=2")
    assert said(chance_of_a_pass, pass_at_k, capsys) == "Solved.\n"


@pytest.mark.parametrize("check", [read_gold, silent_chance, chance_of_a_pass])
def test_an_unsolved_exercise_is_told_what_is_missing(check, capsys):
    assert said(check, lambda *args: None, capsys).startswith("Not yet: for ")


def _number(text):
    number = parse_number(text)
    return None if number is None else float(number)
