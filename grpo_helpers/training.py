"""Training with TRL's GRPOTrainer: configuration, safe resume, and the history as a table."""

from __future__ import annotations

import functools
import json
import math
import os
import signal
import sys
import threading
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from datasets import Dataset
from safetensors import SafetensorError, safe_open
from tqdm import tqdm  # not tqdm.auto: its widget would be all that a saved notebook keeps
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback, ProgressCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from .models import lora_config, resolve_dtype
from .profiles import Profile
from .rewards import REWARD_FUNCS, RewardFunc
from .sampling import supports_sharing
from .trainer import SharedPromptTrainer

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


def grpo_config(profile: Profile, output_dir: str | Path, seed: int = 42, **overrides: Any) -> GRPOConfig:
    """The profile as TRL's configuration; `overrides` are GRPOConfig fields."""
    dtype, on_gpu = resolve_dtype(profile), torch.cuda.is_available()
    fields: dict[str, Any] = {
        # sampling
        "num_generations": profile.num_generations,
        "temperature": profile.temperature,
        "max_completion_length": profile.max_completion_length,
        # optimisation
        "per_device_train_batch_size": profile.batch,
        "gradient_accumulation_steps": profile.accumulation,
        "max_steps": profile.steps,
        "learning_rate": profile.learning_rate,
        "lr_scheduler_type": profile.lr_scheduler,
        "warmup_steps": profile.warmup_steps,
        "max_grad_norm": profile.max_grad_norm,
        "weight_decay": profile.weight_decay,
        "adam_beta2": profile.adam_beta2,
        # objective
        "loss_type": profile.loss_type,
        "beta": profile.beta,
        "scale_rewards": profile.scale_rewards,
        "num_iterations": profile.num_iterations,
        # memory and machine; both precisions explicit, because TRL's default is bf16
        "use_cpu": not on_gpu,
        "fp16": dtype == torch.float16 and on_gpu,
        "bf16": dtype == torch.bfloat16,
        "activation_checkpointing": profile.checkpointing and on_gpu,
        "dataloader_pin_memory": on_gpu,
        # logging and checkpoints
        "logging_steps": 1,
        "save_steps": profile.save_steps,
        "save_total_limit": 2,
        "report_to": "none",
        "disable_tqdm": True,
        "seed": seed,
    }
    return GRPOConfig(output_dir=str(output_dir), **(fields | overrides))


def checked(reward_func: RewardFunc) -> RewardFunc:
    """The same reward function, refusing to return nonsense: a wrong count, NaN or infinity.

    TRL takes NaN for "no opinion" and trains on; a reward that is NaN by
    mistake then silently stops counting.
    """

    @functools.wraps(reward_func)
    def wrapper(**kwargs: Any) -> list[float | None]:
        rewards = list(reward_func(**kwargs))
        completions = kwargs["completions"]
        if len(rewards) != len(completions):
            raise ValueError(
                f"reward function {reward_func.__name__} returned {len(rewards)} rewards for {len(completions)} "
                "completions; return one float (or None) for each"
            )
        for i, reward in enumerate(rewards):
            if reward is not None and not math.isfinite(reward):
                raise ValueError(
                    f"reward function {reward_func.__name__} returned {reward} for completion {i}, "
                    f"{str(completions[i])[:200]!r}; return a finite float, or None for no opinion"
                )
        return rewards

    return wrapper


