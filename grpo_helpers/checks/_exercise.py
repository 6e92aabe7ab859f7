"""What a check is: it prints what is still missing, and never raises."""

import copy
import functools
import inspect
import math
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

import pandas as pd

Solution = Callable[..., Any]  # what the learner wrote; for some checks a value
Run = Callable[..., Any]  # a training of the notebook's own: settings → a table


class NotYet(Exception):
    """What an exercise still lacks, in words for the learner."""


def exercise(check: Callable[..., None]) -> Callable[..., None]:
    """Turn a check that raises into one that prints its verdict: "Solved." or "Not yet: …"."""

    @functools.wraps(check)
    def verdict(solution: Solution, *run: Run) -> None:
        try:
            check(solution, *run)
        except NotYet as missing:
            print(f"Not yet: {missing}")
        except Exception as error:
            name = getattr(solution, "__name__", "your answer")
            own = [f.frame.f_locals for f in inspect.trace(0) if f.frame.f_code is getattr(solution, "__code__", 0)]
            print(f"Not yet: {name} raised {type(error).__name__}: {error}" + (f" with {own[0]}"[:200] if own else ""))
        else:
            print("Solved.")

    return verdict


def same(got: Any, wanted: Any) -> bool:
    """Equal, numbers up to the rounding of 32-bit floats: a solution may be written in torch, numpy or pandas."""
    got = got.tolist() if hasattr(got, "tolist") else got
    if isinstance(wanted, float):
        return hasattr(got, "__float__") and math.isclose(got, wanted, rel_tol=1e-5, abs_tol=1e-6)
    if isinstance(wanted, list | tuple):
        return isinstance(got, list | tuple) and len(got) == len(wanted) and all(map(same, got, wanted))
    return got == wanted


def shown(value: Any) -> str:
    """For a message: numbers to six digits."""
    if isinstance(value, float):
        return repr(float(f"{value:.6g}"))
    return f"[{', '.join(map(shown, value))}]" if isinstance(value, list) else repr(value)


def expect(got: Any, wanted: Any, case: str) -> None:
    """Raise NotYet, naming the case, unless the learner's function returned what is wanted."""
    if got is None and wanted is not None:
        raise NotYet(f"for {case} your function returned None; write its body and return {shown(wanted)} here")
    if not same(got, wanted):
        raise NotYet(f"for {case} your function returned {shown(got)}, expected {shown(wanted)}")


def expect_each(function: Solution, cases: Mapping[str, tuple[tuple[Any, ...], Any]]) -> None:
    """`expect` for cases by name, each (arguments, what is wanted for them); the arguments may not be changed."""
    for case, (arguments, wanted) in cases.items():
        expect(function(*(given := copy.deepcopy(arguments))), wanted, f"{case}, {arguments},")
        if not same(given, arguments):
            raise NotYet(f"for {case}, {arguments}, your function changed its arguments; work on copies")


def short_run(*reward_funcs: Any, witnesses: Sequence[Any] = (), **changes: Any) -> pd.DataFrame:
    """The log of 20 steps of `tiny`, with some settings of its profile changed; `reward_funcs`: the usual ones."""
    from ..lessons import trials  # with it comes TRL, which most checks do not need
    from ..profiles import TINY
    from ..rewards import REWARD_FUNCS

    short = TINY.with_(**{"steps": 20, "eval_questions": 4} | changes)
    return trials.trial(short, reward_funcs or REWARD_FUNCS, witnesses=witnesses, evaluate_before=False).history


def decided(function: Solution, run: Run) -> tuple[Any, dict[Any, Any]]:
    """What the learner's `function` decides, given `train`, which is `run`; and what the runs it made have returned.

    A run is known by its one argument, or all of several, however given; else by the text of its dictionary of changes.
    """
    made: dict[Any, Any] = {}
    needed = [name for name, p in inspect.signature(run).parameters.items() if p.default is p.empty]

    def train(*asked: Any, **changes: Any) -> Any:
        asked += tuple(changes.pop(name) for name in needed[len(asked) :] if name in changes)
        known_by = repr(changes) if not asked else asked[0] if len(asked) == 1 else asked
        return made.setdefault(known_by, run(*asked, **changes)).copy()  # the same run ends the same

    return function(train), made


def one_of(got: Any, options: Sequence[Any], needed: Sequence[Any] = (), made: Container[Any] = ()) -> None:
    """Raise NotYet unless the decision is one of the options, and the runs that it needs were made."""
    plain = pd.api.types.is_scalar(got)
    if not plain or got not in options:
        told = repr(got) if plain else type(got).__name__
        raise NotYet(f"for this decision your function returned {told}; return one of {', '.join(map(str, options))}")
    if missing := [option for option in dict.fromkeys(needed) if option not in made]:
        raise NotYet(f"for {got!r} other runs are needed to compare with; not yet tried: {missing}")


def one_change(got: Any, made: Mapping[str, Any]) -> None:
    """Raise NotYet unless the decision is a dictionary of one setting, with which a run was made."""
    if not isinstance(got, dict) or len(got) != 1:
        raise NotYet(f"for this run your function returned {got!r}; return a dictionary of the one setting to change")
    if repr(got) not in made:
        raise NotYet(f"for the change {got} no run was made; you have tried {', '.join(map(str, made)) or 'nothing'}")


MENDED = 0.5  # points that the mean reward of a run has to rise by, from its first five steps to its last five


def mended(function: Solution, ill: Mapping[str, Any]) -> None:
    """Raise NotYet unless the decision is one setting, tried by the learner, that mends a run with settings `ill`."""
    got, made = decided(function, lambda **changes: short_run(**ill | changes))
    rises = {change: run["reward"].tail(5).mean() - run["reward"].head(5).mean() for change, run in made.items()}
    one_change(got, rises)
    if not rises[repr(got)] >= MENDED or "steps" in got:  # a reward that is not a number has not risen
        raise NotYet(f"for {got} the reward rises by {rises[repr(got)]:.2f} points, not {MENDED}; steps do not count")


def least(got: Any, options: Sequence[Any], values: Mapping[Any, float], enough: float, what: str) -> None:
    """Raise NotYet unless `got` is the lowest option that brings `enough` of the value of the highest."""
    one_of(got, options)
    lower, highest = options[max(0, options.index(got) - 1)], options[-1]
    one_of(got, options, (lower, got, highest), values)
    if values[got] < enough * values[highest]:
        raise NotYet(f"for {got} {what} ends at {values[got]:.2f}, with {highest} at {values[highest]:.2f}")
    if lower != got and values[lower] >= enough * values[highest]:
        raise NotYet(f"for {got} there is a lower one that will do: {lower}")
