import pandas as pd

from ..evaluation import RATES, compare
from ..profiles import TINY
from ..records import RUNS
from ..statistics import paired_test
from ._exercise import NotYet, Solution, decided, exercise, expect

# letter → settings of a short run; the layout alone pays in B
RECIPES = {"A": {"learning_rate": 2e-5}, "B": {"reward_weights": [1.0, 1.0, 1.0, 0.0, 0.0]}, "C": {}}
LEARNED = ("nothing we can see", "the layout alone", "right answers")


def compared(letter: str) -> pd.DataFrame:
    """`compare` of the policy before and after the run with this letter."""
    from ..lessons.trials import trial  # with it comes TRL, which the other checks do not need

    run = trial(TINY.with_(steps=24, eval_questions=100), **RECIPES[letter])
    return compare(run.before, run.after)


@exercise
def what_each_learned(function: Solution) -> None:
    """For each run one of LEARNED, by the paired tests of the layout and of right answers anywhere."""
    got, made = decided(function, compared)
    for letter in RECIPES:
        said = got.get(letter) if isinstance(got, dict) else got
        if letter not in made or said not in LEARNED:
            raise NotYet(f"for run {letter} your verdict is {said!r}; call train({letter!r}), return one of {LEARNED}")
        layout, right = (made[letter].loc[RATES[name]] for name in ("format", "flexible"))
        rose = [row.gain > 0 and row.p_value < 0.05 for row in (layout, right)]
        if said != LEARNED[2 if rose[1] else int(rose[0])]:
            told = (f"{100 * row.gain:+.0f} points, p = {row.p_value:.2g}" for row in (layout, right))
            raise NotYet("run {}: in the layout {}; right anywhere {}".format(letter, *told))


# letter → the records compared, the reading, how many questions, and whether they show what notebook 06 claims
CLAIMS = {
    "A": (("small-1/before", "small-1/after"), "strict", 200, True),
    "B": (("small-1/before", "small-1/after"), "flexible", 15, False),
    "C": (("small-1/before", "small-1/after"), "flexible", 200, True),
    "D": (("small-1/before", "small-1/after"), "strict", 15, False),  # strict counts the layout, too
    "E": (("tiny-1/after", "tiny-2/after"), "strict", 200, False),
}


def evidence(letter: str) -> tuple[list[bool], list[bool]]:
    """Verdicts on the same questions, before and after, of the claim with this letter."""
    records, reading, n, _ = CLAIMS[letter]
    before, after = (pd.read_json(RUNS / f"{record}.jsonl", lines=True)[reading].head(n) for record in records)
    return before.tolist(), after.tolist()


@exercise
def is_shown(verdicts: Solution) -> None:
    """A dictionary from each claim's letter to whether its evidence shows it."""
    if not isinstance(verdicts, dict):
        raise NotYet("give a dictionary such as {'A': True, …}")
    for letter, (_, reading, n, shown) in CLAIMS.items():
        said = verdicts.get(letter)
        if said not in (True, False):
            raise NotYet(f"claim {letter}: {said!r} is neither True nor False")
        if said != shown:
            test = paired_test(*evidence(letter))
            told = f"{test['gained']} gained, {test['lost']} lost, p = {test['p_value']:.2g}"
            raise NotYet(f"claim {letter}: {told} ({reading}, {n} questions). Is that what is claimed?")


@exercise
def chance_to_notice(function: Solution) -> None:
    """The power of the paired test by simulation, to within 0.08 of the exact value."""
    cases = {(50, 0.3, 0.1): 0.5467, (50, 0.5, 0.25): 0.4766, (100, 0.1, 0.1): 0.0294, (100, 0.1, 0.3): 0.8780}
    for (n, gained, lost), exact in cases.items():
        got = function(n, gained, lost)
        if not hasattr(got, "__float__") or abs(got - exact) > 0.08:
            expect(got, round(exact, 2), f"n={n}, gained={gained}, lost={lost} (0.08 either way is close enough)")
