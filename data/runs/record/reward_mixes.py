"""Several rewards together, each way of notebook 12 trained from one seed."""

from __future__ import annotations

import pandas as pd

from grpo_helpers import data
from grpo_helpers.evaluation import evaluate
from grpo_helpers.models import load_policy
from grpo_helpers.profiles import Profile
from tests.cells import definitions

from .learned_reward import NOTEBOOK, only_tiny

taught = definitions(NOTEBOOK, "LAB", "MIXES", "train_against")
STEPS, QUESTIONS = 8, 120
MEASURED = ["flexible", "format", "strict", "worked", "tokens"]


def reward_mixes(profile: Profile, seed: int) -> dict[str, pd.DataFrame]:
    """Train once with each of MIXES.

    Returns:
        ends: a row for the untrained policy and for each mix: MEASURED on held-out questions, greedy.
    """
    only_tiny(profile)
    held_out = data.load_task(taught.LAB, "test").shuffle(seed=0).select(range(QUESTIONS))
    untrained, tokenizer = load_policy(taught.LAB)
    rows = []

    def note(name: str, policy: object) -> None:
        found = evaluate(policy, tokenizer, held_out, taught.LAB.max_completion_length, batch_size=100)
        rows.append({"mix": name, "seed": seed} | found[MEASURED].mean().round(4).to_dict())

    note("untrained", untrained)
    for name, (reward_funcs, weights, changes) in taught.MIXES.items():
        note(name, taught.train_against(reward_funcs, weights, STEPS, seed, **changes).model)
    return {"ends": pd.DataFrame(rows)}
