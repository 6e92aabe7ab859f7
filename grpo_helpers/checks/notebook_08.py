import pandas as pd

from .. import records
from ..profiles import TINY
from ._exercise import NotYet, Solution, exercise, expect


@exercise
def chance_of_luck(function: Solution) -> None:
    """The chance that n equal runs all end up above, or all below, m others of the same kind: 2 / C(n + m, n)."""
    for (n, m), wanted in {(1, 1): 1.0, (3, 3): 0.1, (3, 6): 2 / 84, (2, 5): 2 / 21, (5, 5): 2 / 252}.items():
        expect(function(n, m), wanted, f"n={n}, m={m}")


@exercise
def reached_at(function: Solution) -> None:
    """Completions sampled when the mean of the seeds first reaches an accuracy; None if it never does."""
    runs = {1: (0.0, 0.5, 0.2, 0.3, 1.0), 2: (0.1, 0.25, 0.3, 0.4, 0.7), 3: (0.05, 0.375, 0.25, 0.35, 0.1)}
    rows = [(seed, 256 * i, right) for seed, run in runs.items() for i, right in enumerate(run)]
    curves = pd.DataFrame(rows, columns=["seed", "completions", "flexible"])
    cases = {0.04: 0, 0.375: 256, 0.36: 256, 0.55: 1024, 0.65: None}  # 0.65: for the median 1024
    for accuracy, wanted in cases.items():
        expect(function(curves.sample(frac=1, random_state=0), accuracy), wanted, f"accuracy {accuracy} of three seeds")


LAB = {
    "groups of 32": ("grid_group", {"num_generations": 32}),
    "temperature 0.7": ("grid_temperature", {"temperature": 0.7}),
}
VERDICTS = ("better", "no difference we can see")


def averages(curves: pd.DataFrame) -> pd.Series:
    """Flexible accuracy of each run, averaged over its evaluations after the start."""
    return curves[curves["completions"] > 0].groupby(["setting", "seed"])["flexible"].mean()


def average_at(name: str, seed: int) -> float:
    """The same of a run of notebook 08's lab, trained now."""
    from ..lessons import grids  # with it comes TRL, which the other checks do not need

    rows = grids.run_cell(TINY.with_(steps=24, eval_questions=100), grids.Setting(LAB[name][1]), seed)["curves"]
    return averages(pd.DataFrame(rows).assign(setting=name, seed=seed)).item()


@exercise
def decide(function: Solution) -> None:
    """A verdict on two settings: better where the runs of three seeds all lie above every usual one."""
    best = averages(records.load("grid_usual", "tiny")["curves"]).max()
    runs = {name: {42: averages(records.load(grid, "tiny")["curves"])[name, 42]} for name, (grid, _) in LAB.items()}
    got = function(lambda name, seed: runs[name].get(seed) or runs[name].setdefault(seed, average_at(name, seed)), best)
    for name, found in runs.items():
        verdict = got.get(name) if isinstance(got, dict) else got
        if verdict not in VERDICTS:
            raise NotYet(f"for {name} your function returned {verdict!r}; return one of {VERDICTS} for each setting")
        ends = ", ".join(f"{average:.3f} with seed {seed}" for seed, average in found.items())
        if verdict == VERDICTS[0] and len(found) < 3:
            raise NotYet(f"for {name} the rule wants three seeds, and there is only {ends}")
        if (verdict == VERDICTS[0]) != all(average > best for average in found.values()):
            raise NotYet(f"for {name} the averages are {ends}, and {best:.3f} for the best usual run")
