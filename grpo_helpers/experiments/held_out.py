"""Held-out accuracy along a run, against the seconds that training alone has taken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import PreTrainedTokenizerBase, TrainerCallback

from .. import data, evaluation
from ..profiles import Profile

MEASURED = ("strict", "flexible", "format", "worked")
Measure = Callable[[Any], dict[str, float]]


def held_out_rates(profile: Profile, tokenizer: PreTrainedTokenizerBase) -> Measure:
    """A function of a policy: its rates MEASURED (0 to 1) and mean `tokens` on the held-out questions, greedily."""
    held_out = data.load_task(profile, "test", profile.eval_questions)
    longest, batch = profile.max_completion_length, profile.eval_batch

    def measure(policy: Any) -> dict[str, float]:
        table = evaluation.evaluate(policy, tokenizer, held_out, longest, batch_size=batch)
        return table[[*MEASURED, "tokens"]].mean().round(4).to_dict()

    return measure


class HeldOut(TrainerCallback):
    """Rows of what `measure` finds and when; the time that it takes does not count.

    The first row is noted before training. A subclass says when there are
    others, by calling `note` in its `on_step_end`.
    """

    def __init__(self, measure: Measure, clock: Callable[[], float]) -> None:
        self.measure, self.clock, self.rows = measure, clock, []

    def note(self, model: Any, seconds: float, **at: int) -> None:
        """A row: `at`, seconds, and what is measured."""
        self.rows.append(at | {"seconds": round(seconds, 2)} | self.measure(model))
        self.start = self.clock() - seconds

    @property
    def seconds(self) -> float:
        """Of training, so far."""
        return self.clock() - self.start

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.start = self.clock() - self.rows[-1]["seconds"]
