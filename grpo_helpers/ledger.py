"""What a training takes on a GPU: seconds and memory of its phases, the largest activation, steps lost to overflow.

The main job keeps it in run.json, `make gpu-check` sets the planner beside it.
"""

import time
from typing import Any

import pandas as pd
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from trl import GRPOTrainer

from .machine import gpu_record
from .profiles import GB
from .prompts import prompt_ids


def largest_activation(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: list[dict]) -> float:
    """The largest magnitude of the hidden states for `prompt`; float16 ends at 65,504.

    Logits that are not finite in this precision are a ValueError.
    """
    ids = torch.tensor(prompt_ids(tokenizer, [prompt]), device=model.device)
    with torch.no_grad():
        output = model(ids, output_hidden_states=True)
    if not output.logits.isfinite().all():
        what = f"the policy's logits are not finite in {str(model.dtype).removeprefix('torch.')}: made for bfloat16, it"
        raise ValueError(f"{what} overflows; take a card that has bfloat16 (an L4, an A100) or another model")
    return max(float(states.abs().max()) for states in output.hidden_states)


class Ledger(TrainerCallback):
    """Watches a trainer from `attach` on, for the steps that this process takes; without a GPU it does nothing.

    Phases: generation, scoring (the forward pass) and backward of each batch, and the optimizer's step. Each waits for
    the GPU at both ends.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: list[dict]) -> None:
        self.on_gpu = torch.cuda.is_available()
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats()
            self.activation = largest_activation(model, tokenizer, prompt)
        self.calls: list[tuple[str, int, float, float]] = []  # phase, steps before it, seconds, GB
        self.peak_gb, self.steps, self.lost = 0.0, 0, 0

    def begin(self) -> None:
        torch.cuda.synchronize()
        self._note_peak()
        torch.cuda.reset_peak_memory_stats()
        self.start = time.perf_counter()

    def end(self, phase: str) -> None:
        torch.cuda.synchronize()
        self.calls.append((phase, self.steps, time.perf_counter() - self.start, self._note_peak()))

    def _note_peak(self) -> float:
        now = torch.cuda.max_memory_allocated() / GB
        self.peak_gb = max(self.peak_gb, now)
        return now

    def watch(self, owner: Any, function: str, phase: str) -> None:
        """Replace `owner.function` by itself, watched; of functions that call each other only one can be."""
        inner = getattr(owner, function)

        def watched(*args: Any, **kwargs: Any) -> Any:
            self.begin()
            result = inner(*args, **kwargs)
            self.end(phase)
            return result

        setattr(owner, function, watched)

    def attach(self, trainer: GRPOTrainer) -> None:
        if not self.on_gpu:
            return
        self.scaler = trainer.accelerator.scaler  # in float16 only
        self.watch(trainer, "_generate_single_turn", "generation")
        self.watch(trainer, "compute_loss", "scoring")
        self.watch(trainer.accelerator, "backward", "backward")
        trainer.add_callback(self)

    def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        self.scale = self.scaler.get_scale() if self.scaler else 1.0
        self.begin()

    def on_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        self.end("optimizer step")
        self.steps += 1
        # accelerate's optimizer_step_was_skipped is always False with a fused optimizer, which skips by itself
        self.lost += self.scaler is not None and self.scaler.get_scale() < self.scale

    def results(self) -> dict[str, Any]:
        """What was seen: of each phase the median seconds of a call, the calls and the peak in GB; and the steps.

        `seconds_a_step` is the mean over the steps after the first, which is slower. The loss scale is 65,536 at first;
        a step that overflows is lost and halves it. Without a step there is neither.
        """
        self._note_peak()
        calls = pd.DataFrame(self.calls, columns=["phase", "step", "seconds", "peak_gb"])
        seen = {"seconds": ("seconds", "median"), "calls": ("step", "size"), "peak_gb": ("peak_gb", "max")}
        phases = calls.groupby("phase", sort=False).agg(**seen).round(3)
        found: dict[str, Any] = {"largest_activation": self.activation, "peak_gb": round(self.peak_gb, 3)}
        found |= {"phases": phases.to_dict("index"), "steps": self.steps}
        if self.steps:
            training = calls[calls["phase"].isin(("generation", "scoring", "backward", "optimizer step"))]
            steady = training[training["step"] >= min(1, self.steps - 1)]
            a_step = steady.groupby("phase", sort=False)["seconds"].sum() / steady["step"].nunique()
            found["seconds_a_step"] = a_step.round(3).to_dict()
            if self.scaler:
                found |= {"loss_scale": self.scaler.get_scale(), "steps_lost_to_overflow": self.lost}
        return found

    def facts(self) -> dict[str, Any]:
        """What run.json says of the GPU and of what the training took of it; nothing without one."""
        return {"gpu": gpu_record() | self.results()} if self.on_gpu else {}
