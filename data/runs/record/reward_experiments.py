"""Two experiments on rewards, for notebook 03.

Both train the same policy twice, from the same seed, for the same number of steps; the only thing that differs is what
is paid. Held-out questions are answered at the temperature of training, because what a policy does rarely, greedy
decoding does not show at all.
"""

from __future__ import annotations

import pandas as pd

from grpo_helpers.lessons.flawed import PUBLISHED_REWARD_FUNCS
from grpo_helpers.lessons.trials import Trial, rates, trial
from grpo_helpers.profiles import Profile
from grpo_helpers.rewards import REWARD_FUNCS, correctness_reward_func, strict_format_reward_func
from tests.cells import definitions

SHOWN = 12
taught = definitions("03_reward_design", "generous_reward_func", "patched_reward_func")


def _beside(**trials: Trial) -> dict[str, pd.DataFrame]:
    """The tables of some trials of one policy; the first was evaluated before training as well."""
    first = next(iter(trials.values()))
    outcomes = {"before": first.before} | {name: run.after for name, run in trials.items()}
    said = {policy: table["completion"] for policy, table in outcomes.items()}
    completions = pd.DataFrame({"question": first.after["question"], "gold": first.after["gold"]} | said)
    histories = {f"history_{name}": run.history for name, run in trials.items()}
    return histories | {"rates": rates(outcomes), "completions": completions.head(SHOWN)}


def published_rewards(profile: Profile, seed: int) -> dict[str, pd.DataFrame]:
    """The source article's rewards as published, and the repaired ones: what does each policy learn?

    Returns:
        history_published (with the repaired correctness as a witness),
        history_repaired, rates, completions (the first SHOWN questions with each policy's reply).
    """
    options = {"temperature": profile.temperature}
    published = trial(profile, PUBLISHED_REWARD_FUNCS, seed, witnesses=[correctness_reward_func], **options)
    repaired = trial(profile, REWARD_FUNCS, seed, evaluate_before=False, **options)
    return _beside(published=published, repaired=repaired)


def reward_hack(profile: Profile, seed: int) -> dict[str, pd.DataFrame]:
    """A reward that can be farmed, then the same with the holes closed, both from notebook 03.

    At twice the profile's learning rate, so that a few dozen steps are enough to find the hole. Two witnesses look on
    in both runs.

    Returns:
        history_flawed, history_patched, rates, completions.
    """
    profile = profile.with_(learning_rate=2 * profile.learning_rate)
    options = {"witnesses": (correctness_reward_func, strict_format_reward_func), "temperature": profile.temperature}
    flawed = trial(profile, [taught.generous_reward_func], seed, **options)
    patched = trial(profile, [taught.patched_reward_func], seed, evaluate_before=False, **options)
    return _beside(flawed=flawed, patched=patched)
