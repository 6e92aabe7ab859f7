"""What ten minutes and an hour of training leave behind: other problems, and eight tries, for notebook 05."""

from __future__ import annotations

from typing import Any

import pandas as pd

from grpo_helpers import adapters, data, evaluation, models
from grpo_helpers.profiles import SMALL, Profile
from grpo_helpers.records import RUNS

POLICIES = {"untrained": None, "small": "small-1", "small_long": "small_long-1"}
TRIES = 8
LONGEST = 96  # tokens: two steps take more than the profile allows for one


def asked(profile: Profile) -> dict[str, Any]:
    """Questions of four kinds, in the profile's prompt; only the first kind is like those trained on."""
    form = {"system_prompt": profile.system_prompt, "shots": data.example_shots(profile.shots)}
    return {
        "one step": data.word_problems("test", steps=(1,), **form),
        "two steps": data.word_problems("test", steps=(2,), **form),
        "one step, new kinds": data.word_problems("new_families", steps=(1,), **form),
        "two steps, new kinds": data.word_problems("new_families", steps=(2,), **form),
    }


def carry_over(profile: Profile, seed: int) -> dict[str, pd.DataFrame]:
    """The untrained policy, and those recorded as `small-1` and `small_long-1`, on questions of four kinds.

    Returns:
        greedy: a row for each policy and question: its kind, and the outcomes of one greedy reply;
        sampled: how many of TRIES replies at temperature 1 are right, for each policy and question of the first kind.
    """
    if profile != SMALL:
        raise ValueError(f"profile {profile.name}: the recorded policies are small's; use small")
    greedy, sampled, kinds = [], [], asked(profile)
    for name, run in POLICIES.items():
        model, tokenizer = models.load_policy(profile)
        if run:
            model = adapters.load(model, RUNS / run / "adapter")
        for kind, questions in kinds.items():
            table = evaluation.evaluate(model, tokenizer, questions, LONGEST, batch_size=profile.eval_batch)
            greedy.append(table[["question", "strict", "flexible", "truncated"]].assign(policy=name, kind=kind))
            print(f"{name}, {kind}: {table['flexible'].mean():.1%}", flush=True)
        options = {"num_generations": TRIES, "temperature": 1.0, "batch_size": profile.eval_batch, "seed": seed}
        table = evaluation.evaluate(model, tokenizer, kinds["one step"], profile.max_completion_length, **options)
        hits = table.groupby("question", sort=False)[["strict", "flexible"]].sum().reset_index()
        sampled.append(hits.assign(policy=name))
        print(f"{name}, {TRIES} tries: {hits['flexible'].gt(0).mean():.1%}", flush=True)
    return {"greedy": pd.concat(greedy), "sampled": pd.concat(sampled)}
