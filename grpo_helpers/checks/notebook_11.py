import pandas as pd

from ._exercise import NotYet, Run, Solution, decided, exercise, expect, one_change


@exercise
def mask_of_turns(function: Solution) -> None:
    """1 for each token of the policy, 0 for each of a tool, in order."""
    cases = {
        "a reply without a tool": ([("policy", 3)], [1, 1, 1]),
        "a call, a result and an answer": ([("policy", 2), ("tool", 3), ("policy", 1)], [1, 1, 0, 0, 0, 1]),
        "a rollout that ends with two results": ([("policy", 1), ("tool", 1), ("tool", 1)], [1, 0, 0]),
        "a turn of no tokens": ([("policy", 1), ("tool", 1), ("policy", 0)], [1, 0]),
        "no turn at all": ([], []),
    }
    for case, (turns, wanted) in cases.items():
        expect(function(list(turns)), wanted, f"{case}, turns={turns}")


@exercise
def mend_the_mix(function: Solution, run: Run) -> None:
    """One changed setting, found in at most three runs, after which half of the hard questions are right."""
    got, made = decided(function, run)
    one_change(got, made)
    n, right, called, reward = made[repr(got)].loc["3 × 2", ["n", "right", "called", "reward"]]
    if right < n / 2:
        told = f"{right:.0f} of {n:.0f} hard questions are right and {called:.0f} called, whatever the reward"
        raise NotYet(f"for the change {got} {told} ({reward:.2f})")
    if len(made) > 3:
        raise NotYet(f"for {len(made)} runs there is no time; find it in 3, from what the first one shows")


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
        "one in between, two sure ones": (table((90, 90, 0), (10, 10, 5), (50, 25, 30), (50, 0, 50)), True),
        "one of two sure sizes called in": (table((50, 50, 0), (50, 50, 50), (50, 0, 50)), False),
        "two failing sizes, together just enough": (table((50, 50, 0), (50, 0, 50), (50, 0, 40)), True),
        "two failing sizes of different weight": (table((50, 50, 0), (10, 0, 10), (90, 0, 74)), False),
        "nothing that the head is sure of": (table((50, 20, 0), (50, 0, 50)), False),
        "nothing that the head fails": (table((50, 50, 0)), False),
    }
    for case, (sizes, wanted) in cases.items():
        expect(function(sizes.copy()), wanted, f"{case}\n{sizes.to_string(index=False)}\n")
