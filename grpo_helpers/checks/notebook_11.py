"""Checks for the exercises of notebook 11."""

import pandas as pd

from ._exercise import Solution, exercise, expect, expect_each


@exercise
def mask_of_turns(function: Solution) -> None:
    """1 for each token of the policy, 0 for each of a tool, in order."""
    cases = {
        "a reply without a tool": ([("policy", 3)], [1, 1, 1]),
        "a call, a result and an answer": ([("policy", 2), ("tool", 3), ("policy", 1)], [1, 1, 0, 0, 0, 1]),
        "a rollout that ends with a result": ([("policy", 1), ("tool", 2)], [1, 0, 0]),
        "a turn of no tokens": ([("policy", 1), ("tool", 1), ("policy", 0)], [1, 0]),
        "no turn at all": ([], []),
    }
    for case, (turns, wanted) in cases.items():
        expect(function(list(turns)), wanted, f"{case}, turns={turns}")


@exercise
def worth_calling(function: Solution) -> None:
    """Calling earns 1 - price, answering from the head its share of right answers."""
    cases = {
        "a free call": (([0.0, 0.5, 0.99], 0.0), [True, True, True]),
        "a price of 0.2": (([0.0, 0.7, 0.9, 1.0], 0.2), [True, True, False, False]),
        "a price of 0.6": (([0.0, 0.3, 0.5], 0.6), [True, True, False]),
        "a price above the reward": (([0.0, 0.5], 1.5), [False, False]),
        "no size at all": (([], 0.2), []),
    }
    expect_each(function, cases)


@exercise
def selective(function: Solution) -> None:
    """Calls on 90 % of what the head fails, on at most 20 % of what it is sure of."""

    def table(*sizes: tuple[int, int, int]) -> pd.DataFrame:
        return pd.DataFrame(sizes, columns=["n", "head", "called"])

    cases = {
        "calls where they are needed": (table((50, 50, 0), (50, 2, 50)), True),
        "calls everywhere": (table((50, 50, 50), (50, 2, 50)), False),
        "no calls": (table((50, 50, 0), (50, 2, 0)), False),
        "exactly at both limits": (table((50, 45, 10), (50, 5, 45)), True),
        "a size in between, always called": (table((50, 50, 0), (50, 25, 50), (50, 0, 50)), True),
        "two failing sizes, together just enough": (table((50, 50, 0), (50, 0, 50), (50, 0, 40)), True),
        "two failing sizes of different weight": (table((50, 50, 0), (10, 0, 10), (90, 0, 70)), False),
        "nothing that the head is sure of": (table((50, 20, 0), (50, 0, 50)), False),
        "nothing that the head fails": (table((50, 50, 0)), False),
    }
    for case, (sizes, wanted) in cases.items():
        expect(function(sizes.copy()), wanted, f"{case}\n{sizes.to_string(index=False)}\n")
