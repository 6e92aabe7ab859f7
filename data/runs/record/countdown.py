"""The road of notebook 10, warm-up and then GRPO on the game Countdown, with the notebook's own functions."""

from __future__ import annotations

import itertools
import random
import tempfile
from typing import Any

import pandas as pd
from datasets import Dataset

from grpo_helpers import models, training
from grpo_helpers.lessons.probing import scored_replies
from grpo_helpers.profiles import Profile
from grpo_helpers.records import history
from tests.cells import definitions

taught = definitions(
    "10_your_own_task",
    *("expressions", "game", "ideal_reply", "VERDICTS", "verdict", "legal_reward_func", "solved_reward_func"),
    *("demonstrations", "warm_up", "gentle_settings", "SHOWN"),
)
REWARD_FUNCS = (taught.legal_reward_func, taught.solved_reward_func)
STEPS, BATCHES = 60, 2  # as recorded; the notebook trains for fewer steps, so that a reader need not wait


def games(count: int, held_out: float = 0.25, seed: int = 0) -> tuple[Dataset, Dataset]:
    """Training and held-out games of `count` numbers: no set of numbers is in both."""
    rng, largest = random.Random(seed), 25 if count == 2 else 12
    sets = list(itertools.combinations(range(2, largest + 1), count))
    rng.shuffle(sets)
    cut, splits = round(len(sets) * held_out), []
    for part in (sets[cut:], sets[:cut]):
        reached = [(numbers, *pair) for numbers in part for pair in taught.expressions(numbers).items()]
        rows = [taught.game(rng.sample(n, count), target, rng.choice(found)) for n, target, found in reached]
        splits.append(Dataset.from_list(rng.sample(rows, len(rows))))
    return splits[0], splits[1]


def countdown(profile: Profile, seed: int) -> dict[str, pd.DataFrame]:
    """Warm-up, then GRPO, on games split by `seed`.

    Returns:
        history; rates, a row for each policy: held-out games, their share of each verdict, greedy.
    """
    train, held_out = games(3 if profile.max_completion_length > 128 else 2, seed=seed)
    held_out = held_out.select(range(min(len(held_out), profile.eval_questions)))
    model, tokenizer = models.load_policy(profile)
    rows = []

    def note(policy: str, trained: Any) -> None:
        limit, batch = profile.max_completion_length, profile.eval_batch
        said = scored_replies(trained, tokenizer, held_out, REWARD_FUNCS, limit, batch_size=batch)
        asked = zip(said["completion"], held_out["numbers"], held_out["answer"], strict=True)
        found = [taught.verdict(*game) for game in asked]
        shares = {v: found.count(v) / len(found) for v in taught.VERDICTS}
        rows.append({"policy": policy, "games": len(found)} | shares)

    note("as shipped", model)
    shown = taught.demonstrations(train.select(range(taught.SHOWN)), taught.ideal_reply)
    taught.warm_up(model, tokenizer, shown, seed=seed, **taught.gentle_settings(model, profile))
    note("after warm-up", model)
    steps, accumulation = min(STEPS, profile.steps), BATCHES * profile.accumulation
    recipe = profile.with_(steps=steps, accumulation=accumulation)
    with tempfile.TemporaryDirectory() as folder:
        trainer = training.make_trainer(
            recipe, model, tokenizer, train, folder, REWARD_FUNCS, seed, doctor=False, save_strategy="no"
        )
        training.train_to_end(trainer)
    note("after GRPO", trainer.model)
    return {"history": history(trainer), "rates": pd.DataFrame(rows)}
