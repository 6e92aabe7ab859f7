"""validate_rewards: silent on sound rewards, and every fault planted here is named with its remedy."""

import asyncio
import math
import re
from functools import partial

import pandas as pd
import pytest
import torch

from grpo_helpers.lessons import flawed
from grpo_helpers.lessons.validation import COLUMNS, attacks, ideal_reply, shorten, validate_rewards
from grpo_helpers.rewards import REMEDY, REWARD_FUNCS, completion_text
from grpo_helpers.rewards import correctness_reward_func as sound

from .cells import definitions

CHAT = [{"role": "user", "content": "6 * 12?"}]
ROWS = [{"answer": gold, "prompt": CHAT} for gold in ("72", "-5", "1,000", "3.50", "9")]
RAGGED = [{"answer": "72", "prompt": "6 * 12?", "note": "-"}, {"answer": "5", "prompt": "2 + 3?"}]
patched_reward_func = definitions("03_reward_design", "patched_reward_func").patched_reward_func


@pytest.mark.parametrize("rows", [ROWS, ROWS[:1], RAGGED, pd.DataFrame(RAGGED), [{"answer": "72"}]])
def test_the_rewards_of_the_series_pass(rows):
    findings = validate_rewards(REWARD_FUNCS, rows)
    assert findings.empty and list(findings.columns) == COLUMNS
    assert validate_rewards([patched_reward_func], rows).empty


def test_none_means_no_opinion_and_a_reward_without_any_is_told_it_never_pays():
    def silent_if_wrong(completions, answer, **kwargs):
        return [r or None for r in sound(completions, answer)]

    assert validate_rewards([silent_if_wrong], ROWS).empty
    (row,) = validate_rewards([sound, lambda completions, **kwargs: [None] * len(completions)], ROWS).itertuples()
    assert (row.check, row.reward) == ("can it fire?", "<lambda>")


@pytest.mark.parametrize("sloppy", [False, True])
def test_another_task_with_another_layout(sloppy):
    def colour_reward(completions, colour, **kwargs):
        pairs = zip(completions, colour, strict=True)
        return [1.0 if (c in t if sloppy else t == f"COLOUR: {c}") else 0.0 for t, c in pairs]

    rows = [{"prompt": "Paint it", "colour": c} for c in ("red", "green", "blue")]
    findings = validate_rewards([colour_reward], rows, lambda row: f"COLOUR: {row['colour']}")
    assert set(findings["check"]) == ({"adversarial replies"} if sloppy else set())


def test_an_attack_that_is_the_ideal_reply_is_no_attack():
    def exact(completions, word, **kwargs):
        return [1.0 if t == w else 0.0 for t, w in zip(completions, word, strict=True)]

    assert validate_rewards([exact], [{"word": "x"}, {"word": "abba"}], lambda row: row["word"]).empty
    row = {"answer": "72"}
    assert not any("wrong" in name for name in attacks(row, [row, dict(row)], ideal_reply))
    assert "the answer without the layout" in attacks({"answer": 72}, [], ideal_reply)
    with pytest.raises(ValueError, match="no answer; pass a `render`"):
        validate_rewards([exact], [{"word": "x"}])


def test_rewards_are_asked_with_the_keywords_of_trl():
    seen = set()

    def curious(completions, **kwargs):
        seen.add(frozenset(kwargs))
        return sound(completions, kwargs["answer"])

    validate_rewards([curious], ROWS)
    assert seen == {frozenset(["prompts", "answer", "completion_ids", "trainer_state", "log_extra", "log_metric"])}


def test_the_published_rewards_that_cannot_fire_are_named_and_wrong_answers_are_paid():
    findings = validate_rewards(flawed.PUBLISHED_REWARD_FUNCS, ROWS)
    silent = findings[findings["check"] == "can it fire?"]
    assert silent["reward"].tolist() == ["published_int_reward_func", "published_correctness_reward_func"]
    assert findings["found"].str.startswith("a wrong answer earns").any()


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
    ("unusable", "said"),
    [
        (lambda completions, **kwargs: [math.nan] * len(completions), "returned nan"),
        (lambda completions, **kwargs: [1.0], "returned 1 rewards for 5"),
        (lambda completions, **kwargs: 1 / 0 if len(completions) > 1 else None, "raised ZeroDivisionError"),
        # takes no conversations
        (lambda completions, **kwargs: [1.0 for c in completions if re.search("<answer>", c)], "TypeError"),
        (lambda completions, answer: [1.0] * len(answer), "TypeError"),  # TRL passes more keywords
    ],
)
def test_what_no_trainer_can_use_is_named(unusable, said):
    (row,) = validate_rewards([unusable, sound], ROWS).itertuples()
    assert (row.check, row.reward, row.remedy) == ("usable rewards", "<lambda>", REMEDY) and said in row.found


