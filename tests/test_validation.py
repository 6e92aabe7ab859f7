"""validate_rewards: silent on sound rewards, and every fault planted here is named with its remedy."""

import asyncio
import math
import re
from functools import partial

import pytest
import torch

from grpo_helpers.lessons import flawed
from grpo_helpers.lessons.validation import COLUMNS, attacks, growth, ideal_reply, shorten, validate_rewards
from grpo_helpers.rewards import REWARD_FUNCS, completion_text, correctness_reward_func

from .cells import definitions

CHAT = [{"role": "user", "content": "6 * 12?"}]
ROWS = [{"answer": gold, "prompt": CHAT} for gold in ("72", "-5", "1,000", "3.50", "9")]
taught = definitions("03_reward_design", "generous_reward_func", "patched_reward_func")


def checks(findings):
    return set(findings["check"])


def named(func, name="mine"):
    func.__name__ = name
    return func


def sound(completions, answer, **kwargs):
    return correctness_reward_func(completions=completions, answer=answer)


# --- sound rewards -----------------------------------------------------------------


@pytest.mark.parametrize("rows", [ROWS, ROWS[:1], [{"answer": "72", "prompt": "6 * 12?"}], [{"answer": "72"}]])
def test_the_rewards_of_the_series_pass(rows):
    findings = validate_rewards(REWARD_FUNCS, rows)
    assert findings.empty and list(findings.columns) == COLUMNS
    assert validate_rewards([taught.patched_reward_func], rows).empty


def silent_if_wrong(completions, answer, **kwargs):
    return [r or None for r in sound(completions, answer)]


def test_none_means_no_opinion():
    assert validate_rewards([silent_if_wrong], ROWS).empty


@pytest.mark.parametrize("sloppy", [False, True])
def test_another_task_with_another_layout(sloppy):
    rows = [{"prompt": "Paint it", "colour": c} for c in ("red", "green", "blue")]

    def colour_reward(completions, colour, **kwargs):
        pairs = zip(completions, colour, strict=True)
        return [1.0 if (c in t if sloppy else t == f"COLOUR: {c}") else 0.0 for t, c in pairs]

    findings = validate_rewards([colour_reward], rows, lambda row: f"COLOUR: {row['colour']}")
    assert checks(findings) == ({"adversarial replies"} if sloppy else set())


def test_an_attack_that_is_the_ideal_reply_is_no_attack():
    def exact(completions, word, **kwargs):
        return [1.0 if t == w else 0.0 for t, w in zip(completions, word, strict=True)]

    assert validate_rewards([exact], [{"word": "x"}, {"word": "abba"}], lambda row: row["word"]).empty
    row = {"answer": "72"}
    assert not any("wrong" in name for name in attacks(row, [row, dict(row)], ideal_reply))
    assert attacks(row, [row, {"answer": "5"}], ideal_reply)["a wrong answer"] == ideal_reply({"answer": "5"})


def test_rewards_are_asked_with_the_keywords_of_trl():
    seen = set()

    def curious(completions, **kwargs):
        seen.add(frozenset(kwargs))
        return sound(completions, kwargs["answer"])

    validate_rewards([curious], ROWS)
    assert seen == {frozenset(["prompts", "answer", "completion_ids", "trainer_state", "log_extra", "log_metric"])}


# --- faults ----------------------------------------------------------------------


def test_the_published_rewards_that_cannot_fire_are_named_and_wrong_answers_are_paid():
    findings = validate_rewards(flawed.PUBLISHED_REWARD_FUNCS, ROWS)
    silent = findings[findings["check"] == "can it fire?"]
    assert silent["reward"].tolist() == ["published_int_reward_func", "published_correctness_reward_func"]
    assert findings["found"].str.startswith("a wrong answer earns").any()


