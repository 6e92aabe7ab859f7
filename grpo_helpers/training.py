"""Training with TRL's GRPOTrainer: configuration, safe resume, and the history as a table."""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import math
import os
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import Dataset
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from .callbacks import DoctorCallback, RewardProgress, StopAtStepEnd
from .doctor import Finding
from .fast.sampling import supports_sharing
from .fast.trainer import SharedPromptTrainer
from .machine import resolve_dtype
from .mistakes import has_calculation
from .models import lora_config
from .profiles import Profile, without_root
from .rewards import REWARD_FUNCS, Completion, RewardFunc, completion_text

# Fields that have the same name in a profile and in TRL: sampling, optimisation, objective, checkpoints.
SAME = (
    *("num_generations", "temperature", "max_completion_length"),
    *("learning_rate", "warmup_steps", "max_grad_norm", "weight_decay", "adam_beta2"),
    *("loss_type", "beta", "scale_rewards", "num_iterations", "save_steps"),
)


WORKED = "completions/worked"  # logged: the share of completions that state a calculation


def machine_options(dtype: torch.dtype) -> dict[str, Any]:
    """Fields of any TRL configuration that follow from the machine and the weights' precision; each step is logged."""
    on_gpu = torch.cuda.is_available()
    return {
        "use_cpu": not on_gpu,
        # both precisions explicit, because TRL's default is bf16
        "fp16": dtype == torch.float16 and on_gpu,
        "bf16": dtype == torch.bfloat16,
        "dataloader_pin_memory": on_gpu,
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
    }


def grpo_config(profile: Profile, output_dir: str | Path, seed: int = 42, **overrides: Any) -> GRPOConfig:
    """The profile as TRL's configuration; `overrides` are GRPOConfig fields.

    Raises:
        ValueError: a field goes by an old name, which transformers would ignore beside the new one.
    """
    if old := [name for name in overrides if name.startswith("gradient_checkpointing")]:
        raise ValueError(f"{old[0]}={overrides[old[0]]!r}: it is called {old[0].replace('gradient', 'activation')} now")
    fields: dict[str, Any] = {name: getattr(profile, name) for name in SAME} | {
        "per_device_train_batch_size": profile.batch,
        "gradient_accumulation_steps": profile.accumulation,
        "max_steps": profile.steps,
        "lr_scheduler_type": profile.lr_scheduler,
        "activation_checkpointing": profile.checkpointing and torch.cuda.is_available(),
        "save_total_limit": 2,
        "seed": seed,
    }
    return GRPOConfig(output_dir=str(output_dir), **(fields | machine_options(resolve_dtype(profile)) | overrides))


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


def watched(reward_func: RewardFunc) -> RewardFunc:
    """The same reward function; beside it the share of completions that state a calculation is logged, as WORKED."""

    @functools.wraps(reward_func)
    def wrapper(completions: Sequence[Completion], log_metric: Any = None, **kwargs: Any) -> list[float | None]:
        if log_metric is not None:
            log_metric(WORKED, sum(has_calculation(completion_text(c)) for c in completions) / len(completions))
        return reward_func(completions=completions, log_metric=log_metric, **kwargs)

    return wrapper


def watched_and_checked(reward_funcs: Sequence[RewardFunc]) -> list[RewardFunc]:
    """Each function `checked`, the first of them `watched` as well."""
    safe = [checked(f) for f in reward_funcs]
    return [*map(watched, safe[:1]), *safe[1:]]


