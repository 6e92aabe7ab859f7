"""Trained from completions that a rounded copy of the policy wrote, for notebook 09, whose cells say how it is rounded.

The copy stands for a faster engine, and TRL's own correction is applied to what it wrote. Every condition has the
recipe of notebook 08's lab; the float32 copy, which differs by rounding only, is what the others are compared with.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pandas as pd
import torch
from torch.nn.utils.rnn import pad_sequence

from grpo_helpers.fast.sampling import pad_left, sample_policy
from grpo_helpers.fast.trainer import SharedPromptTrainer, completion_logps
from grpo_helpers.lessons.grids import Setting, run_grid
from grpo_helpers.models import causal_lm
from grpo_helpers.profiles import Profile
from tests.cells import definitions

from .fair import JUDGE, POINTS, SEEDS
from .grid import LAB, kept
from .learned_reward import only_tiny

TAUGHT = definitions("09_scaling_out", "rounded")
CAP = 3.0  # TRL's vllm_importance_sampling_clip_max
DRIFT = ("drift/token", "drift/completion", "drift/beyond")


class RoundedSampler(SharedPromptTrainer):
    """A copy of the policy, merged with its adapter and rounded anew before each step, writes the completions.

    TRL takes the log-probabilities that come with them for vLLM's. Logged: DRIFT, which is the size of a token's
    log-ratio, trainer less sampler, and of a completion's, and the share of completions whose ratio is beyond CAP.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.use_vllm = True  # set only now, because TRL would look for a server; from here on: correct, if asked to

    def copy(self) -> torch.nn.Module:
        return deepcopy(self.model).merge_and_unload().eval()

    def _generate_single_turn(
        self, prompt_ids: list[list[int]], images: Any, multimodal_fields: Any, num_generations: int, *args: Any
    ) -> tuple[list[list[int]], list[list[float]]]:
        copy, tokenizer = self.copy(), self._tokenizer
        how = self.max_completion_length, num_generations, self.temperature
        completions = sample_policy(copy, tokenizer, prompt_ids[::num_generations], *how)
        prompts = pad_left(prompt_ids, tokenizer.pad_token_id, "cpu")
        ids = pad_sequence([torch.tensor(row) for row in completions], batch_first=True)
        mask = pad_sequence([torch.ones(len(row), dtype=torch.long) for row in completions], batch_first=True)
        with torch.no_grad():
            theirs, ours = (
                completion_logps(model, *prompts, ids, mask, self.temperature)[0]
                for model in (copy, causal_lm(self.model))
            )
        apart = ours - theirs
        of_token, of_completion = apart[mask.bool()], apart.sum(dim=1)
        sizes = of_token.abs().mean(), of_completion.abs().mean(), (of_completion.exp() > CAP).float().mean()
        for name, size in zip(DRIFT, sizes, strict=True):
            self._metrics["train"][name].append(size.item())
        return completions, [row[: len(c)] for row, c in zip(theirs.tolist(), completions, strict=True)]


class BFloat16(RoundedSampler):
    def copy(self) -> torch.nn.Module:
        return super().copy().to(torch.bfloat16)


class ThreeBits(RoundedSampler):
    def copy(self) -> torch.nn.Module:
        return TAUGHT.rounded(super().copy(), bits=3)


UNCORRECTED = {"vllm_importance_sampling_correction": False}


def setting(trainer: type[RoundedSampler], changes: dict[str, Any] = UNCORRECTED) -> Setting:
    return Setting(changes, trainer=trainer, logged=DRIFT)


def corrected(mode: str, **changes: Any) -> Setting:
    options = {"vllm_importance_sampling_mode": mode, "vllm_importance_sampling_clip_max": CAP}
    return setting(ThreeBits, options | changes)


SETTINGS = {
    "float32": setting(RoundedSampler),
    "bfloat16": setting(BFloat16),
    "3 bits": setting(ThreeBits),
    "3 bits, tokens truncated": corrected("token_truncate"),
    "3 bits, completions masked": corrected("sequence_mask"),  # TRL's default
    "3 bits, completions masked, rate 0.004": corrected("sequence_mask", learning_rate=4e-3),  # it makes a step smaller
}


def mismatch(profile: Profile, seed: int) -> dict[str, pd.DataFrame]:
    """The tables of `run_grid` for SETTINGS, from SEEDS seeds; the history also has DRIFT."""
    only_tiny(profile)
    with kept("mismatch", profile, seed) as keep:
        judged = profile.with_(steps=LAB.STEPS, eval_questions=JUDGE)
        return run_grid(SETTINGS, judged, range(seed, seed + SEEDS), keep=keep, points=POINTS)
