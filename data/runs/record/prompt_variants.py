"""The prompts of notebook 02 put to one policy: what each does to its replies."""

from __future__ import annotations

import pandas as pd

from grpo_helpers import models
from grpo_helpers.lessons.probing import ask_variants, measure_prompts, variants
from grpo_helpers.profiles import Profile

QUESTIONS = 200


def prompt_variants(profile: Profile, seed: int) -> dict[str, pd.DataFrame]:
    """Ask the untrained policy the same questions under each of `probing.variants`.

    Returns:
        `rates`, from `probing.measure_prompts`, and `completions`, three of each variant.
    """
    model, tokenizer = models.load_policy(profile)
    replies = ask_variants(profile, model, tokenizer, variants(), QUESTIONS, seed)
    columns = ["variant", "question", "gold", "completion", "strict", "flexible", "truncated"]
    return {
        "rates": measure_prompts(replies).reset_index(),
        "completions": replies.groupby("variant", sort=False).head(3)[columns].reset_index(drop=True),
    }
