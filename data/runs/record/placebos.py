"""Whole runs with rewards that lack what is supposed to work: the layout alone, a coin, and a constant."""

from __future__ import annotations

import pandas as pd

from grpo_helpers.lessons.grids import significant
from grpo_helpers.lessons.trials import rates, trial
from grpo_helpers.profiles import Profile

from .grid import LAB

PLACEBOS = ("layout only", "random", "constant")


def placebos(profile: Profile, seed: int) -> dict[str, pd.DataFrame]:
    """The profile's run once for each of PLACEBOS, from the same seed and with the same number of steps.

    Returns:
        rates: held-out rates of the untrained policy and of each trained one, greedy (`trials.rates`);
        history: the training log of all of them, with the column placebo.
    """
    runs = {}
    for name in PLACEBOS:
        paid = LAB.GRIDS["grid_placebo"][name]
        runs[name] = trial(profile, paid.rewards, seed, evaluate_before=not runs, **paid.changes)
    outcomes = {"before": runs[PLACEBOS[0]].before} | {name: run.after for name, run in runs.items()}
    history = {name: significant(run.history) for name, run in runs.items()}
    return {"rates": rates(outcomes), "history": pd.concat(history, names=["placebo"]).reset_index("placebo")}
