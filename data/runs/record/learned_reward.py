"""A reward model over-optimised, and what brakes it, for notebook 12, whose cells say how each part is made.

The pairs, the reward model and the training are all of one seed. With a KL penalty the same reward model is used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import log
from typing import Any

import pandas as pd
from datasets import Dataset

from grpo_helpers import data, models
from grpo_helpers.evaluation import generate_predictions
from grpo_helpers.lessons.grids import significant
from grpo_helpers.profiles import Profile
from tests.cells import definitions

NOTEBOOK = "12_rewards_beyond_exact_match"
taught = definitions(
    NOTEBOOK,
    *("LAB", "NOISE", "SHOWN", "right_reward_func", "preference_pairs", "reward_model", "scores", "ordered"),
    *("Along", "train_against", "best_of"),
)
BETAS, STEPS, EVERY, QUESTIONS = (0.0, 0.2, 1.0), 32, 4, 120
CONTROLLED, SIZES = 30, (1, 2, 4, 8, 16, 32)  # questions of the best of n


def only_tiny(profile: Profile) -> None:
    """
    Raises:
        ValueError: the profile is another one than that of the notebook's sections.
    """
    if profile.name != taught.LAB.name:
        raise ValueError(f"profile {profile.name}: the notebook trains {taught.LAB.name}, on any machine")


def best_of_n(
    policy: Any, tokenizer: Any, rows: Dataset, proxy: Callable, sizes: Sequence[int], seed: int
) -> pd.DataFrame:
    """For each n of `sizes`: KL (nats), proxy and truth of the best of n, from as many replies as the largest n."""
    replies = generate_predictions(
        *(policy, tokenizer, rows["prompt"], taught.LAB.max_completion_length),
        **{"temperature": 1.0, "num_generations": max(sizes), "batch_size": 320, "seed": seed},
    )
    groups = []
    for row, own in zip(rows, replies, strict=True):
        said = [text for text, _ in own]
        same = Dataset.from_list([row] * len(said))
        groups.append((proxy(same, said), taught.right_reward_func(said, same["answer"])))
    found = []
    for n in sizes:
        means = [(taught.best_of(n, p, p), taught.best_of(n, p, right)) for p, right in groups]
        proxies, rights = (sum(column) / len(means) for column in zip(*means, strict=True))
        found.append({"n": n, "kl": log(n) - (n - 1) / n, "proxy": proxies, "right": rights})
    return pd.DataFrame(found)


def learned_reward(profile: Profile, seed: int) -> dict[str, pd.DataFrame]:
    """Preferences, a reward model, and GRPO against it at each of BETAS.

    Returns:
        model: pairs, and the share of unseen pairs in order; along: what `Along` saw, with beta; best_of_n.
    """
    only_tiny(profile)
    policy, tokenizer = models.load_policy(taught.LAB)
    questions, held_out = data.load_task(taught.LAB, "train"), data.load_task(taught.LAB, "test")
    held_out = held_out.shuffle(seed=0).select(range(QUESTIONS))
    labelled = taught.preference_pairs(policy, tokenizer, questions.select(range(taught.SHOWN)), taught.NOISE, seed)
    others = questions.select(range(taught.SHOWN, taught.SHOWN + 80))
    unseen = taught.preference_pairs(policy, tokenizer, others, 0.0, seed)
    taste = taught.reward_model(labelled, tokenizer, seed)
    found = taught.ordered(taste, tokenizer, unseen)
    model = {"pairs": len(labelled), "unseen": len(unseen), "ordered": sum(found), "noise": taught.NOISE}

    def proxy(rows: Dataset, said: list[str]) -> list[float]:
        return taught.scores(taste, tokenizer, rows["prompt"], said)

    control = best_of_n(policy, tokenizer, held_out.select(range(CONTROLLED)), proxy, SIZES, seed)
    runs = []
    for beta in BETAS:
        along = taught.Along(tokenizer, held_out, proxy, EVERY)
        taught.train_against([taste, taught.right_reward_func], [1.0, 0.0], STEPS, seed, along, beta=beta)
        runs.append(pd.DataFrame(along.rows).assign(beta=beta))
    return {"model": pd.DataFrame([model]), "along": pd.concat(runs), "best_of_n": significant(control)}
