"""The grids of notebook 08, whose cells say what each varies. The usual setting is recorded once, as `grid_usual`.

A grid that was stopped goes on where it was, at the same commit: finished cells wait in outputs/grids.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from grpo_helpers.lessons.grids import USUAL, run_grid
from grpo_helpers.profiles import Profile, output_root
from grpo_helpers.run import provenance
from tests.cells import definitions

SEEDS, USUAL_SEEDS = 3, 6
LAB = definitions("08_experiments", "GRIDS", "STEPS", "QUESTIONS", "LAYOUT")


@contextlib.contextmanager
def kept(name: str, profile: Profile, seed: int) -> Iterator[Path]:
    """A folder for finished cells, which outlives only an interruption."""
    commit = provenance(profile, seed)["commit"]
    keep = output_root() / "grids" / f"{name}-{profile.name}-{seed}-{commit}"
    if commit.endswith("-dirty"):  # the code may have changed since
        shutil.rmtree(keep, ignore_errors=True)
    keep.mkdir(parents=True, exist_ok=True)
    yield keep
    shutil.rmtree(keep)


def grid(name: str, profile: Profile, seed: int) -> dict[str, pd.DataFrame]:
    """The grid `name`: its settings but the usual one, from the seeds `seed`, `seed` + 1 … See `run_grid`."""
    settings = {label: setting for label, setting in LAB.GRIDS[name].items() if setting != USUAL} or LAB.GRIDS[name]
    seeds = range(seed, seed + (USUAL_SEEDS if name == "grid_usual" else SEEDS))
    with kept(name, profile, seed) as keep:
        return run_grid(settings, profile.with_(steps=LAB.STEPS, eval_questions=LAB.QUESTIONS), seeds, keep=keep)
