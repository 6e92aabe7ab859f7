"""Experiments that are recorded once and shown by the notebooks.

    python -m grpo_helpers.experiments prompt_variants --profile small

Each is a function of (profile, seed) that returns named tables. Recording
writes them to data/runs/<name>-<profile>-<seed>/ as one CSV each, beside a
run.json that says where the numbers come from.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from .files import write_json, write_text
from .profiles import DATA, PROFILES, Profile, get_profile
from .sick_runs import CASES

RUNS = DATA / "runs"
Experiment = Callable[[Profile, int], dict[str, pd.DataFrame]]

# what the grids of notebook 08 vary; grids.GRIDS has the settings
GRIDS = ("usual", "loss", "group", "scale", "kl", "temperature", "rank", "rate", "iterations")
GRIDS += ("filter", "placebo", "warm_up")

# name → the module it lives in; imported only when it is run
EXPERIMENTS = {
    "prompt_variants": "probing",
    "published_rewards": "reward_experiments",
    "reward_hack": "reward_experiments",
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


def folder(name: str, profile: str, seed: int = 42, runs: Path = RUNS) -> Path:
    """Where the recorded results of an experiment are."""
    return runs / f"{name}-{profile}-{seed}"


def record(name: str, profile: Profile, seed: int = 42, runs: Path = RUNS) -> Path:
    """Run an experiment and keep its tables; the provenance is written last, so that half a record is none."""
    from .run import peak_memory_gb, provenance

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


def load(name: str, profile: str, seed: int = 42, runs: Path = RUNS) -> dict[str, pd.DataFrame]:
    """The tables of a recorded experiment.

    Raises:
        FileNotFoundError: it has not been recorded; the message has the command that does it.
    """
    from .files import read_json

    source = folder(name, profile, seed, runs)
    if not (source / "run.json").is_file():
        raise FileNotFoundError(
            f"{source.name} has not been recorded; "
            f"`python -m grpo_helpers.experiments {name} --profile {profile} --seed {seed}` does it"
        )
    names = read_json(source / "run.json")["results"]["tables"]
    return {table: pd.read_csv(source / f"{table}.csv") for table in names}


def available(name: str, runs: Path = RUNS) -> list[tuple[str, int]]:
    """(profile, seed) of every recorded run of an experiment."""
    found = sorted(p.parent.name.removeprefix(f"{name}-") for p in runs.glob(f"{name}-*-*/run.json"))
    return [(profile, int(seed)) for profile, _, seed in (text.rpartition("-") for text in found)]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m grpo_helpers.experiments", description="Run an experiment and record it in data/runs."
    )
    parser.add_argument("name", choices=list(EXPERIMENTS))
    parser.add_argument("--profile", default="small", choices=list(PROFILES))
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--output", type=Path, default=RUNS, help="folder to record in (default data/runs)")
    args = parser.parse_args(argv)
    from .models import WeightsNotFound

    try:
        target = record(args.name, get_profile(args.profile), args.seed, args.output)
    except (ValueError, OSError, WeightsNotFound) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"recorded in {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
