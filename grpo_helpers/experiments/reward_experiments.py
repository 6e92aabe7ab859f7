"""Two experiments on rewards, for the notebooks and for `grpo_helpers.experiments`.

Both train the same policy twice, from the same seed, for the same number of
steps; the only thing that differs is what is paid.
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from ..evaluation import RATES, per_cent
from ..lessons.flawed import PUBLISHED_REWARD_FUNCS, generous_reward_func, patched_reward_func
from ..profiles import Profile
from ..rewards import REWARD_FUNCS, RewardFunc, correctness_reward_func, strict_format_reward_func
from ..statistics import wilson_interval
from .trial import Trial, trial

SHOWN = 12


def rates(outcomes: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Held-out rates: one row for each policy and outcome, with hits, n and the 95 % Wilson interval (0 to 1)."""
    rows = []
    for policy, table in outcomes.items():
        for column in RATES:
            hits, n = int(table[column].sum()), len(table)
            low, high = wilson_interval(hits, n)
            rows.append((policy, column, hits, n, hits / n, low, high))
    return pd.DataFrame(rows, columns=["policy", "outcome", "hits", "n", "rate", "low", "high"])


def side_by_side(outcomes: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """`rates` for reading: a row for each outcome and one for the mean length, a column for each policy."""
    table = rates(outcomes)
    table["said"] = [per_cent(r.rate, r.low, r.high) for r in table.itertuples()]
    said = table.pivot(index="outcome", columns="policy", values="said").loc[list(RATES), list(outcomes)]
    said.loc["tokens"] = [f"{replies['tokens'].mean():.1f}" for replies in outcomes.values()]
    return said.rename(RATES | {"tokens": "mean length (tokens)"}).rename_axis(index=None, columns=None)


def replies(outcomes: Mapping[str, pd.DataFrame], shown: int = SHOWN) -> pd.DataFrame:
    """The first held-out questions with the reply of each policy: columns question, gold, and one for each policy."""
    first = next(iter(outcomes.values()))
    columns = {policy: table["completion"] for policy, table in outcomes.items()}
    return pd.DataFrame({"question": first["question"], "gold": first["gold"]} | columns).head(shown)


def watched(
    profile: Profile,
    reward_funcs: tuple[RewardFunc, ...],
    witnesses: tuple[RewardFunc, ...],
    seed: int,
    evaluate_before: bool = False,
) -> Trial:
    """A trial in which `witnesses` are asked and logged, and pay nothing: their weight is 0.

    Held-out questions are answered at the temperature of training, because
    what a policy does rarely, greedy decoding does not show at all.
    """
    weights = [1.0] * len(reward_funcs) + [0.0] * len(witnesses)
    return trial(
        profile,
        (*reward_funcs, *witnesses),
        seed,
        evaluate_before=evaluate_before,
        temperature=profile.temperature,
        reward_weights=weights,
    )


def _beside(**trials: Trial) -> dict[str, pd.DataFrame]:
    """The tables of some trials of one policy; the first was evaluated before training as well."""
    first = next(iter(trials.values()))
    outcomes = {"before": first.before} | {name: run.after for name, run in trials.items()}
    histories = {f"history_{name}": run.history for name, run in trials.items()}
    return histories | {"rates": rates(outcomes), "completions": replies(outcomes)}


def published_rewards(profile: Profile, seed: int) -> dict[str, pd.DataFrame]:
    """The source article's rewards as published, and the repaired ones: what does each policy learn?

    Returns:
        history_published (with the repaired correctness as a witness),
        history_repaired, rates, completions.
    """
    published = watched(profile, PUBLISHED_REWARD_FUNCS, (correctness_reward_func,), seed, evaluate_before=True)
    repaired = watched(profile, REWARD_FUNCS, (), seed)
    return _beside(published=published, repaired=repaired)


def hack_profile(profile: Profile) -> Profile:
    """The profile with twice its learning rate, so that a few dozen steps are enough to find the hole."""
    return profile.with_(learning_rate=2 * profile.learning_rate)


def reward_hack(profile: Profile, seed: int) -> dict[str, pd.DataFrame]:
    """A reward that can be farmed, then the same with the holes closed.

    Two witnesses look on in both runs: correctness and the strict format. The
    recipe of both is `hack_profile`.

    Returns:
        history_flawed, history_patched, rates, completions.
    """
    profile, witnesses = hack_profile(profile), (correctness_reward_func, strict_format_reward_func)
    flawed = watched(profile, (generous_reward_func,), witnesses, seed, evaluate_before=True)
    patched = watched(profile, (patched_reward_func,), witnesses, seed)
    return _beside(flawed=flawed, patched=patched)
