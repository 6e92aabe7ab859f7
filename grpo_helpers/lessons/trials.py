"""A trial: one training run with rewards of one's own, evaluated on held-out questions; nothing is kept on disk."""

import tempfile
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from .. import data, models, records, training
from ..evaluation import RATES, evaluate
from ..profiles import Profile
from ..rewards import REWARD_FUNCS, RewardFunc
from ..statistics import wilson_interval


class Trial(NamedTuple):
    """What a trial leaves: the history, and the replies before and after as `evaluation.evaluate` gives them."""

    history: pd.DataFrame
    before: pd.DataFrame | None
    after: pd.DataFrame


def trial(
    profile: Profile,
    reward_funcs: Sequence[RewardFunc] = REWARD_FUNCS,
    seed: int = 42,
    *,
    witnesses: Sequence[RewardFunc] = (),
    evaluate_before: bool = True,
    temperature: float = 0.0,
    **overrides: Any,
) -> Trial:
    """Train the profile's policy with `reward_funcs` and evaluate it. No doctor stops it: what becomes of it is shown.

    `witnesses` are rewards that are asked and logged, and pay nothing: their weight is 0. With `evaluate_before` the
    untrained policy is evaluated too. `temperature` is the evaluation's; 0 is greedy, which does not show what a policy
    does rarely. `overrides` are GRPOConfig fields.
    """
    model, tokenizer = models.load_policy(profile)
    held_out = data.load_task(profile, "test", profile.eval_questions)
    questions = data.load_task(profile, "train", profile.max_samples)
    questions, _ = data.drop_long_prompts(questions, tokenizer, profile.max_prompt_length)
    asked = (tokenizer, held_out, profile.max_completion_length)
    sampling = {"temperature": temperature, "batch_size": profile.eval_batch}
    before = evaluate(model, *asked, **sampling) if evaluate_before else None
    weights = [1.0] * len(reward_funcs) + [0.0] * len(witnesses)
    options: dict[str, Any] = {"save_strategy": "no", "reward_weights": weights} | overrides
    with tempfile.TemporaryDirectory() as folder:
        trainer = training.make_trainer(
            profile, model, tokenizer, questions, folder, [*reward_funcs, *witnesses], seed, doctor=False, **options
        )
        training.train_to_end(trainer)
    return Trial(records.history(trainer), before, evaluate(trainer.model, *asked, **sampling))


def rates(outcomes: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Held-out rates: one row for each policy and outcome, with hits, n and the 95 % Wilson interval (0 to 1)."""
    rows = []
    for policy, table in outcomes.items():
        for column in RATES:
            hits, n = int(table[column].sum()), len(table)
            rows.append((policy, column, hits, n, hits / n, *wilson_interval(hits, n)))
    return pd.DataFrame(rows, columns=["policy", "outcome", "hits", "n", "rate", "low", "high"])
