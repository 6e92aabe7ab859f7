"""Checks for the exercises of notebook 06."""

from collections.abc import Mapping
from itertools import count

from ..data import read_jsonl
from ..records import RUNS
from ..statistics import paired_test, wilson_interval
from ._exercise import NotYet, Solution, exercise, expect


@exercise
def questions_needed(function: Solution) -> None:
    """The smallest n for which the Wilson interval of round(rate · n) in n is at most `width` wide."""
    for rate, width in ((0.5, 0.5), (0.5, 0.2), (0.9, 0.2), (1.0, 0.1)):
        intervals = ((n, *wilson_interval(round(rate * n), n)) for n in count(1))
        wanted = next(n for n, low, high in intervals if high - low <= width)
        expect(function(rate, width), wanted, f"rate={rate}, width={width}")


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
    tables = (read_jsonl(RUNS / f"{record}.jsonl", ("question",)) for record in records)
    before, after = ([row[reading] for row in table[:n]] for table in tables)
    return before, after


@exercise
def is_shown(verdicts: Solution) -> None:
    """A dictionary from each claim's letter to whether its evidence shows it."""
    if not isinstance(verdicts, Mapping):
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
    for (n, gained, lost), exact in {(50, 0.3, 0.1): 0.5467, (200, 0.1, 0.05): 0.3733, (100, 0.1, 0.1): 0.0294}.items():
        got = function(n, gained, lost)
        if not isinstance(got, (int, float)) or abs(got - exact) > 0.08:
            expect(got, round(exact, 2), f"n={n}, gained={gained}, lost={lost} (0.08 either way is close enough)")
