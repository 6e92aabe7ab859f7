"""Checks for the exercises of notebook 07."""

from collections.abc import Mapping

import pandas as pd

from ..lessons.clinic import PATIENTS, tables
from ..lessons.doctor import COMPLAINTS, SYMPTOMS, diagnose
from ..records import load
from ._exercise import NotYet, Solution, exercise, expect


@exercise
def name_the_patients(names: Solution) -> None:
    """A dictionary from each patient's letter to the name of the illness, in the doctor's words."""
    if not isinstance(names, Mapping):
        raise NotYet("give a dictionary such as {'A': 'truncated', …}")
    for letter, patient in PATIENTS.items():
        said, planted = names.get(letter), patient.illness
        if said not in SYMPTOMS:
            raise NotYet(f"patient {letter}: {said!r} is none of the doctor's words")
        if said != planted:
            raise NotYet(f"patient {letter}: not {said!r}; look at {COMPLAINTS[planted]['look']}")


@exercise
def cuts_off(function: Solution) -> None:
    """True if, over the last ten logged steps, at least 60 % of the completions were cut off; too few steps: False."""
    column = "completions/clipped_ratio"

    def log(*shares: float) -> pd.DataFrame:
        return pd.DataFrame({"step": range(1, len(shares) + 1), column: shares})

    cases = {
        "ten steps, everything cut off": (log(*[1.0] * 10), True),
        "nine steps, everything cut off": (log(*[1.0] * 9), False),
        "cut off at first, then not": (log(*[1.0] * 30, *[0.0] * 10), False),
        "half of the last ten steps cut off entirely": (log(*[0.0] * 20, *[1.0, 0.0] * 5), False),
        "six of the last ten steps cut off entirely": (log(*[0.0] * 20, *[1.0] * 6, *[0.0] * 4), True),
        "70 % in each of the last ten steps": (log(*[0.0] * 20, *[0.7] * 10), True),
        "a log without the column": (log(*[1.0] * 10).drop(columns=column), False),
    }
    for case, (history, wanted) in cases.items():
        expect(function(history), wanted, case)
    for letter in PATIENTS:
        history = tables(letter)["history"]
        expect(function(history), bool(history[column].tail(10).mean() >= 0.6), f"patient {letter}")


@exercise
def illnesses(function: Solution) -> None:
    """The names of the findings that stop or warn, worst first, in a raw `trainer.state.log_history`."""
    end = {"step": 20, "train_runtime": 12.3, "train_loss": 0.0}
    for run in ("healthy_kl", "sick_tied", "sick_truncated"):
        rows = load(run, "tiny")["history"].to_dict("records")
        wanted = [f.name for f in diagnose(pd.DataFrame(rows)) if f.severity != "note"]
        expect(function([*rows, end]), wanted, f"the log of {run}")