@pytest.mark.parametrize(
    ("mine", "said"),
    [
        (lambda text, points: points if text[0] else 0.0, "nothing: breaks raised IndexError"),
        (lambda text, points: points or math.nan, "returned nan"),
        (lambda text, points: points if len(text) < 3_000 else int("deep"), "raised ValueError.*deep"),
    ],
)
def test_a_reward_that_breaks_on_some_completions_only_is_found(mine, said):
    def breaks(completions, answer, **kwargs):
        return [mine(completion_text(c), p) for c, p in zip(completions, sound(completions, answer), strict=True)]

    findings = validate_rewards([breaks], ROWS)
    assert set(findings["check"]) == {"usable rewards"} and findings["found"].str.contains(said).any()


def test_a_hostile_completion_of_ones_own_is_tried():
    def takes_bribes(completions, answer, **kwargs):
        texts = [completion_text(c) for c in completions]
        return [2.0 if "please" in t else r for t, r in zip(texts, sound(completions, answer), strict=True)]

    assert validate_rewards([takes_bribes], ROWS).empty
    findings = validate_rewards([takes_bribes], ROWS, hostile={"begging": "please"})
    assert findings["found"].tolist() == ["begging earns 2; full marks are 2 (1 of 3 rows tried)"]


def test_empty_input_reward_models_and_columns_that_are_trls_are_refused():
    columns = [row | {"completions": "x"} for row in ROWS]
    refused = {"0 rows": ([sound], []), "0 reward functions": ([], ROWS), "column 'completions'": ([sound], columns)}
    refused |= {"reward model": ([sound, torch.nn.Linear(1, 1)], ROWS), "'org/model'": ("org/model", ROWS)}
    for said, asked in refused.items():
        with pytest.raises(ValueError, match=said):
            validate_rewards(*asked)


class SlowJudge:
    async def __call__(self, completions, answer, pays=1.0, **kwargs):
        await asyncio.sleep(0)
        return [pays * reward for reward in sound(completions, answer)]


@pytest.mark.parametrize("reward_func", [SlowJudge(), partial(SlowJudge(), pays=0.5), partial(sound)])
def test_rewards_of_every_kind_that_trl_takes_are_tried_also_where_a_loop_runs_already_as_in_a_notebook(reward_func):
    async def cell():
        return validate_rewards([sound, reward_func], ROWS)

    assert asyncio.run(cell()).empty and validate_rewards(reward_func, ROWS).empty


def test_findings_bear_the_name_of_each_although_two_share_it():
    async def farm(completions, answer, **kwargs):
        return [1.0] * len(completions)

    silent = partial(flawed.published_int_reward_func)
    findings = validate_rewards([silent, farm, partial(silent)], ROWS)
    names = findings.loc[findings["check"] == "can it fire?", "reward"].tolist()
    assert names == ["published_int_reward_func", "published_int_reward_func_2"]
    assert "adversarial replies" in set(findings["check"])


@pytest.mark.parametrize("text", ["short", "x" * 60, "x" * 61, "a\r\nb" * 1000])
def test_shortened_texts_are_one_short_line(text):
    line = shorten(text)
    assert len(line) <= 60 and "\n" not in line and "\r" not in line and (len(text) > 60 or line == text)


def test_a_cost_that_shows_only_after_a_good_reply_is_found():
    def reads_on(completions, answer, **kwargs):
        for completion in completions:
            re.findall("<answer>.*?</answer>", completion_text(completion).partition("</answer>")[2], re.DOTALL)
        return sound(completions, answer)

    findings = validate_rewards([reads_on], ROWS)
    assert set(findings["check"]) == {"cost"} and findings["completion"][0].startswith("<reasoning>")
