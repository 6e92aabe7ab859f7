"""The fair grid of notebook 08: every condition at its own best learning rate, judged by held-out accuracy.

A family of conditions is a record, and `fair_usual` the recipe that they are compared with, seed by seed. First comes a
search: each condition at three rates, at more where the best is the lowest or the highest, and the two best again from
another seed. Then the verdict: its best rate from five other seeds, on other questions. One that was stopped goes on
where it was, at the same commit, like a grid.

Families can be recorded side by side, each on a core of its own: `taskset -c 0 python data/runs/record fair_loss …`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from datasets import Dataset

from grpo_helpers import data
from grpo_helpers.fast.trainer import SharedPromptTrainer
from grpo_helpers.lessons.grids import USUAL, Setting, run_grid
from grpo_helpers.profiles import ALL_LINEAR, ATTENTION, Profile

from .grid import LAB, kept

ACCURACY = "flexible"  # right if the last number is, in whatever layout
RATES = (1e-3, 2e-3, 4e-3)  # tried first; of all weights, a tenth of them
BEYOND = 2  # times that the search goes on past its lowest or highest rate
SEEDS, FROM = 5, 100  # seeds of a verdict: seed, seed + 1 …; of the search: seed + 100, seed + 101
JUDGE, SEARCH = 300, 200  # held-out questions of the verdict, and those after them, of the search
POINTS = 3  # times that a run of the verdict is asked


class MixedFirst(SharedPromptTrainer):
    """Groups with right and wrong answers go into the loss first; the others only until there are eight."""

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, torch.Tensor]:
        batch = super()._generate_and_score_completions(inputs)
        right = torch.tensor(list(self._logs["rewards"]["correctness_reward_func"])).view(-1, self.num_generations)
        mixed = (right != right[:, :1]).any(dim=1)
        groups = mixed.int().argsort(descending=True, stable=True)[:8]
        rows = torch.arange(len(inputs)).view(right.shape)[groups].flatten()
        batch = {name: values[rows] if values.dim() else values for name, values in batch.items()}
        return batch | {"num_items_in_batch": batch["completion_mask"].sum()}


def easy_first(questions: Dataset, seed: int) -> Dataset:
    """As many questions as the usual run asks, drawn by the seed; those with the fewest calculations come first."""
    steps = {row["question"]: row["steps"] for row in data.word_problem_rows()}
    drawn = questions.shuffle(seed).select(range(LAB.STEPS * 8))
    return drawn.select(np.argsort([steps[question] for question in drawn["question"]], kind="stable"))


LORA = {"attention": ATTENTION, "all linear": ALL_LINEAR, "MLP": ALL_LINEAR[len(ATTENTION) :]}
HALF = {"batch": 32, "steps": 2 * LAB.STEPS}  # batches of four questions
UNDER_AGE = {  # what is done about completions that an earlier policy wrote
    "dapo": {},
    "cispo": {"loss_type": "cispo", "epsilon_high": 5.0},  # the cap of ScaleRL, arXiv 2510.13786
    "sapo": {"loss_type": "sapo"},
    "off-policy mask": {"off_policy_mask_threshold": 0.5},
}


def lora(rank: int, layers: str) -> Setting:
    return Setting({"lora_rank": rank, "lora_targets": LORA[layers]})


def old(updates: int) -> dict[str, Setting]:
    """Completions sampled at once for so many updates, so that the last is made with those of an older policy."""
    every = HALF | {"steps_per_generation": updates}
    return {f"for {updates} updates, {name}": Setting(every | changes) for name, changes in UNDER_AGE.items()}


FAMILIES: dict[str, dict[str, Setting]] = {
    "fair_usual": {"usual": USUAL},
    "fair_loss": {
        "grpo": Setting({"loss_type": "grpo"}),
        "dr_grpo": Setting({"loss_type": "dr_grpo"}),
        "luspo": Setting({"loss_type": "luspo", "importance_sampling_level": "sequence"}),
        "KL, beta 0.04": Setting({"beta": 0.04}),
    },
    "fair_scale": {
        "scaled by the batch": Setting({"scale_rewards": "batch"}),
        "not scaled": Setting({"scale_rewards": "none"}),
    },
    "fair_sampling": {
        "groups of 4": Setting({"num_generations": 4}),
        "groups of 16": Setting({"num_generations": 16}),
        "temperature 0.7": Setting({"temperature": 0.7}),
        "temperature 1.3": Setting({"temperature": 1.3}),
    },
    "fair_lora": {
        "rank 1, attention": lora(1, "attention"),
        "rank 32, attention": lora(32, "attention"),
        "rank 1, all linear": lora(1, "all linear"),
        "rank 8, all linear": lora(8, "all linear"),
        "rank 32, all linear": lora(32, "all linear"),
        "rank 8, MLP": lora(8, "MLP"),
        "all weights": Setting(adapter=False),
    },
    "fair_data": {  # as many completions sampled as usual, those of the probe among them
        "mixed questions, by a probe": Setting({"max_samples": 64, "steps": LAB.STEPS - 8}, mixed_only=True),
        "mixed groups first": Setting({"batch": 96, "steps": LAB.STEPS * 64 // 96}, trainer=MixedFirst),
        "easy first": Setting(order=easy_first),
    },
    "fair_placebo": {"layout only": Setting({"reward_weights": LAB.LAYOUT})},
    "fair_stale": {"half batches": Setting(HALF)} | old(16),
    "fair_stale_4": old(4),
}


def at(setting: Any, rate: float) -> Any:
    return setting._replace(changes=dict(setting.changes) | {"learning_rate": rate})


def counted(found: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """The curves of a grid with its cells; what a probe sampled is among the completions."""
    curves = found["curves"].merge(found["cells"], on=["setting", "seed"])
    return curves.assign(completions=curves["completions"] + curves["probe"])


def ends(curves: pd.DataFrame) -> pd.DataFrame:
    return curves.groupby(["setting", "seed"], sort=False).tail(1)


def tried(settings: Mapping[str, Any], rates: dict[str, list[float]], seeds: list[int], **how: Any) -> pd.DataFrame:
    """Each condition at its rates, from each seed: a row for each run, with its condition and its rate."""
    runs = {f"{label}, rate {rate:g}": (label, rate) for label in rates for rate in rates[label]}
    cells = {name: at(settings[label], rate) for name, (label, rate) in runs.items()}
    table = ends(counted(run_grid(cells, seeds=seeds, points=1, skip=JUDGE, **how)))
    labels, found = zip(*(runs[name] for name in table["setting"]), strict=True)
    return table.assign(setting=labels, rate=found)


def beyond(found: pd.Series) -> list[float]:
    """The rate to be tried next, if the best of these (accuracy by rate) is the lowest or the highest."""
    best = found.idxmax()
    return [2 * best] if best == found.index.max() else [best / 2] if best == found.index.min() else []


def widened(settings: Mapping[str, Any], rates: dict[str, list[float]], seeds: list[int], **how: Any) -> pd.DataFrame:
    """`tried`, and past the lowest or the highest rate of a condition while that is its best in the mean of seeds."""
    for more in range(BEYOND + 1):
        found = tried(settings, rates, seeds, **how)
        means = found.groupby(["setting", "rate"])[ACCURACY].mean().round(6)
        further = {label: beyond(means[label]) for label in rates}
        if more == BEYOND or not any(further.values()):
            break
        rates = {label: sorted(rates[label] + further[label]) for label in rates}
    return found


def search(settings: Mapping[str, Setting], seed: int, **how: Any) -> pd.DataFrame:
    """Three rates or more of each condition from one seed, and the two best from a second: a row for each run."""
    rates = {label: [r if s.adapter else r / 10 for r in RATES] for label, s in settings.items()}
    first = widened(settings, rates, [seed], **how)
    found = first.set_index("rate").groupby("setting")[ACCURACY]
    two = {label: sorted(found.get_group(label).nlargest(2).index) for label in settings}
    return pd.concat([first, tried(settings, two, [seed + 1], **how)], ignore_index=True)


def best_rates(searched: pd.DataFrame) -> dict[str, float]:
    """Of the rates that two seeds tried, the one with the higher mean; of equals the lower."""
    means = searched.groupby(["setting", "rate"])[ACCURACY].agg(["mean", "size"])
    means = means[means["size"] == 2]["mean"].round(6)
    return {label: own.droplevel("setting").idxmax() for label, own in means.groupby("setting")}


def fair(name: str, profile: Profile, seed: int) -> dict[str, pd.DataFrame]:
    """The family `name`.

    Returns:
        search: a row for each run of the search; runs: one for each of the verdict, at the condition's best rate, with
        the means of what `KEPT` logs during training; curves: the verdict's evaluations.
    """
    settings = FAMILIES[name]
    with kept(name, profile, seed) as keep:
        lab = profile.with_(steps=LAB.STEPS)
        searched = search(settings, seed + FROM, profile=lab.with_(eval_questions=SEARCH), keep=keep)
        rates = best_rates(searched)
        best = {label: at(setting, rates[label]) for label, setting in settings.items()}
        judged, seeds = lab.with_(eval_questions=JUDGE), range(seed, seed + SEEDS)
        found = run_grid(best, judged, seeds, keep=keep, points=POINTS)
    logged = found["history"].drop(columns="step").groupby(["setting", "seed"], sort=False).mean().round(4)
    curves = counted(found)
    runs = ends(curves).join(logged, on=["setting", "seed"])
    curves = curves[found["curves"].columns]
    return {"search": searched, "runs": runs.assign(rate=runs["setting"].map(rates)), "curves": curves}
