"""Recipes against the clock: each is what it says it is, evaluation is free, and the lead is read off correctly."""

import itertools
import time
from types import SimpleNamespace

import pandas as pd
import pytest
from trl import GRPOConfig

from grpo_helpers import experiments, models
from grpo_helpers.experiments import recipes
from grpo_helpers.experiments.recipes import OURS, PUBLISHED, REPAIRED, TRL, Clock, lead, learning_curve, recipe_trainer
from grpo_helpers.profiles import ARTICLE, TINY

QUICK = TINY.with_(batch=8, num_generations=4, max_completion_length=12, steps=3, eval_questions=4, eval_batch=4)


def trainer_of(name, folder):
    model, tokenizer = models.load_policy(QUICK)
    return recipe_trainer(name, QUICK, model, tokenizer, str(folder), seed=7)


# --- the recipes ------------------------------------------------------------


@pytest.mark.parametrize("name", [OURS, TRL, REPAIRED, PUBLISHED])
def test_policy_task_and_length_are_the_profiles(name, tmp_path):
    trainer = trainer_of(name, tmp_path)
    args = trainer.args
    assert (args.seed, args.max_completion_length, args.bf16, args.save_strategy) == (7, 12, False, "no")
    assert trainer.model.config.hidden_size == models.load_policy(QUICK)[0].config.hidden_size
    assert trainer.train_dataset["prompt"][0][0]["content"] == QUICK.system_prompt


def test_defaults_are_trls_whatever_the_profile_says(tmp_path):
    trainer, default = trainer_of(TRL, tmp_path), GRPOConfig.__dataclass_fields__
    for field in ("learning_rate", "num_generations", "per_device_train_batch_size", "beta", "max_grad_norm"):
        assert getattr(trainer.args, field) == default[field].default, field
    assert all(p.requires_grad for p in trainer.model.parameters())


@pytest.mark.parametrize("name", [REPAIRED, PUBLISHED])
def test_the_article_trains_as_it_says_on_its_twenty_questions(name, tmp_path):
    trainer = trainer_of(name, tmp_path)
    args = trainer.args
    assert len(trainer.train_dataset) == 20
    assert (args.learning_rate, args.num_generations, args.max_grad_norm) == (5e-6, 4, 0.1)
    assert args.per_device_train_batch_size * args.gradient_accumulation_steps == ARTICLE.prompts_per_step * 4
    assert {f.__name__.startswith("published") for f in trainer.reward_funcs} == {name == PUBLISHED}


# --- the clock --------------------------------------------------------------


def test_time_of_an_evaluation_does_not_count():
    clock = Clock(lambda model: time.sleep(0.2) or {"strict": 0.5}, budget=0.1)
    clock.note(None, 0.0, step=0)
    state, control = SimpleNamespace(global_step=0, max_steps=99), SimpleNamespace(should_training_stop=False)
    clock.on_train_begin(None, state, control)
    for step in (1, 2):
        state.global_step = step
        time.sleep(0.06)
        clock.on_step_end(None, state, control)
        assert control.should_training_stop == (step == 2)
    assert [row["step"] for row in clock.rows] == [0, 2]
    assert 0.12 <= clock.rows[-1]["seconds"] < 0.25


@pytest.mark.parametrize(("name", "budget", "steps"), [(OURS, float("inf"), 3), (PUBLISHED, 0.0, 1)])
def test_a_recipe_runs_to_its_end_or_until_the_budget_is_spent(name, budget, steps, monkeypatch):
    ticks = itertools.count(0, 0.01)  # on the machine's own clock a slow step would bring another row
    monkeypatch.setattr(recipes, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    curve = learning_curve(name, QUICK, seed=7, budget=budget)
    assert curve["step"].tolist() == [0, steps]
    assert curve["seconds"].iloc[0] == 0 < curve["seconds"].iloc[-1]
    assert set(curve["recipe"]) == {name}
    assert curve[["strict", "flexible", "format"]].stack().between(0, 1).all()


def test_it_is_an_experiment():
    assert experiments.get_experiment("reward_per_minute") is recipes.reward_per_minute


# --- the lead ---------------------------------------------------------------


def curve(name, *points):
    return pd.DataFrame(
        [(name, seconds, strict) for seconds, strict in points], columns=["recipe", "seconds", "strict"]
    )


def test_lead_by_hand():
    ours = curve(OURS, (0, 0.1), (10, 0.5), (20, 0.4), (30, 0.8))
    other = curve(TRL, (0, 0.1), (30, 0.05), (60, 0.3), (90, 0.2), (120, 0.6))
    never = curve(PUBLISHED, (0, 0.1), (100, 0.1))
    better = curve(REPAIRED, (0, 0.1), (5, 0.9))
    table = lead(pd.concat([ours, other, never, better]))
    assert table[table["recipe"] == TRL][["accuracy", "seconds", "ours"]].to_numpy().tolist() == [
        [0.3, 60, 10],
        [0.6, 120, 30],
    ]
    assert table["ratio"].tolist()[:2] == pytest.approx([1 / 6, 1 / 4])
    assert PUBLISHED not in set(table["recipe"])
    assert table[table["recipe"] == REPAIRED]["ours"].isna().all()