def make_trainer(
    profile: Profile,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Dataset,
    output_dir: str | Path,
    reward_funcs: Sequence[RewardFunc] = REWARD_FUNCS,
    seed: int = 42,
    callbacks: Sequence[TrainerCallback] = (),
    **overrides: Any,
) -> GRPOTrainer:
    """A GRPO trainer for the profile, ready for `train`.

    Raises:
        ValueError: the dataset lacks a column, is too small for one step, or
            the batch does not divide into groups.
    """
    for column in ("prompt", "answer"):
        if column not in dataset.column_names:
            raise ValueError(f"the dataset has no column {column!r} (it has {dataset.column_names})")
    if len(dataset) < profile.prompts_per_step:
        raise ValueError(
            f"{len(dataset)} questions are fewer than the {profile.prompts_per_step} that one step asks; "
            f"take more questions, or a smaller batch (now {profile.batch} × {profile.accumulation} completions)"
        )
    one_process = int(os.environ.get("WORLD_SIZE", "1")) == 1
    share = profile.shared_prompts and one_process and supports_sharing(model)
    trainer_class = SharedPromptTrainer if share else GRPOTrainer
    trainer = trainer_class(
        model=model,
        reward_funcs=[checked(f) for f in reward_funcs],
        args=grpo_config(profile, output_dir, seed, **overrides),
        train_dataset=dataset,
        processing_class=tokenizer,
        peft_config=lora_config(profile),
        callbacks=[RewardProgress(), *callbacks],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    return trainer


class RewardProgress(TrainerCallback):
    """A progress bar that shows the reward; TRL's own shows the loss, which says nothing in GRPO."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc="training", unit="step", file=sys.stdout)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if logs and "reward" in logs:
            self.bar.set_postfix(reward=f"{logs['reward']:.2f}", refresh=False)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar.update(state.global_step - self.bar.n)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar.close()


class StopAtStepEnd(TrainerCallback):
    """Turns the first Ctrl-C into a clean stop: finish the step, save a checkpoint, return."""

    def __init__(self) -> None:
        self.stopped = False
        self._previous: Any = None

    def _on_signal(self, signum: int, frame: Any) -> None:
        self.stopped = True
        signal.signal(signal.SIGINT, self._previous)  # a second Ctrl-C interrupts at once
        print("\nstopping after this step and saving; press Ctrl-C again to stop at once", flush=True)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._on_signal)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.stopped:
            control.should_training_stop = control.should_save = True

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.restore()

    def restore(self) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
            self._previous = None


def damage(checkpoint: str | Path) -> str | None:
    """What is wrong with a checkpoint folder, or None when it is whole.

    A process killed while saving leaves a folder with files missing or cut
    off; the state file is written last, the others are opened to be sure.
    """
    checkpoint = Path(checkpoint)
    try:
        state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        state["global_step"], state["log_history"]
        with safe_open(checkpoint / "adapter_model.safetensors", framework="pt") as weights:
            weights.keys()
        for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
            with zipfile.ZipFile(checkpoint / name) as archive:
                if (bad := archive.testzip()) is not None:
                    return f"{name} is damaged at {bad}"
    except FileNotFoundError as error:
        return f"{Path(error.filename or str(error)).name} is missing"
    except (OSError, ValueError, KeyError, TypeError, SafetensorError, zipfile.BadZipFile) as error:
        return f"{type(error).__name__}: {error}"
    return None


def latest_checkpoint(output_dir: str | Path) -> Path | None:
    """The newest whole checkpoint under `output_dir`, or None; says which damaged ones it passes over."""
    folders = [p for p in Path(output_dir).glob("checkpoint-*") if p.name.removeprefix("checkpoint-").isdecimal()]
    for folder in sorted(folders, key=lambda p: int(p.name.removeprefix("checkpoint-")), reverse=True):
        problem = damage(folder)
        if problem is None:
            return folder
        print(f"{folder.name} is not whole ({problem}); looking for an older one")
    return None


def train(trainer: GRPOTrainer, resume: bool = False) -> bool:
    """Train, from the newest whole checkpoint if `resume`; True if it ran to the end, False if Ctrl-C stopped it.

    Afterwards the policy is ready to generate: eval mode, KV cache on, no
    activation checkpointing. (Left in train mode it would sample with dropout
    and recompute every token.)
    """
    stop = StopAtStepEnd()
    trainer.add_callback(stop)
    checkpoint = latest_checkpoint(trainer.args.output_dir) if resume else None
    if resume:
        print(f"resuming from {checkpoint.name}" if checkpoint else "no whole checkpoint found: starting at step 0")
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    finally:
        stop.restore()
        trainer.remove_callback(stop)
        trainer.model.eval()
        if trainer.args.gradient_checkpointing:
            trainer.model.gradient_checkpointing_disable()
        trainer.model.config.use_cache = True
    return not stop.stopped


def history(source: GRPOTrainer | Sequence[dict[str, Any]] | str | Path) -> pd.DataFrame:
    """The training log as one table: a row for each logged step, TRL's names as columns.

    Args:
        source: a trainer, its `state.log_history`, or the path of a
            `trainer_state.json` or `history.csv`.

    Raises:
        ValueError: nothing with a reward was logged.
    """
    if isinstance(source, (str, Path)):
        if Path(source).suffix == ".csv":
            return pd.read_csv(source, comment="#")
        source = json.loads(Path(source).read_text(encoding="utf-8"))["log_history"]
    elif isinstance(source, GRPOTrainer):
        source = source.state.log_history
    rows = [row for row in source if "reward" in row]
    if not rows:
        raise ValueError("no training step with a reward has been logged; train first")
    table = pd.DataFrame(rows).drop_duplicates("step", keep="last").sort_values("step", ignore_index=True)
    first = ["step", "reward", "reward_std"]
    return table[first + [c for c in table.columns if c not in first]]
