"""Patient G of notebook 07, right answers paid as well, under an entropy bonus of several sizes, for notebook 08."""

from __future__ import annotations

import pandas as pd

from grpo_helpers.lessons.grids import Setting, run_cell
from grpo_helpers.profiles import Profile
from grpo_helpers.rewards import correctness_reward_func as correctness

from .grid import LAB, SEEDS
from .sick_runs import BATCH, CASES, shown

BONUS = (0.0, 0.03, 0.1, 0.3)  # TRL's entropy_coef, in reward per nat
POINTS = 6


def entropy_bonus(profile: Profile, seed: int) -> dict[str, pd.DataFrame]:
    """The patient's run from the seeds `seed`, `seed` + 1 …, under each bonus; one after the other in this process.

    `run_grid` would send the reward to others, and a notebook's function cannot be sent.

    Returns:
        curves: what `Watch` measures along each run; history: what is logged. Both with the columns bonus and seed.
    """
    ill = profile.with_(steps=CASES["sick_collapsed"].changes["steps"], batch=BATCH, eval_questions=LAB.QUESTIONS)
    found: dict[str, list[dict]] = {"curves": [], "history": []}
    for bonus in BONUS:
        setting = Setting({"entropy_coef": bonus}, (shown.agreement_reward_func, correctness))
        for own in range(seed, seed + SEEDS):
            cell = run_cell(ill, setting, own, POINTS)
            for name, rows in found.items():
                rows += [{"bonus": bonus, "seed": own} | row for row in cell[name]]
    return {name: pd.DataFrame(rows).dropna(axis=1, how="all") for name, rows in found.items()}
