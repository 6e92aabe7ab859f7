"""One run whose checkpoints all answer the same held-out questions, for notebook 06: which of them is the best?"""

from __future__ import annotations

from typing import Any

import pandas as pd

from grpo_helpers import evaluation
from grpo_helpers.lessons.grids import USUAL, Watch, run_cell
from grpo_helpers.profiles import Profile

from .learned_reward import only_tiny

STEPS, LOOKS = 48, 24  # of the run: batches, and checkpoints that are asked


class Answers(Watch):
    """Keeps each verdict: a letter for each question, 1 if it is right in the layout, else a point."""

    def measure(self, model: Any) -> dict[str, str]:
        length, batch = self.profile.max_completion_length, self.profile.eval_batch
        table = evaluation.evaluate(model, self.tokenizer, self.held_out, length, batch_size=batch)
        return {"right": "".join(".1"[right] for right in table["strict"])}


def checkpoints(profile: Profile, seed: int) -> dict[str, pd.DataFrame]:
    """The profile's recipe, in fewer steps; twice as many held-out questions as it asks, greedily.

    Returns:
        answers: step, and right, what `Answers` keeps; the first row is the untrained policy's.
    """
    only_tiny(profile)
    short = profile.with_(steps=min(STEPS, profile.steps), eval_questions=2 * profile.eval_questions)
    rows = run_cell(short, USUAL, seed, LOOKS, watch=Answers)["curves"]
    batch = short.batch * short.accumulation
    return {"answers": pd.DataFrame([{"step": r["completions"] // batch, "right": r["right"]} for r in rows])}
