"""How many completions a step of `small` should have: what ten minutes of one core buy with each (decision 43).

Each number is tried at three learning rates, and its best again from a second seed. The rate follows the clock in place
of the steps: it rises for a twentieth of the time, and then falls along half a cosine. The last training questions are
kept back and asked at the end, so that no question of a table of results has a say.
"""

from __future__ import annotations

import math
import tempfile
from typing import Any

import pandas as pd
import torch

from grpo_helpers import data, models, training
from grpo_helpers.lessons.grids import Setting
from grpo_helpers.profiles import SMALL, Profile

from .fair import ACCURACY, tried
from .grid import kept
from .recipes import Clock

BUDGET = 600.0  # seconds of the processor, on one thread
RATES = [2e-4, 4e-4, 8e-4]
KEPT_BACK = 200  # questions
SETTINGS = {
    f"{questions * group}": Setting({"batch": questions * group, "num_generations": group})
    for questions, group in ((2, 8), (4, 7), (6, 8))
}


class ByTheClock(Clock):
    """Sets the learning rate by the share of the budget that is spent, too."""

    def on_step_begin(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any) -> None:
        spent = min(1.0, self.seconds / self.budget)
        for group in optimizer.param_groups:
            group["lr"] = args.learning_rate * min(1.0, 20 * spent) * (1 + math.cos(math.pi * spent)) / 2


def timed_cell(profile: Profile, setting: Setting, seed: int, points: int = 1, skip: int = 0) -> dict[str, Any]:
    """Train for BUDGET seconds, asked the questions kept back before and after: rows of the tables of `run_grid`."""
    torch.set_num_threads(1)
    profile = profile.with_(**setting.changes)
    model, tokenizer = models.load_policy(profile)
    questions = data.load_task(profile, "train", profile.max_samples)
    first = len(questions) - KEPT_BACK
    clock = ByTheClock(profile, tokenizer, BUDGET, due=math.inf)
    clock.held_out = questions.skip(first)
    clock.note(model, step=0, completions=0)
    with tempfile.TemporaryDirectory() as folder:
        how = {"doctor": False, "save_strategy": "no", "lr_scheduler_type": "constant", "max_steps": 10_000}
        how |= {"seed": seed, "callbacks": [clock]}
        trainer = training.make_trainer(profile, model, tokenizer, questions.take(first), folder, **how)
        training.train_to_end(trainer)
    return {"curves": clock.rows, "history": [], "cells": [{"probe": 0}]}


def ten_minutes(profile: Profile, seed: int) -> dict[str, pd.DataFrame]:
    """A row for each run: `setting` (completions a step), rate, seed, and what `Watch` measures of its policy."""
    if profile != SMALL:
        raise ValueError(f"profile {profile.name}: the rates are small's; use small")
    with kept("ten_minutes", profile, seed) as keep:
        how: dict[str, Any] = {"profile": profile, "keep": keep, "run": timed_cell}
        first = tried(SETTINGS, dict.fromkeys(SETTINGS, RATES), [seed], **how)
        best = first.loc[first.groupby("setting")[ACCURACY].idxmax()].set_index("setting")["rate"]
        again = tried(SETTINGS, {label: [best[label]] for label in SETTINGS}, [seed + 1], **how)
    columns = ["setting", "rate", "seed", "strict", "flexible", "worked", "tokens", "step", "completions", "seconds"]
    return {"runs": pd.concat([first, again])[columns]}
