"""What the recorded runs of `tiny` show: it learns the layout and to think; placebos teach the layout, or nothing."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from grpo_helpers import plotting, records
from grpo_helpers.evaluation import RATES
from grpo_helpers.pretrained import fingerprint
from grpo_helpers.profiles import DATA, TINY
from grpo_helpers.training import WORKED

SEEDS = (1, 2, 3)


def facts(seed):
    return json.loads((DATA / "runs" / f"tiny-{seed}" / "run.json").read_text(encoding="utf-8"))


def rates(seed):
    """The greedy comparison: a row for each outcome."""
    table = pd.read_csv(DATA / "runs" / f"tiny-{seed}" / "comparison.csv")
    return table[table["temperature"] == 0].set_index("rate").rename({label: name for name, label in RATES.items()})


def placebo(seed):
    """Held-out rates (0 to 1): policy → outcome."""
    table = records.load("placebos", "tiny", seed)["rates"]
    assert (table["n"] == TINY.eval_questions).all()
    return table.pivot(index="policy", columns="outcome", values="rate")


@pytest.mark.parametrize("seed", SEEDS)
def test_a_recorded_run_is_of_this_recipe_and_these_weights(seed):
    run = facts(seed)
    assert run["weights_sha256"] == fingerprint(DATA / "tiny_policy")
    same = ("steps", "learning_rate", "batch", "num_generations", "max_completion_length", "eval_questions")
    assert all(run["profile"][field] == getattr(TINY, field) for field in same)
    assert run["profile"]["problem_steps"] == [1, 2, 3] and not run["commit"].endswith("-dirty")


@pytest.mark.parametrize("seed", SEEDS)
def test_strict_and_flexible_accuracy_rise_with_every_seed(seed):
    found = rates(seed)
    assert (found["n"] == 200).all()
    assert found.loc["strict", "before"] <= 0.25 and found.loc["strict", "after"] >= 0.75
    assert found.loc["flexible", "before"] <= 0.35 and found.loc["flexible", "after"] >= 0.75


@pytest.mark.parametrize("seed", SEEDS)
def test_it_learns_to_work_problems_out_and_its_replies_grow(seed):
    worked = rates(seed).loc["worked"]
    assert worked["before"] <= 0.3 and worked["after"] >= 0.9
    before, after = facts(seed)["results"]["tokens"]["0.0"]
    assert after >= 1.5 * before
    history = pd.read_csv(DATA / "runs" / f"tiny-{seed}" / "history.csv")
    length, share = history["completions/mean_length"], history[WORKED]
    assert length.tail(5).mean() >= 1.5 * length.head(5).mean()
    assert share.head(5).mean() <= 0.3 and share.tail(5).mean() >= 0.9


@pytest.mark.parametrize("seed", SEEDS)
def test_no_rate_falls_that_should_not(seed):
    found = rates(seed).drop(index="truncated")
    assert not ((found["after"] < found["before"]) & (found["p_value"] < 0.05)).any()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_reward_for_the_layout_alone_teaches_the_layout(seed):
    assert placebo(seed).loc["layout only", "format"] >= 0.95


def test_a_reward_for_the_layout_alone_teaches_at_most_a_quarter_of_the_answers():
    real = [rates(seed).loc["flexible", "after"] - rates(seed).loc["flexible", "before"] for seed in SEEDS]
    runs = [placebo(seed)["flexible"] for seed in SEEDS]
    gains = [run["layout only"] - run["before"] for run in runs]
    assert sum(gains) <= sum(real) / 4


@pytest.mark.parametrize("seed", SEEDS)
def test_a_constant_changes_nothing(seed):
    run = placebo(seed)
    pd.testing.assert_series_equal(run.loc["constant"], run.loc["before"], check_names=False)


def test_a_coin_teaches_nothing_on_average_and_is_not_inert():
    """Chance moves the policy as well, each time elsewhere: what it did with one seed says nothing of another."""
    runs = [placebo(seed) for seed in SEEDS]
    gains = [run.loc["random", "flexible"] - run.loc["before", "flexible"] for run in runs]
    assert sum(gains) / len(gains) <= 0.05
    assert [run.loc["random", "truncated"] > 0.9 for run in runs] == [True, False, True]
    assert [run.loc["random", "worked"] > 0.5 for run in runs] == [False, True, False]


def test_the_figure_of_a_run_begins_with_what_was_learned_and_marks_the_most_there_is():
    history = pd.read_csv(DATA / "runs" / "tiny-1" / "history.csv")
    panels = {ax.get_title(): ax for ax in plotting.plot_rewards(history).axes if ax.get_visible()}
    assert list(panels)[:3] == ["reward: correctness", "mean completion length", "completions with a calculation"]
    dashed = {
        name: [line.get_ydata()[0] for line in ax.lines if line.get_linestyle() == "--"] for name, ax in panels.items()
    }
    assert dashed["reward: correctness"] == [2.0] and dashed["total"] == [4.0] and dashed["reward: int"] == [0.5]
    assert dashed["mean completion length"] == []
    other = history.rename(columns={"rewards/int_reward_func/mean": "rewards/mine/mean"})
    assert not [line for line in plotting.plot_rewards(other).axes[3].lines if line.get_linestyle() == "--"]
