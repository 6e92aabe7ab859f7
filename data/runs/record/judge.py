"""The judge of notebook 12, a stand-in made of rules, trained against as it is and repaired."""

from __future__ import annotations

import pandas as pd

from grpo_helpers import data, models
from grpo_helpers.profiles import Profile
from tests.cells import definitions

from .learned_reward import NOTEBOOK, QUESTIONS, only_tiny

taught = definitions(NOTEBOOK, "LAB", "stand_in", "Remembering", "whole", "last_line", "train_on_judge")
STEPS = 24


def judge(profile: Profile, seed: int) -> dict[str, pd.DataFrame]:
    """GRPO against the judge that sees the whole reply, and against the one that sees its last line.

    Returns:
        along: what `Along` saw, with shown ("whole reply", "last line").
    """
    only_tiny(profile)
    _, tokenizer = models.load_policy(taught.LAB)
    held_out = data.load_task(taught.LAB, "test").shuffle(seed=0).select(range(QUESTIONS))
    runs = []
    for name, shown in {"whole reply": taught.whole, "last line": taught.last_line}.items():
        ask = taught.Remembering(taught.stand_in)
        along = taught.train_on_judge(ask, shown, STEPS, seed, held_out, tokenizer)
        runs.append(pd.DataFrame(along.rows).assign(shown=name))
    return {"along": pd.concat(runs)}
