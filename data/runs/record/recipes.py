"""Reward per minute: three other recipes beside this series', on the same policy, each at its own best learning rate.

The others are TRL's defaults, and the source article's with repaired and with published rewards. They get what is not
a matter of recipe from the profile: precision, and the longest completion. The article's ten steps are not their end:
learning goes on over its 20 questions at its full rate until the time is up. Time is the processor's, on one thread.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pandas as pd
import torch
from transformers import PrinterCallback
from trl import GRPOConfig, GRPOTrainer

from grpo_helpers import data, models, training
from grpo_helpers.lessons.flawed import PUBLISHED_REWARD_FUNCS
from grpo_helpers.lessons.grids import Watch
from grpo_helpers.profiles import ARTICLE, Profile
from grpo_helpers.rewards import REWARD_FUNCS

from .grid import LAB, SEEDS

OURS, TRL, REPAIRED, PUBLISHED = "this series", "TRL's defaults", "the article, repaired", "the article, as published"
# tried for each; the first is the recipe's own
RATES = {
    OURS: (2e-3, 6e-4, 6e-3),
    TRL: (1e-6, 2e-4, 1e-3),
    REPAIRED: (5e-6, 5e-4, 2e-3),
    PUBLISHED: (5e-6, 5e-4, 2e-3),
}
TRIED = 0.5  # of the budget, for each rate, with one seed
OF_THE_TASK = (
    *("model", "revision", "dtype", "task", "problem_steps", "system_prompt", "shots"),
    *("max_prompt_length", "max_completion_length", "checkpointing"),
)
OF_THE_MACHINE = (
    *("output_dir", "seed", "max_completion_length", "use_cpu", "fp16", "bf16", "activation_checkpointing"),
    *("dataloader_pin_memory", "logging_steps", "save_strategy", "report_to", "disable_tqdm"),
)


class Clock(Watch):
    """Asks at growing distances in time, and ends the run when `budget` seconds are spent."""

    def __init__(self, profile: Profile, tokenizer: Any, budget: float) -> None:
        super().__init__(profile, tokenizer, every=1)
        self.budget, self.due = budget, 4.0

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        seconds = self.seconds
        control.should_training_stop |= seconds >= self.budget
        if seconds >= self.due or control.should_training_stop or state.global_step == state.max_steps:
            self.note(model, seconds, step=state.global_step)
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


def learning_curve(
    name: str, profile: Profile, seed: int, rate: float | None = None, budget: float = float("inf")
) -> pd.DataFrame:
    """Train by one recipe for at most `budget` seconds.

    Args:
        rate: learning rate; None takes the recipe's own.

    Returns:
        A row for each evaluation: step, seconds, what `Watch` measures, setting (the recipe), rate, seed.
    """
    rate = rate or RATES[name][0]
    model, tokenizer = models.load_policy(profile)
    clock = Clock(profile, tokenizer, budget)
    clock.note(model, step=0)
    with tempfile.TemporaryDirectory() as folder:
        trainer = recipe_trainer(name, profile, model, tokenizer, folder, seed, rate)
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(clock)
        training.train_to_end(trainer)
    return pd.DataFrame(clock.rows).assign(setting=name, rate=rate, seed=seed)


def best_rates(tried: pd.DataFrame) -> dict[str, float]:
    """The learning rate of each recipe whose curve ends at the highest strict accuracy; of equals the recipe's own."""
    ends = tried.groupby(["setting", "rate"], sort=False)["strict"].last().unstack("rate")
    return {name: ends.loc[name, list(rates)].idxmax() for name, rates in RATES.items()}


def reward_per_minute(profile: Profile, seed: int) -> dict[str, pd.DataFrame]:
    """Held-out accuracy (greedy) against seconds of training, from the seeds `seed`, `seed` + 1 …

    Each recipe gets as long as this series' takes for the steps of a grid's cell, and the learning rate that was best
    of three in half that time. The same held-out questions choose and show.

    Returns:
        tried: `learning_curve` of each recipe at each rate, one seed; curves: those at the best rates, every seed.
    """
    profile = profile.with_(steps=LAB.STEPS, eval_questions=LAB.QUESTIONS)
    seeds = range(seed, seed + SEEDS)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), spawn, torch.set_num_threads, (1,)) as pool:

        def curves(jobs: Sequence[tuple]) -> pd.DataFrame:
            return pd.concat(pool.map(learning_curve, *zip(*jobs, strict=True)), ignore_index=True)

        ours = curves([(OURS, profile, s) for s in seeds])
        budget = float(ours.groupby("seed")["seconds"].last().median())
        part = TRIED * budget
        tried = curves([(name, profile, seed, rate, part) for name, rates in RATES.items() for rate in rates])
        best = best_rates(tried)
        shown = curves([(name, profile, s, rate, budget) for name, rate in best.items() for s in seeds])
    return {"tried": tried, "curves": shown}
