"""Replies to a task of one's own: each is paid by the columns of its own row."""

from __future__ import annotations

import pandas as pd
import pytest
from datasets import Dataset

from grpo_helpers.experiments import countdown
from grpo_helpers.lessons import own_task
from grpo_helpers.profiles import TINY

ROWS = Dataset.from_list([countdown.game((4, 7), 28, "4 * 7"), countdown.game((3, 9), 12, "3 + 9")])
REPLIES = [
    [(countdown.ideal_reply(ROWS[0]), False), ("28", True)],
    [(countdown.ideal_reply(ROWS[0]), False), ("", False)],
]


@pytest.fixture
def replies(monkeypatch):
    """The policy says REPLIES; what it was asked with is handed out."""
    asked = []

    def generate(model, tokenizer, prompts, limit, **sampling):
        asked.append((list(prompts), limit, sampling))
        return REPLIES

    monkeypatch.setattr(own_task, "generate_predictions", generate)
    return asked


def test_every_reply_is_judged_by_its_own_row(replies):
    table = own_task.scored_replies(None, None, ROWS, countdown.REWARD_FUNCS, 48, num_generations=2, seed=7)
    assert replies == [(ROWS["prompt"][:], 48, {"num_generations": 2, "seed": 7})]
    assert table["number"].tolist() == [0, 0, 1, 1] and table["truncated"].tolist() == [False, True, False, False]
    assert table["legal"].tolist() == [0.5, 0, 0, 0] and table["solved"].tolist() == [2.0, 0, 0, 0]
    pd.testing.assert_series_equal(table["total"], table["legal"] + table["solved"], check_names=False)


@pytest.mark.parametrize(
    ("returned", "said"), [([1.0], "1 rewards for 4"), ([float("nan")] * 4, "nan"), ("yes", "'yes'"), (None, "None")]
)
def test_a_reward_that_returns_nonsense_is_named(replies, returned, said):
    def my_reward_func(completions, **kwargs):
        return returned

    with pytest.raises(ValueError, match=f"my_reward_func returned.*{said}"):
        own_task.scored_replies(None, None, ROWS, [my_reward_func], 48)


def test_a_reward_that_raises_is_named(replies):
    def my_reward_func(completions, colour, **kwargs):
        return [0.0] * len(completions)

    with pytest.raises(ValueError, match="my_reward_func raised TypeError.*colour"):
        own_task.scored_replies(None, None, ROWS, [my_reward_func], 48)


@pytest.mark.trains
def test_the_recorded_experiment_runs_and_says_how_each_policy_played(monkeypatch):
    monkeypatch.setattr(countdown, "DEMONSTRATIONS", 4)
    monkeypatch.setattr(countdown, "EPOCHS", 1)
    tables = countdown.countdown(TINY.with_(steps=5, batch=16, eval_questions=6), seed=1)
    assert len(tables["history"]) == 5
    rates = tables["rates"]
    assert rates["policy"].tolist() == ["as shipped", "after warm-up", "after GRPO"] and set(rates["games"]) == {6}
    assert rates[list(countdown.VERDICTS)].sum(axis=1).tolist() == pytest.approx([1, 1, 1])
