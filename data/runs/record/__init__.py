"""The recorders: experiments that are run once, kept in data/runs, and shown by the notebooks.

    python data/runs/record prompt_variants --profile small

Each is a function of (profile, seed) that returns named tables. Recording
writes them to data/runs/<name>-<profile>-<seed>/ as one CSV each, beside a
run.json that says where the numbers come from.

prompt_variants     the prompts of notebook 02, asked of one policy
reward_experiments  the article's rewards and a reward hack, each beside its repair (03)
placebos            whole runs with rewards that lack what is supposed to work (03, 08)
recipes             reward per minute: our recipe beside TRL's defaults and the article's (08)
sick_runs           runs with one thing wrong each, and a healthy one with a KL penalty (07)
grid                many short runs, one setting varied at a time (08)
fair_*              each condition at its own best learning rate, a family a record (08)
elicit              a skill that was absent, rare or common in pre-training, under three rewards (13)
elicit_shown        the first two of these after ten worked solutions, and after GRPO on top (13)
entropy_bonus       a collapsed patient of 07 under an entropy bonus (08)
countdown           the worked task of notebook 10
ten_minutes         completions a step of `small`, each at its own best rate, in ten minutes of one core (08)
carry_over          ten minutes and an hour of training, on other problems, and with eight tries (05)
checkpoints         every checkpoint of a run on the same held-out questions (06)
ladder              how far an adapter must move for the layout to be learned (05)
agents              a calculator used when it is needed, a game of several turns, a tool only read about (11)
beyond_exact        shape paid for in three ways, and programs asked with shown or hidden tests (12)
learned_reward      a reward model over-optimised, what brakes it, and the best of n as a control (12)
judge               a judge made of rules trained against, as it is and repaired (12)
reward_mixes        several rewards together in seven ways (12)
small_functions     a real language model that writes functions of one line, paid by hidden tests (12)
mismatch            completions sampled by a rounded copy of the policy, uncorrected and corrected (09)
alternatives        seven ways to train, each at its best rate, and a vote; alternatives_rates_… searched these (13)
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd

from grpo_helpers.files import held, write_json, write_text
from grpo_helpers.machine import peak_memory_gb
from grpo_helpers.profiles import Profile
from grpo_helpers.records import RUNS, folder
from grpo_helpers.run import provenance

from . import (
    agents,
    alternatives,
    beyond_exact,
    carry_over,
    checkpoints,
    countdown,
    elicit,
    entropy_bonus,
    fair,
    grid,
    judge,
    ladder,
    learned_reward,
    mismatch,
    placebos,
    prompt_variants,
    recipes,
    reward_experiments,
    reward_mixes,
    sick_runs,
    small_functions,
    ten_minutes,
)

Recorder = Callable[[Profile, int], dict[str, pd.DataFrame]]

RECORDERS: dict[str, Recorder] = {
    "prompt_variants": prompt_variants.prompt_variants,
    "published_rewards": reward_experiments.published_rewards,
    "reward_hack": reward_experiments.reward_hack,
    "placebos": placebos.placebos,
    "reward_per_minute": recipes.reward_per_minute,
    "carry_over": carry_over.carry_over,
    "checkpoints": checkpoints.checkpoints,
    "countdown": countdown.countdown,
    "elicit": elicit.elicit,
    "elicit_shown": elicit.elicit_shown,
    "entropy_bonus": entropy_bonus.entropy_bonus,
    "ladder": ladder.ladder,
    "tools": agents.tools,
    "game": agents.game,
    "tool_probe": agents.tool_probe,
    "shape_ways": beyond_exact.shape_ways,
    "hidden_tests": beyond_exact.hidden_tests,
    "learned_reward": learned_reward.learned_reward,
    "judge": judge.judge,
    "reward_mixes": reward_mixes.reward_mixes,
    "small_functions": small_functions.small_functions,
    "ten_minutes": ten_minutes.ten_minutes,
    "mismatch": mismatch.mismatch,
    "alternatives": alternatives.alternatives,
    **{f"alternatives_rates_{s}": partial(alternatives.rates, w) for w, s in alternatives.taught.SEARCHES.items()},
    **{name: partial(sick_runs.sick_run, name) for name in sick_runs.CASES},
    **{name: partial(grid.grid, name) for name in grid.LAB.GRIDS},
    **{name: partial(fair.fair, name) for name in fair.FAMILIES},
}


def record(name: str, profile: Profile, seed: int = 42, runs: Path = RUNS) -> Path:
    """Run an experiment and keep its tables; the provenance is written last, so that half a record is none.

    Raises:
        BlockingIOError, PermissionError: the folder is in use or cannot be written; said before anything is run.
    """
    start, target = time.perf_counter(), folder(name, profile.name, seed, runs)
    if name == "ladder":
        profile = ladder.here(profile)
    facts = provenance(profile, seed)
    facts["command"] = f"python data/runs/record {name} --profile {profile.name} --seed {seed}"
    with held(target):
        tables = RECORDERS[name](profile, seed)
        (target / "run.json").unlink(missing_ok=True)
        for table_name, table in tables.items():
            write_text(target / f"{table_name}.csv", table.to_csv(index=False))
        results = {
            "minutes": round((time.perf_counter() - start) / 60, 2),
            "peak_memory_gb": round(peak_memory_gb(), 2),
            "tables": list(tables),
        }
        write_json(target / "run.json", facts | {"results": results})
    return target
