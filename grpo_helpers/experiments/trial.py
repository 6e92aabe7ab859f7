"""One complete training run for a notebook or an experiment: evaluate, train, evaluate, keep nothing on disk."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .. import data, evaluation, models, records, training
from ..profiles import Profile
from ..rewards import REWARD_FUNCS, RewardFunc


@dataclass
class Trial:
    """What a trial leaves: the history, the replies before and after (as `evaluation.evaluate`), the policy."""

    history: pd.DataFrame
    before: pd.DataFrame | None
    after: pd.DataFrame
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


def significant(table: pd.DataFrame, digits: int = 5) -> pd.DataFrame:
    """A table of numbers with so many significant digits, so that a record is small."""
    return table.map(lambda value: float(f"{value:.{digits}g}"))


def trial(
    profile: Profile,
    reward_funcs: Sequence[RewardFunc] = REWARD_FUNCS,
    seed: int = 42,
    *,
    questions: Dataset | None = None,
    evaluate_before: bool = True,
    temperature: float = 0.0,
    doctor: bool = False,
    **overrides: Any,
) -> Trial:
    """Train the profile's policy with `reward_funcs` for `profile.steps` steps and evaluate it on held-out questions.

    Args:
        questions: the training questions; None takes the profile's.
        evaluate_before: whether to evaluate the untrained policy too.
        temperature: of the evaluation; 0 is greedy.
        doctor: whether a run that cannot learn is stopped; an experiment goes on, to show what becomes of it.
        overrides: GRPOConfig fields.
    """
    model, tokenizer = models.load_policy(profile)
    held_out = data.load_task(profile, "test", profile.eval_questions)
    if questions is None:
        questions = data.load_task(profile, "train", profile.max_samples)
    questions, _ = data.drop_long_prompts(questions, tokenizer, profile.max_prompt_length)

    length, batch = profile.max_completion_length, profile.eval_batch

    def outcome(policy: Any) -> pd.DataFrame:
        return evaluation.evaluate(policy, tokenizer, held_out, length, temperature=temperature, batch_size=batch)

    before = outcome(model) if evaluate_before else None
    options: dict[str, Any] = {"save_strategy": "no"} | overrides
    with tempfile.TemporaryDirectory() as folder:
        trainer = training.make_trainer(
            profile, model, tokenizer, questions, folder, reward_funcs, seed, doctor=doctor, **options
        )
        training.train_to_end(trainer)
    return Trial(records.history(trainer), before, outcome(trainer.model), trainer.model, tokenizer)
