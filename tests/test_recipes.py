"""Recipes against the clock: each is what it says it is, evaluation is free, and each gets its best rate."""

import itertools
from types import SimpleNamespace

import pandas as pd
import pytest
from trl import GRPOConfig

from grpo_helpers import models
from grpo_helpers.lessons import grids
from grpo_helpers.profiles import ARTICLE, TINY
from record import recipes
from record.recipes import OURS, PUBLISHED, RATES, REPAIRED, TRL, Clock, learning_curve, recipe_trainer

QUICK = TINY.with_(batch=8, num_generations=4, max_completion_length=12, steps=3, eval_questions=4, eval_batch=4)


def trainer_of(name, folder):
    return recipe_trainer(name, QUICK, *models.load_policy(QUICK), str(folder), seed=7, rate=RATES[name][0])


def test_defaults_are_trls_whatever_the_profile_says(tmp_path):
    trainer, default = trainer_of(TRL, tmp_path), GRPOConfig.__dataclass_fields__
    for field in ("learning_rate", "num_generations", "per_device_train_batch_size", "beta", "max_grad_norm"):
        assert getattr(trainer.args, field) == default[field].default, field
    assert all(p.requires_grad for p in trainer.model.parameters())


@pytest.mark.parametrize("name", [REPAIRED, PUBLISHED])
def test_the_article_trains_as_it_says_on_its_twenty_questions(name, tmp_path):
    trainer = trainer_of(name, tmp_path)
    args = trainer.args
    assert len(trainer.train_dataset) == 20 and (args.seed, args.max_completion_length) == (7, 12)
    assert (args.learning_rate, args.num_generations, args.max_grad_norm) == (5e-6, 4, 0.1)
    assert args.per_device_train_batch_size * args.gradient_accumulation_steps == ARTICLE.prompts_per_step * 4
    assert {f.__name__.startswith("published") for f in trainer.reward_funcs} == {name == PUBLISHED}


def test_time_of_an_evaluation_does_not_count(monkeypatch):
    now = 0.0

    def work(seconds):
        nonlocal now
        now += seconds

    monkeypatch.setattr(grids, "time", SimpleNamespace(process_time=lambda: now))
    monkeypatch.setattr(Clock, "measure", lambda clock, model: work(0.2) or {"strict": 0.5})
    clock = Clock(QUICK, None, budget=0.1)
    clock.note(None, step=0)
    state, control = SimpleNamespace(global_step=0, max_steps=99), SimpleNamespace(should_training_stop=False)
    clock.on_train_begin(None, state, control)
    clock.due = 0.05  # the first step is followed by an evaluation
    for step in (1, 2):
        state.global_step = step
        work(0.06)
        clock.on_step_end(None, state, control)
        assert control.should_training_stop == (step == 2)
    assert [(row["step"], row["seconds"]) for row in clock.rows] == [(0, 0.0), (1, 0.06), (2, 0.12)]


@pytest.mark.trains
@pytest.mark.parametrize(("name", "budget", "steps"), [(OURS, float("inf"), 3), (PUBLISHED, 0.0, 1)])
def test_a_recipe_runs_to_its_end_or_until_the_budget_is_spent(name, budget, steps, monkeypatch):
    ticks = itertools.count(0, 0.01)  # on the machine's own clock a slow step would bring another row
    monkeypatch.setattr(grids, "time", SimpleNamespace(process_time=lambda: next(ticks)))
    curve = learning_curve(name, QUICK, seed=7, budget=budget)
    assert curve["step"].tolist() == [0, steps]
    assert curve["seconds"].iloc[0] == 0 < curve["seconds"].iloc[-1]
    assert set(curve["setting"]) == {name} and set(curve["rate"]) == {RATES[name][0]} and set(curve["seed"]) == {7}
    assert curve[["strict", "flexible", "format"]].stack().between(0, 1).all()


def test_the_best_rate_is_where_the_curve_ends_highest_and_a_tie_goes_to_the_first_which_is_the_recipes_own():
    own = {OURS: TINY.learning_rate, REPAIRED: ARTICLE.learning_rate, PUBLISHED: ARTICLE.learning_rate}
    assert {name: RATES[name][0] for name in own} == own
    ends = {name: (0.5, 0.5, 0.4) if name == TRL else (0.1, 0.2, 0.7) for name in RATES}
    rows = [
        (n, rate, x) for n, rates in RATES.items() for rate, end in zip(rates, ends[n], strict=True) for x in (0.9, end)
    ]
    best = recipes.best_rates(pd.DataFrame(rows, columns=["setting", "rate", "strict"]))
    assert best == {name: rates[0 if name == TRL else 2] for name, rates in RATES.items()}
