"""What a check is: it prints what is still missing, and never raises."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any


class NotYet(Exception):
    """What an exercise still lacks, in words for the learner."""


def exercise(check: Callable[[Callable[..., Any]], None]) -> Callable[[Callable[..., Any]], None]:
    """Turn a check that raises into one that prints its verdict: "Solved." or "Not yet: …"."""

    @functools.wraps(check)
    def verdict(solution: Callable[..., Any]) -> None:
        try:
            check(solution)
        except NotYet as missing:
            print(f"Not yet: {missing}")
        except Exception as error:
            print(f"Not yet: {solution.__name__} raised {type(error).__name__}: {error}")
        else:
            print("Solved.")

    return verdict


def same(got: Any, wanted: Any) -> bool:
    if isinstance(wanted, float):
        return isinstance(got, (int, float)) and math.isclose(got, wanted, abs_tol=1e-9)
    if isinstance(wanted, list):
        return isinstance(got, list) and len(got) == len(wanted) and all(map(same, got, wanted))
    return got == wanted


def expect(got: Any, wanted: Any, case: str) -> None:
    """Raise NotYet, naming the case, unless the learner's function returned what is wanted."""
    if got is None and wanted is not None:
        raise NotYet(f"for {case} your function returned None; write its body and return {wanted!r} here")
    if not same(got, wanted):
        raise NotYet(f"for {case} your function returned {got!r}, expected {wanted!r}")
