"""The patients of notebook 07: recorded runs that are ill, each from one cause.

What was done to each is in `data/runs/record/sick_runs.py`, and in the table `recipe` of its record.
"""

from typing import NamedTuple

import pandas as pd

from ..records import load


class Patient(NamedTuple):
    """Its record in data/runs, and its illness in the doctor's words."""

    run: str
    illness: str


PATIENTS = {  # letters, so that no name gives them away
    "A": Patient("sick_truncated", "truncated"),
    "B": Patient("sick_rate_too_low", "learning rate too low"),
    "C": Patient("sick_tied", "nothing but ties"),
    "D": Patient("sick_hacked", "reward hacked"),
    "E": Patient("sick_rate_too_high", "learning rate too high"),
    "F": Patient("sick_published", "never paid"),
    "G": Patient("sick_collapsed", "entropy collapse"),
}


def tables(letter: str, seed: int = 42) -> dict[str, pd.DataFrame]:
    """A patient's tables: history; completions (step, gold, completion, reward), some at a few steps; recipe."""
    return load(PATIENTS[letter].run, "tiny", seed)
