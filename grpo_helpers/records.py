"""What a run leaves, as tables: the history of a training, and what is recorded in data/runs."""

from pathlib import Path
from typing import Any

import pandas as pd

from .files import read_json
from .profiles import DATA

RUNS = DATA / "runs"


def folder(name: str, profile: str, seed: int = 42, runs: Path = RUNS) -> Path:
    """Where the recorded results of an experiment are."""
    return runs / f"{name}-{profile}-{seed}"


def load(name: str, profile: str, seed: int = 42, runs: Path = RUNS) -> dict[str, pd.DataFrame]:
    """The tables of a recorded experiment; if there are none a FileNotFoundError has the command that records it."""
    source = folder(name, profile, seed, runs)
    if not (source / "run.json").is_file():
        command = f"python data/runs/record {name} --profile {profile} --seed {seed}"
        raise FileNotFoundError(f"{source.name} has not been recorded; `{command}` does it")
    names = read_json(source / "run.json", results=dict)["results"]["tables"]
    return {table: pd.read_csv(source / f"{table}.csv") for table in names}


def available(name: str, runs: Path = RUNS) -> list[tuple[str, int]]:
    """(profile, seed) of every recorded run of an experiment."""
    found = sorted(p.parent.name.removeprefix(f"{name}-") for p in runs.glob(f"{name}-*-*/run.json"))
    return [(profile, int(seed)) for profile, _, seed in (text.rpartition("-") for text in found) if seed.isdecimal()]


def history(source: Any) -> pd.DataFrame:
    """The training log as one table: a row for each logged step, TRL's names as columns.

    `source` is a trainer, its `state.log_history`, or the path of a `trainer_state.json` or `history.csv`. If nothing
    with a reward was logged it is a ValueError.
    """
    if isinstance(source, (str, Path)):
        if Path(source).suffix == ".csv":
            return pd.read_csv(source, comment="#")
        source = read_json(source, log_history=list)["log_history"]
    elif hasattr(source, "state"):
        source = source.state.log_history
    rows = [row for row in source if "reward" in row]
    if not rows:
        raise ValueError("no training step with a reward has been logged; train first")
    table = pd.DataFrame(rows).drop_duplicates("step", keep="last").sort_values("step", ignore_index=True)
    first = ["step", "reward", "reward_std"]
    return table[first + [c for c in table.columns if c not in first]]
