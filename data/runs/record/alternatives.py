"""The trainings of notebook 13, whose cells say how each is done: their learning rates searched, then compared.

A record of rates holds one way, searched from two seeds on questions that the comparison does not ask. The comparison
takes the rates from these records, so that they have to be there first.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from grpo_helpers import models, records
from grpo_helpers.lessons.grids import significant
from grpo_helpers.profiles import Profile
from tests.cells import definitions

from .learned_reward import only_tiny

taught = definitions(
    "13_alternatives",
    *("RECIPE", "UPDATES", "WAYS", "RATES", "SEARCHES", "VOTES", "STEPS", "LOOKS"),
    *("questions", "right_rate", "demonstrations", "Looks", "Memory", "voted", "best_rate"),
)
SEEDS, FURTHEST = 2, 4  # of a search; steps by which a grid of rates may grow


def steps_of(way: str, profile: Profile) -> dict[str, int]:
    """Updates, where the profile has fewer than the notebook; at least one for each round of a way."""
    return {} if profile.steps >= taught.UPDATES else {"steps": max(profile.steps, 4)}


def rates(way: str, profile: Profile, seed: int) -> dict[str, pd.DataFrame]:
    """One way at several learning rates, from two seeds; the grid grows until the best rate is not at its edge.

    Returns:
        tried: way, rate, seed, right (share of the questions kept for this), seconds.
    """
    only_tiny(profile)
    choose = taught.questions()[1]
    choose = choose.select(range(min(len(choose), profile.eval_questions)))
    tokenizer = models.load_policy(taught.RECIPE)[1]
    rows: list[dict[str, Any]] = []

    def attempt(rate: float) -> None:
        for s in range(seed, seed + SEEDS):
            looks = taught.Looks(lambda model: {"right": taught.right_rate(model, tokenizer, choose)})
            looks.row(taught.WAYS[way](rate, s, looks, **steps_of(way, profile)))
            rows.append({"way": way, "rate": rate, "seed": s} | looks.rows[-1])
            print(rows[-1], flush=True)

    for rate in taught.RATES:
        attempt(rate)
    for _ in range(FURTHEST):
        best, at_edge = taught.best_rate(pd.DataFrame(rows))
        if not at_edge:
            break
        tried = [row["rate"] for row in rows]
        attempt(best / 2 if best == min(tried) else best * 2)
    return {"tried": pd.DataFrame(rows)}


def alternatives(profile: Profile, seed: int) -> dict[str, pd.DataFrame]:
    """Every way at its best rate, looked at along the training: what it can do, what it cost, what it forgot.

    Returns:
        curves: way, rate, step, completions, seconds, right, KLs and losses on pre-training texts; the first row is
        the untrained policy's. votes: policy, k, right.
    """
    only_tiny(profile)
    held_out = taught.questions()[2]
    held_out = held_out.select(range(min(len(held_out), profile.eval_questions)))
    model, tokenizer = models.load_policy(taught.RECIPE)
    memory = taught.Memory(model, tokenizer)

    def measure(policy: Any) -> dict[str, float]:
        return {"right": taught.right_rate(policy, tokenizer, held_out)} | memory(policy)

    def voted(name: str, policy: Any) -> list[dict[str, Any]]:
        found = taught.voted(policy, tokenizer, held_out, taught.VOTES, seed)
        return [{"policy": name, "k": k, "right": right} for k, right in found.items()]

    rows = [{"way": "untrained", "rate": 0.0, "step": 0, "completions": 0, "seconds": 0.0} | measure(model)]
    votes = voted("untrained", model)
    for way, short in taught.SEARCHES.items():
        rate, at_edge = taught.best_rate(records.load(f"alternatives_rates_{short}", profile.name, 11)["tried"])
        if at_edge:
            raise ValueError(f"{way}: the best rate, {rate:g}, lies at an edge of those tried; try further ones")
        steps = steps_of(way, profile)
        last = steps.get("steps", taught.STEPS[way])
        looks = taught.Looks(measure, at={last, *(step for step in taught.LOOKS if step < last)})
        trained = taught.WAYS[way](rate, seed, looks, **steps)
        rows += [{"way": way, "rate": rate} | row for row in looks.rows]
        print({name: rows[-1][name] for name in ("way", "seconds", "right")}, flush=True)
        if way == "GRPO":
            votes += voted(way, trained)
    table = pd.DataFrame(rows)
    numbers = table.columns.drop("way")
    return {"curves": table.assign(**significant(table[numbers])), "votes": pd.DataFrame(votes)}
