"""Reward per minute: three other recipes beside this series', on the same policy, each at its own best learning rate.

The others are TRL's defaults, and the source article's with repaired and with published rewards. They get what is not
a matter of recipe from the profile: precision, and the longest completion. The article's ten steps are not their end:
learning goes on over its 20 questions at its full rate until the time is up. Time is the processor's, on one thread.

Rates are searched, and recipes judged, as in `fair`, but every rate is tried from both seeds of the search. One that
was stopped goes on where it was, at the same commit.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import pandas as pd
import torch
from transformers import PrinterCallback
from trl import GRPOConfig, GRPOTrainer

from grpo_helpers import data, models, training
from grpo_helpers.lessons.flawed import PUBLISHED_REWARD_FUNCS
from grpo_helpers.lessons.grids import POINTS, Watch, run_grid
from grpo_helpers.profiles import ARTICLE, Profile
from grpo_helpers.rewards import REWARD_FUNCS

from .fair import FROM, JUDGE, SEARCH, SEEDS, at, best_rates, ends, tried, widened
from .grid import LAB, kept

OURS, TRL, REPAIRED, PUBLISHED = "this series", "TRL's defaults", "the article, repaired", "the article, as published"
RATES = {  # tried first
    OURS: [1e-3, 2e-3, 4e-3],
    TRL: [2.5e-5, 5e-5, 1e-4],  # of all weights
    REPAIRED: [5e-4, 1e-3, 2e-3],
    PUBLISHED: [5e-4, 1e-3, 2e-3],
}
# tried too, but far from the others, so that none of them lies at an edge for it
OWN = {TRL: [GRPOConfig.learning_rate], REPAIRED: [ARTICLE.learning_rate], PUBLISHED: [ARTICLE.learning_rate]}
OF_THE_TASK = (
    *("model", "revision", "dtype", "task", "problem_steps", "system_prompt", "shots"),
    *("max_prompt_length", "max_completion_length", "checkpointing"),
)
OF_THE_MACHINE = (
    *("output_dir", "seed", "max_completion_length", "use_cpu", "fp16", "bf16", "activation_checkpointing"),
    *("dataloader_pin_memory", "logging_steps", "save_strategy", "report_to", "disable_tqdm"),
)


class Recipe(NamedTuple):
    name: str
    budget: float = float("inf")  # seconds of training
    changes: Mapping[str, float] = {}  # its learning rate


class Clock(Watch):
    """Asks at growing distances in time from `due` on, and ends the run when `budget` seconds are spent."""

    def __init__(self, profile: Profile, tokenizer: Any, budget: float, due: float = 4.0, skip: int = 0) -> None:
        super().__init__(profile, tokenizer, every=1, skip=skip)
        self.budget, self.due = budget, due

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        seconds = self.seconds
        control.should_training_stop |= seconds >= self.budget
        if seconds >= self.due or control.should_training_stop or state.global_step == state.max_steps:
            batch = args.per_device_train_batch_size * args.gradient_accumulation_steps
            self.note(model, seconds, step=state.global_step, completions=state.global_step * batch)
            self.due = 1.2 * seconds + 4


def recipe_trainer(
    name: str, profile: Profile, model: Any, tokenizer: Any, folder: str, seed: int, rate: float
) -> GRPOTrainer:
    """The trainer of a recipe at a learning rate, on the policy and the task of `profile`."""
    article = name in (REPAIRED, PUBLISHED)
    questions = data.load_task(profile, "train", ARTICLE.max_samples if article else profile.max_samples)
    questions, _ = data.drop_long_prompts(questions, tokenizer, profile.max_prompt_length)
    if name == TRL:  # no adapters: by default every weight is trained
        same = training.grpo_config(profile, folder, seed, save_strategy="no")
        args = GRPOConfig(learning_rate=rate, **{field: getattr(same, field) for field in OF_THE_MACHINE})
        return GRPOTrainer(model, list(REWARD_FUNCS), args=args, train_dataset=questions, processing_class=tokenizer)
    rewards, schedule = PUBLISHED_REWARD_FUNCS if name == PUBLISHED else REWARD_FUNCS, {}
    if article:
        profile = ARTICLE.with_(**{field: getattr(profile, field) for field in OF_THE_TASK})
        schedule = {"max_steps": 100_000, "warmup_steps": 1, "lr_scheduler_type": "constant_with_warmup"}
    arguments = (profile.with_(learning_rate=rate), model, tokenizer, questions, folder, rewards, seed)
    return training.make_trainer(*arguments, doctor=False, save_strategy="no", **schedule)


def learning_curve(profile: Profile, recipe: Recipe, seed: int, points: int = POINTS, skip: int = 0) -> dict[str, Any]:
    """Train by a recipe until its budget is spent: rows of the tables of `run_grid`. One point: asked at the end."""
    torch.set_num_threads(1)
    model, tokenizer = models.load_policy(profile)
    clock = Clock(profile, tokenizer, recipe.budget, 4.0 if points > 1 else float("inf"), skip)
    clock.note(model, step=0, completions=0)
    with tempfile.TemporaryDirectory() as folder:
        trainer = recipe_trainer(recipe.name, profile, model, tokenizer, folder, seed, recipe.changes["learning_rate"])
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(clock)
        training.train_to_end(trainer)
    return {"curves": clock.rows, "history": [], "cells": [{"probe": 0}]}


def reward_per_minute(profile: Profile, seed: int) -> dict[str, pd.DataFrame]:
    """Held-out accuracy (greedy) against seconds of training: each recipe has what ours takes for a grid's cell.

    Returns:
        tried: a row for each run of the search; curves: the evaluations of each recipe at its best rate.
    """
    lab, two = profile.with_(steps=LAB.STEPS), [seed + FROM, seed + FROM + 1]
    with kept("reward_per_minute", profile, seed) as keep:
        how: dict[str, Any] = {"keep": keep, "run": learning_curve}
        judge = partial(run_grid, profile=lab.with_(eval_questions=JUDGE), seeds=range(seed, seed + SEEDS), **how)
        usual = judge({f"{OURS}, as usual": at(Recipe(OURS), profile.learning_rate)})["curves"]
        recipes = {name: Recipe(name, float(ends(usual)["seconds"].median())) for name in RATES}
        how["profile"] = lab.with_(eval_questions=SEARCH)
        searched = pd.concat([widened(recipes, RATES, two, **how), tried(recipes, OWN, two, **how)])
        rates = best_rates(searched)
        curves = judge({name: at(recipe, rates[name]) for name, recipe in recipes.items()})["curves"]
    columns = ["setting", "rate", "seed", "flexible", "strict", "worked", "seconds", "step"]
    return {"tried": searched[columns], "curves": curves.assign(rate=curves["setting"].map(rates))}
