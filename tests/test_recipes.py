"""Recipes against the clock: each is what it says it is, evaluation is free, and each gets its best rate."""

import itertools
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
from trl import GRPOConfig

from grpo_helpers import models, training
from grpo_helpers.lessons import grids
from grpo_helpers.profiles import ARTICLE, TINY
from record import recipes, ten_minutes
from record.recipes import OURS, OWN, PUBLISHED, REPAIRED, TRL, Clock, Recipe, learning_curve, recipe_trainer

INF = float("inf")
QUICK = TINY.with_(batch=8, num_generations=4, max_completion_length=12, steps=3, eval_questions=4, eval_batch=4)


def trainer_of(name, folder):
    return recipe_trainer(name, QUICK, *models.load_policy(QUICK), str(folder), seed=7, rate=OWN[name][0])


def test_defaults_are_trls_whatever_the_profile_says(tmp_path):
    trainer, default = trainer_of(TRL, tmp_path), GRPOConfig.__dataclass_fields__
    for field in ("learning_rate", "num_generations", "per_device_train_batch_size", "beta", "max_grad_norm"):
        assert getattr(trainer.args, field) == default[field].default, field
    assert all(p.requires_grad for p in trainer.model.parameters())


@pytest.mark.parametrize("name", [REPAIRED, PUBLISHED])
def test_the_article_trains_as_it_says_on_its_twenty_questions(name, tmp_path):
    args = (trainer := trainer_of(name, tmp_path)).args
    assert len(trainer.train_dataset) == 20 and (args.seed, args.max_completion_length) == (7, 12)
    assert (args.learning_rate, args.num_generations, args.max_grad_norm) == (5e-6, 4, 0.1)
    assert args.per_device_train_batch_size * args.gradient_accumulation_steps == ARTICLE.prompts_per_step * 4
    assert {f.__name__.startswith("published") for f in trainer.reward_funcs} == {name == PUBLISHED}


ENDS = [(OURS, INF, 6, [0, 1, 2, 3]), (OURS, INF, 1, [0, 3]), (PUBLISHED, 6, 6, [0, 1, 2]), (PUBLISHED, 6, 1, [0, 2])]


@pytest.mark.trains
@pytest.mark.parametrize(("name", "budget", "points", "steps"), ENDS)
def test_a_recipe_runs_until_its_budget_is_spent_and_asking_is_free(name, budget, points, steps, monkeypatch):
    ticks, measure = itertools.count(0, 5), Clock.measure  # a step takes 5 seconds, an evaluation 500
    monkeypatch.setattr(grids, "time", SimpleNamespace(process_time=lambda: next(ticks)))
    monkeypatch.setattr(Clock, "measure", lambda *of: [*itertools.islice(ticks, 100)] and measure(*of))
    curve = pd.DataFrame(learning_curve(QUICK, Recipe(name, budget, {"learning_rate": 0.004}), 7, points)["curves"])
    assert curve["step"].tolist() == steps and curve["completions"].tolist() == [8 * step for step in steps]
    assert curve["seconds"].tolist() == [5 * step for step in steps]
    assert curve[["strict", "flexible", "format"]].stack().between(0, 1).all()


def test_rates_come_from_two_seeds_on_other_questions_and_the_published_one_is_no_edge(monkeypatch, tmp_path):
    best, asked = {OURS: 0.016, TRL: 1e-6, REPAIRED: 1e-3, PUBLISHED: 1e-3}, []

    def run(profile, recipe, seed, points, skip):  # no training
        rate = recipe.changes["learning_rate"]
        lucky = (recipe.name, rate, seed) == (PUBLISHED, 5e-4, 107)  # the search's second seed undeceives
        right = round(0.9 - abs(np.log2(rate / best[recipe.name])) / 20 + 0.08 * lucky, 4)
        asked.append((seed > 100, profile.eval_questions, skip, recipe.budget))
        row = {"step": 9, "completions": 72, "seconds": seed, "strict": 0.1, "worked": 0.2, "flexible": right}
        return {"curves": [row], "history": [], "cells": [{"probe": 0}]}

    monkeypatch.setenv("GRPO_OUTPUT", str(tmp_path))
    monkeypatch.setattr(grids, "ProcessPoolExecutor", lambda workers, *_: ThreadPoolExecutor(workers))
    monkeypatch.setattr(recipes, "learning_curve", run)
    tried, curves = recipes.reward_per_minute(TINY, 7).values()
    rates = {name: [*own.unique()] for name, own in tried.groupby("setting")["rate"]}
    assert rates[OURS] == [0.001, 0.002, 0.004, 0.008, 0.016]
    assert rates[TRL] == [6.25e-6, 1.25e-5, 2.5e-5, 5e-5, 1e-4, 1e-6]
    assert rates[REPAIRED] == rates[PUBLISHED] == [5e-4, 1e-3, 2e-3, 5e-6]
    assert len(tried) == 2 * sum(map(len, rates.values())) and {*tried["seed"]} == {107, 108}
    assert curves.groupby("setting")["rate"].first().to_dict() == best and {*curves["seed"]} == {*range(7, 12)}
    assert {*asked[:5]} == {(False, 300, 0, INF)}  # ours, whose median of seconds the others have
    assert {*asked[5:]} == {(True, 200, 300, 9), (False, 300, 0, 9)}


def test_ten_minutes_are_judged_by_other_questions_and_the_rate_follows_the_clock(monkeypatch):
    def make_trainer(profile, model, tokenizer, questions, folder, callbacks, **how):
        args = Mock(learning_rate=4, per_device_train_batch_size=profile.batch, gradient_accumulation_steps=1)
        return SimpleNamespace(clock=callbacks[0], args=args, asked={*questions["question"]})

    def train(trainer):
        adam, control = Mock(param_groups=[{}]), Mock(should_training_stop=False)
        for spent, rate, over in ((0, 0, False), (0.025, 2, False), (0.5, 2, False), (1, 0, True)):
            monkeypatch.setattr(Clock, "seconds", 600 * spent)
            trainer.clock.on_step_begin(trainer.args, None, control, optimizer=adam)
            trainer.clock.on_step_end(trainer.args, Mock(global_step=3, max_steps=9), control)
            assert adam.param_groups[0]["lr"] == pytest.approx(rate, abs=0.01) and control.should_training_stop is over
        assert len(trainer.clock.rows[-1]["held out"]) == 200 and not trainer.asked & trainer.clock.rows[-1]["held out"]

    monkeypatch.setattr(training, "make_trainer", make_trainer)
    monkeypatch.setattr(training, "train_to_end", train)
    monkeypatch.setattr(grids.Watch, "measure", lambda watch, model: {"held out": {*watch.held_out["question"]}})
    for name, setting in ten_minutes.SETTINGS.items():
        rows = ten_minutes.timed_cell(TINY, setting, seed=1)["curves"]
        assert [(row["step"], row["completions"]) for row in rows] == [(0, 0), (3, 3 * int(name))]