def test_a_farm_is_found_and_its_cost():
    findings = validate_rewards([taught.generous_reward_func], ROWS)
    assert findings["found"].str.contains("a bet on many answers").any()
    assert findings["completion"].str.len().max() == 70
    (cost,) = findings[findings["check"] == "cost"].itertuples()
    assert cost.reward == "generous_reward_func"
    exponent, seconds, size, predicted = map(float, re.findall(r"[\d.]+", cost.found.replace(",", "")))
    assert predicted == round(seconds * (1_000_000 / size) ** exponent), "not what the shown numbers give"


def test_a_gold_answer_that_cannot_be_matched_is_named_with_its_row():
    def text_only(completions, answer, **kwargs):
        said = [completion_text(c).split("<answer>\n")[-1].removesuffix("\n</answer>") for c in completions]
        return [1.0 if s == a and s.isdigit() else 0.0 for s, a in zip(said, answer, strict=True)]

    findings = validate_rewards([text_only], ROWS * 3)
    short = findings[findings["check"] == "ideal replies"]
    assert short["row"].tolist() == [1, 2, 3]
    assert "earns 0 of 1" in short["found"].iloc[0] and "9 rows in all" in short["found"].iloc[0]
    assert "1,000" in short["completion"].iloc[1]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (lambda completions: [math.nan] * len(completions), "returned nan"),
        (lambda completions: ["1"] * len(completions), "returned '1'"),
        (lambda completions: [1.0], "returned 1 rewards for 5"),
        (lambda completions: None, "returned None"),
        (lambda completions: 1 / 0 if len(completions) > 1 else None, "raised ZeroDivisionError"),
        (lambda completions: [1.0 / 0.0], "ZeroDivisionError"),
        (lambda completions: [1.0 for c in completions if re.search("<answer>", c)], "TypeError"),  # no conversations
    ],
)
def test_what_no_trainer_can_use_is_named(body, said):
    findings = validate_rewards([named(lambda completions, **kwargs: body(completions)), sound], ROWS)
    (row,) = findings.itertuples()
    assert row.check == "usable rewards" and row.reward == "mine" and said in row.found and row.remedy


def test_a_missing_kwargs_is_found_because_trl_passes_more_keywords():
    findings = validate_rewards([named(lambda completions, answer: [1.0] * len(answer))], ROWS)
    assert "TypeError" in findings["found"][0] and "**kwargs" in findings["remedy"][0]


def brittle(completions, answer, **kwargs):
    texts = [completion_text(c) for c in completions]
    return [r if t[0] else r for r, t in zip(sound(completions, answer), texts, strict=True)]


def nan_if_wrong(completions, answer, **kwargs):
    return [r or math.nan for r in sound(completions, answer)]


def short_of_breath(completions, answer, **kwargs):
    if any(len(completion_text(c)) > 3_000 for c in completions):
        raise RecursionError("too deep")
    return sound(completions, answer)


@pytest.mark.parametrize(
    ("reward_func", "said"),
    [(brittle, "nothing: brittle raised IndexError"), (nan_if_wrong, "returned nan"), (short_of_breath, "too deep")],
)
def test_a_reward_that_breaks_on_some_completions_only_is_found(reward_func, said):
    findings = validate_rewards([reward_func], ROWS)
    assert checks(findings) == {"usable rewards"} and findings["found"].str.contains(said).any()


def test_a_hostile_completion_of_ones_own_is_tried():
    def takes_bribes(completions, answer, **kwargs):
        texts = [completion_text(c) for c in completions]
        return [2.0 if "please" in t else r for t, r in zip(texts, sound(completions, answer), strict=True)]

    assert validate_rewards([takes_bribes], ROWS).empty
    findings = validate_rewards([takes_bribes], ROWS, hostile={"begging": "please"})
    assert findings["found"].tolist() == ["begging earns 2; full marks are 2 (1 of 3 rows tried)"]


