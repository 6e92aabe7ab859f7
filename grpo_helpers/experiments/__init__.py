"""Experiments that are recorded once and shown by the notebooks.

    python -m grpo_helpers.experiments prompt_variants --profile small

Each is a function of (profile, seed) that returns named tables. Recording
writes them to data/runs/<name>-<profile>-<seed>/ as one CSV each, beside a
run.json that says where the numbers come from.

prompt_variants     the prompts of notebook 02, asked of one policy
reward_experiments  the article's rewards and a reward hack, each beside its repair (03)
placebos            whole runs with rewards that lack what is supposed to work (03, 08)
recipes             reward per minute: our recipe beside TRL's defaults and the article's
sick_runs           runs with one thing wrong each, and a healthy one with a KL penalty (07)
grids               many short runs, one setting varied at a time (08)
countdown           the worked task of notebook 10
trial               one run: evaluate, train, evaluate
held_out            accuracy along a run, against seconds of training
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from ..files import write_json, write_text
from ..profiles import Profile
from ..records import RUNS, folder
from .sick_runs import CASES

Experiment = Callable[[Profile, int], dict[str, pd.DataFrame]]

# what the grids of notebook 08 vary; grids.GRIDS has the settings
GRIDS = ("usual", "placebo", "loss", "kl", "rate", "group", "rank")
GRIDS += ("scale", "temperature", "iterations", "filter")

# name → the module it lives in; imported only when it is run
EXPERIMENTS = {
    "prompt_variants": "prompt_variants",
    "published_rewards": "reward_experiments",
    "reward_hack": "reward_experiments",
    "placebos": "placebos",
    "reward_per_minute": "recipes",
    "countdown": "countdown",
    **dict.fromkeys(CASES, "sick_runs"),
    **{f"grid_{varied}": "grids" for varied in GRIDS},
}


def get_experiment(name: str) -> Experiment:
    """The experiment called `name`; a ValueError lists those that exist."""
    if name not in EXPERIMENTS:
        raise ValueError(f"unknown experiment {name!r}; choose one of {', '.join(EXPERIMENTS)}")
    return getattr(importlib.import_module(f".{EXPERIMENTS[name]}", __package__), name)


def record(name: str, profile: Profile, seed: int = 42, runs: Path = RUNS) -> Path:
    """Run an experiment and keep its tables; the provenance is written last, so that half a record is none."""
    from ..machine import peak_memory_gb
    from ..run import provenance

    start, target = time.perf_counter(), folder(name, profile.name, seed, runs)
    facts = provenance(profile, seed) | {
        "command": f"python -m grpo_helpers.experiments {name} --profile {profile.name} --seed {seed}"
    }
    tables = get_experiment(name)(profile, seed)
    target.mkdir(parents=True, exist_ok=True)
    for table_name, table in tables.items():
        write_text(target / f"{table_name}.csv", table.to_csv(index=False))
    results = {
        "minutes": round((time.perf_counter() - start) / 60, 2),
        "peak_memory_gb": round(peak_memory_gb(), 2),
        "tables": list(tables),
    }
    write_json(target / "run.json", facts | {"results": results})
    return target
