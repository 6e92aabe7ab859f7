"""Reward per minute: four recipes train the same policy from the same seed, and the clock runs.

The recipes are this package's, TRL's defaults, and the source article's with
repaired and with published rewards. The last three get what is not a matter of
recipe from the profile: precision, and the longest completion. The article's
ten steps are not their end: learning goes on over its 20 questions at its full
learning rate until the time is up.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from typing import Any

import pandas as pd
from transformers import PrinterCallback
from trl import GRPOConfig, GRPOTrainer

from .. import data, models, training
from ..flawed import PUBLISHED_REWARD_FUNCS
from ..profiles import ARTICLE, Profile
from ..rewards import REWARD_FUNCS
from .held_out import HeldOut, Measure, held_out_rates

OURS, TRL, REPAIRED, PUBLISHED = "this series", "TRL's defaults", "the article, repaired", "the article, as published"
BUDGET = 1.5  # times the seconds that our recipe takes to its end
OF_THE_TASK = (
    *("model", "revision", "dtype", "task", "problem_steps", "system_prompt", "shots"),
    *("max_prompt_length", "max_completion_length", "checkpointing"),
)
OF_THE_MACHINE = (
    *("output_dir", "seed", "max_completion_length", "use_cpu", "fp16", "bf16", "activation_checkpointing"),
    *("dataloader_pin_memory", "logging_steps", "save_strategy", "report_to", "disable_tqdm"),
)


class Clock(HeldOut):
    """Asks at growing distances in time, and ends the run when `budget` seconds are spent."""

    def __init__(self, measure: Measure, budget: float) -> None:
        super().__init__(measure, time.perf_counter)
        self.budget, self.due = budget, 4.0

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        seconds = self.seconds
        control.should_training_stop |= seconds >= self.budget
        if seconds >= self.due or control.should_training_stop or state.global_step == state.max_steps:
            self.note(model, seconds, step=state.global_step)
            self.due = 1.2 * seconds + 4


def recipe_trainer(name: str, profile: Profile, model: Any, tokenizer: Any, folder: str, seed: int) -> GRPOTrainer:
    """The trainer of a recipe, on the policy and the task of `profile`."""
    article = name in (REPAIRED, PUBLISHED)
    questions = data.load_task(profile, "train", ARTICLE.max_samples if article else profile.max_samples)
    questions, _ = data.drop_long_prompts(questions, tokenizer, profile.max_prompt_length)
    if name == TRL:  # no adapters: by default every weight is trained
        same = training.grpo_config(profile, folder, seed, save_strategy="no")
        args = GRPOConfig(**{field: getattr(same, field) for field in OF_THE_MACHINE})
        return GRPOTrainer(model, list(REWARD_FUNCS), args=args, train_dataset=questions, processing_class=tokenizer)
    rewards, schedule = PUBLISHED_REWARD_FUNCS if name == PUBLISHED else REWARD_FUNCS, {}
    if article:
        profile = replace(ARTICLE, **{field: getattr(profile, field) for field in OF_THE_TASK})
        schedule = {"max_steps": 100_000, "warmup_steps": 1, "lr_scheduler_type": "constant_with_warmup"}
    arguments = (profile, model, tokenizer, questions, folder, rewards, seed)
    return training.make_trainer(*arguments, doctor=False, save_strategy="no", **schedule)


def learning_curve(name: str, profile: Profile, seed: int, budget: float = float("inf")) -> pd.DataFrame:
    """Train by one recipe for at most `budget` seconds: rows of step, seconds, strict, flexible, format (0 to 1)."""
    model, tokenizer = models.load_policy(profile)
    clock = Clock(held_out_rates(profile, tokenizer), budget)
    clock.note(model, 0.0, step=0)
    with tempfile.TemporaryDirectory() as folder:
        trainer = recipe_trainer(name, profile, model, tokenizer, folder, seed)
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(clock)
        training.train_to_end(trainer)
    return pd.DataFrame(clock.rows).assign(recipe=name)


def reward_per_minute(profile: Profile, seed: int) -> dict[str, pd.DataFrame]:
    """Held-out accuracy (greedy) against seconds of training, the recipes one after another on this machine.

    Returns:
        curves: `learning_curve` of each recipe; lead: `lead` of them.
    """
    curves = [learning_curve(OURS, profile, seed)]
    budget = BUDGET * curves[0]["seconds"].iloc[-1]
    curves = pd.concat(curves + [learning_curve(name, profile, seed, budget) for name in (TRL, REPAIRED, PUBLISHED)])
    return {"curves": curves, "lead": lead(curves)}


def lead(curves: pd.DataFrame, rate: str = "strict") -> pd.DataFrame:
    """How much sooner our recipe reaches what another one reaches: a row for each new best accuracy of another.

    Columns: recipe, accuracy (0 to 1), seconds, ours (seconds; NaN: never reached), ratio (ours to theirs).
    """
    ours = curves[curves["recipe"] == OURS]
    rows = []
    for name, curve in curves[curves["recipe"] != OURS].groupby("recipe", sort=False):
        best = curve[rate].cummax()
        for seconds, accuracy in curve.loc[best > best.shift(fill_value=best.iloc[0]), ["seconds", rate]].to_numpy():
            soonest = ours.loc[ours[rate] >= accuracy, "seconds"].min()
            rows.append((name, accuracy, seconds, soonest, soonest / seconds))
    return pd.DataFrame(rows, columns=["recipe", "accuracy", "seconds", "ours", "ratio"])