@pytest.mark.parametrize(
    ("reward_funcs", "rows", "said"),
    [
        ([sound], [], "0 rows"), ([], ROWS, "0 reward functions"),
        (["some/reward-model"], ROWS, "reward model"), ([sound, torch.nn.Linear(1, 1)], ROWS, "reward model"),
        ([sound], [row | {"completions": "x"} for row in ROWS], "dataset has a column 'completions'"),
        ([sound], [row | {"log_metric": "x"} for row in ROWS], "dataset has a column 'log_metric'"),
    ],
)  # fmt: skip
def test_empty_input_reward_models_and_columns_that_are_trls_are_refused(reward_funcs, rows, said):
    with pytest.raises(ValueError, match=said):
        validate_rewards(reward_funcs, rows)


async def awaited(completions, answer, **kwargs):
    await asyncio.sleep(0)
    return sound(completions, answer)


class Judge:
    def __init__(self, pays=1.0):
        self.pays = pays

    def __call__(self, completions, answer, **kwargs):
        return [self.pays * (r or 0) for r in sound(completions, answer)]


class SlowJudge(Judge):
    async def __call__(self, completions, answer, **kwargs):
        return super().__call__(completions, answer)


def weighed(completions, answer, weight, **kwargs):
    return Judge(weight)(completions, answer)


@pytest.mark.parametrize(
    "reward_func", [awaited, Judge(), SlowJudge(), partial(weighed, weight=0.5), partial(awaited), partial(SlowJudge())]
)
@pytest.mark.parametrize("alone", [True, False])
def test_rewards_of_every_kind_that_trl_takes_are_tried(reward_func, alone):
    assert validate_rewards(reward_func if alone else [sound, reward_func], ROWS).empty


def test_rewards_of_every_kind_are_tried_where_a_loop_runs_already_as_in_a_notebook():
    async def cell():
        return validate_rewards([awaited], ROWS)

    assert asyncio.run(cell()).empty


async def awaited_farm(completions, answer, **kwargs):
    return [1.0] * len(completions)


def test_findings_bear_the_name_of_each_although_two_share_it():
    farms = [partial(flawed.published_int_reward_func), awaited_farm, partial(flawed.published_int_reward_func)]
    silent = validate_rewards(farms, ROWS)
    assert silent.loc[silent["check"] == "can it fire?", "reward"].tolist() == [
        "published_int_reward_func", "published_int_reward_func_2"
    ]  # fmt: skip
    assert "adversarial replies" in checks(silent)


def test_a_reward_that_has_no_opinion_on_anything_is_told_it_never_pays():
    silent = validate_rewards([sound, named(lambda completions, **kwargs: [None] * len(completions))], ROWS)
    assert silent[["check", "reward"]].to_numpy().tolist() == [["can it fire?", "mine"]]


@pytest.mark.parametrize("text", ["", "short", "x" * 60, "x" * 61, "a\r\nb" * 1000, "\n" * 10**6])
def test_shortened_texts_are_one_short_line(text):
    line = shorten(text)
    assert len(line) <= 60 and "\n" not in line and "\r" not in line
    assert len(text) > 60 or line == text


# --- cost ------------------------------------------------------------------------


def test_a_cost_that_shows_only_after_a_good_reply_is_found():
    def reads_on(completions, answer, **kwargs):
        for completion in completions:
            re.findall("<answer>.*?</answer>", completion_text(completion).partition("</answer>")[2], re.DOTALL)
        return sound(completions, answer)

    findings = validate_rewards([reads_on], ROWS)
    assert checks(findings) == {"cost"} and findings["completion"][0].startswith("<reasoning>")


def test_growth_tells_quadratic_from_linear():
    linear = growth(lambda t: [t.count("<a") for _ in range(200)], "<answer>" * 10_000)
    quadratic = growth(lambda t: re.findall("<answer>.*?</answer>", t, re.DOTALL), "<answer>" * 10_000)
    assert not linear.superlinear and quadratic.superlinear
    assert quadratic.predict(2 * quadratic.size) > 2.5 * quadratic.seconds
    assert growth(len, "x" * 100_000).exponent == growth(len, "").exponent == 1.0  # too fast to time