def make_trainer(
    profile: Profile,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Dataset,
    output_dir: str | Path,
    reward_funcs: Sequence[RewardFunc] = REWARD_FUNCS,
    seed: int = 42,
    callbacks: Sequence[TrainerCallback] = (),
    doctor: bool = True,
    **overrides: Any,
) -> GRPOTrainer:
    """A GRPO trainer for the profile, ready for `train`.

    Args:
        reward_funcs: their rewards are added up.
        callbacks: further ones, beside the progress bar.
        doctor: whether a run that cannot learn is stopped.
        overrides: GRPOConfig fields.

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
    if doctor:
        callbacks = [*callbacks, DoctorCallback()]
    trainer = trainer_class(
        model=model,
        reward_funcs=watched_and_checked(reward_funcs),
        args=grpo_config(profile, output_dir, seed, **overrides),
        train_dataset=dataset,
        processing_class=tokenizer,
        peft_config=lora_config(profile),
        callbacks=[*callbacks, RewardProgress()],
    )
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.remove_callback(transformers.ProgressCallback)
    return trainer


FINISHED, INTERRUPTED, STOPPED = "finished", "interrupted", "stopped by the doctor"


@dataclass(frozen=True)
class Outcome:
    """How a training ended: FINISHED, INTERRUPTED (by Ctrl-C) or STOPPED (by the doctor, for what `finding` says)."""

    how: str
    step: int
    finding: Finding | None = None

    @property
    def finished(self) -> bool:
        return self.how == FINISHED

    def __str__(self) -> str:
        why = f": {self.finding.name}; remedy: {self.finding.remedy}" if self.finding else ""
        return f"{self.how} at step {self.step}{why}"


def damage(checkpoint: str | Path) -> str | None:
    """What is wrong with a checkpoint folder, or None when it is whole.

    A process killed while saving leaves a folder with files missing or cut
    off; the state file is written last, the others are opened to be sure.
    """
    checkpoint, name = Path(checkpoint), "trainer_state.json"
    try:
        state = json.loads((checkpoint / name).read_text(encoding="utf-8"))
        state["global_step"], state["log_history"]
        name = "adapter_model.safetensors"
        with safe_open(checkpoint / name, framework="pt") as weights:
            weights.keys()
        scaler = ["scaler.pt"] if (checkpoint / "scaler.pt").exists() else []  # written in float16 only
        for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", *scaler):
            with zipfile.ZipFile(checkpoint / name) as archive:
                if (bad := archive.testzip()) is not None:
                    return f"{name} is damaged at {bad}"
    except FileNotFoundError:
        return f"{name} is missing"
    except (OSError, ValueError, KeyError, TypeError, SafetensorError, zipfile.BadZipFile) as error:
        return f"{name}: {type(error).__name__}: {error}"
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


def disk_is_full(error: BaseException) -> bool:
    """Whether `error` says that nothing more could be written; each library that saves says it in its own way."""
    words = ("No space left", "File too large", "quota exceeded", "PytorchStreamWriter failed", "unexpected pos")
    return any(word in str(error) for word in words)


@contextlib.contextmanager
def repeatable() -> Iterator[None]:
    """On a CPU, inside a `with` block, the same numbers to the last bit at every repetition.

    The gradient of a row that was indexed several times, as a shared prompt is, is otherwise added up by threads in
    whatever order they come (PyTorch's note on reproducibility).
    """
    before, memory = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic
    fill = memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(before or not torch.cuda.is_available(), warn_only=True)
    memory.fill_uninitialized_memory = False  # a debugging aid that costs time
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        memory.fill_uninitialized_memory = fill


def train(trainer: GRPOTrainer, resume: bool = False) -> Outcome:
    """Train, from the newest whole checkpoint if `resume`, until the end, Ctrl-C or the doctor stops it.

    Afterwards the policy is ready to generate: eval mode, KV cache on, no
    activation checkpointing. (Left in train mode it would sample with dropout
    and recompute every token.)

    Raises:
        OSError: the disk is full; the run can be resumed once there is room.
    """
    stop = StopAtStepEnd()
    trainer.add_callback(stop)
    checkpoint = latest_checkpoint(trainer.args.output_dir) if resume else None
    if resume:
        print(f"resuming from {checkpoint.name}" if checkpoint else "no whole checkpoint found: starting at step 0")
    saved = checkpoint and transformers.TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    try:
        if saved and saved.global_step >= trainer.args.max_steps > 0:  # the Trainer would take one step too many
            trainer._load_from_checkpoint(str(checkpoint))
            trainer.state = saved
        else:
            with repeatable():
                trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except Exception as error:
        if not disk_is_full(error):
            raise
        what = f"step {trainer.state.global_step} could not be saved ({error}); make room, then resume"
        raise OSError(errno.ENOSPC, what, without_root(trainer.args.output_dir)) from error
    finally:
        stop.restore()
        trainer.remove_callback(stop)
        trainer.model.eval()
        if trainer.args.activation_checkpointing:
            trainer.model.activation_checkpointing_disable()
        trainer.model.config.use_cache = True
    doctors = [c for c in trainer.callback_handler.callbacks if isinstance(c, DoctorCallback)]
    finding = doctors[0].stopped_by if doctors else None
    how = STOPPED if finding else INTERRUPTED if stop.stopped else FINISHED
    return Outcome(how, trainer.state.global_step, finding)


def train_to_end(trainer: GRPOTrainer) -> None:
    """`train` for an experiment, in which half a run is of no use.

    Raises:
        KeyboardInterrupt: Ctrl-C stopped it.
    """
    if train(trainer).how == INTERRUPTED:
        raise KeyboardInterrupt("stopped by Ctrl-C")
