"""How far must an adapter move for the layout to be learned? A GPU profile's step on SmolLM2, at several rates.

    python data/runs/record ladder --profile t4 --seed 1

The optimiser, the adapter and the number of completions are the profile's, the policy and the word problems are those
of `small`. The rate is constant, so that each step along a run also tells how a run of so many steps would end.
"""

from __future__ import annotations

import tempfile
from typing import Any

import pandas as pd
import torch
from peft.tuners.lora import LoraLayer

from grpo_helpers import data, models, records, training
from grpo_helpers.lessons.grids import Watch, significant
from grpo_helpers.profiles import ALL_LINEAR, ATTENTION, SMALL, Profile

SETTINGS = {
    f"{name}, {rate:g}": {"lora_targets": targets, "learning_rate": rate}
    for name, targets in {"attention": ATTENTION, "all linear": ALL_LINEAR}.items()
    for rate in (2e-5, 5e-5, 1e-4, 3e-4, 1e-3)
}
SEEDS, STEPS, QUESTIONS = 3, 40, 100
TAKEN = ("model", "revision", "task", "problem_steps", "shots", "max_completion_length")
AT = (5, 10, 15, 25, 40)  # steps after which the held-out questions are asked
KEPT = ("step", "reward", "reward_std", "grad_norm", "entropy", "frac_reward_zero_std", "completions/mean_length")


@torch.no_grad()
def moved(model: torch.nn.Module) -> float:
    """How large the adapters' change of the weights is beside the weights: a ratio of Frobenius norms."""
    change = weight = 0.0
    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            change += sum(float(layer.get_delta_weight(name).float().square().sum()) for name in layer.active_adapters)
            weight += float(layer.get_base_layer().weight.float().square().sum())
    return (change / weight) ** 0.5 if weight else 0.0


class Rungs(Watch):
    """Asks after the steps AT; beside what is measured, how far the policy has moved."""

    measured = ("strict", "flexible", "format", "worked", "truncated", "tokens")

    def measure(self, model: Any) -> dict[str, float]:
        return {"moved": moved(model)} | super().measure(model)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if state.global_step in AT:
            self.note(model, step=state.global_step)


def climb(profile: Profile, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One run: what is measured along it, and its history."""
    model, tokenizer = models.load_policy(profile)
    questions, _ = data.drop_long_prompts(data.load_task(profile, "train"), tokenizer, profile.max_prompt_length)
    rungs = Rungs(profile, tokenizer, every=1)
    rungs.note(model, step=0)
    with tempfile.TemporaryDirectory() as folder:
        settings = {"seed": seed, "callbacks": [rungs], "doctor": False, "save_strategy": "no"}
        trainer = training.make_trainer(profile, model, tokenizer, questions, folder, **settings)
        training.train_to_end(trainer)
    return pd.DataFrame(rungs.rows).drop(columns="seconds"), records.history(trainer).reindex(columns=KEPT)


def here(profile: Profile) -> Profile:
    """The profile's step on the policy and the problems of `small`, at a constant rate, without recomputing."""
    changes: dict[str, Any] = {name: getattr(SMALL, name) for name in TAKEN}
    changes |= {"batch": profile.batch * profile.accumulation, "accumulation": 1, "checkpointing": False}
    changes |= {"steps": STEPS, "save_steps": STEPS, "lr_scheduler": "constant", "warmup_steps": 0}
    return profile.with_(**changes, eval_questions=QUESTIONS, eval_batch=QUESTIONS)


def ladder(profile: Profile, seed: int) -> dict[str, pd.DataFrame]:
    """Every setting from the seeds `seed`, `seed` + 1 …

    Returns:
        curves: setting, seed, step, moved (see `moved`), held-out rates (greedy) and tokens; history: the training log.
    """
    curves, histories = [], []
    for number in range(seed, seed + SEEDS):
        for setting, changes in SETTINGS.items():
            rows, history = climb(here(profile).with_(**changes), number)
            curves.append(rows.assign(setting=setting, seed=number))
            histories.append(significant(history).assign(setting=setting, seed=number))
    return {
        "curves": significant(pd.concat(curves).set_index(["setting", "seed"]), 4).reset_index(),
        "history": pd.concat(histories),
    }
