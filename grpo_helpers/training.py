"""Training with TRL's GRPOTrainer: configuration, checks before the first step, and safe resume."""

import contextlib
import errno
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from . import checkpoints, rewards
from .callbacks import DoctorCallback, RewardProgress, StopAtStepEnd
from .fast.sampling import supports_sharing
from .fast.trainer import SharedPromptTrainer
from .files import disk_is_full
from .machine import resolve_dtype
from .mistakes import has_calculation
from .models import check_targets, lora_config
from .profiles import Profile, without_root
from .prompts import gold_text
from .rewards import REWARD_FUNCS, Completion, RewardFunc

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

    One that would not do what it says, as by an old name, which transformers ignores, is a ValueError.
    """
    if "chat_template_kwargs" in overrides:
        raise ValueError("chat_template_kwargs reach only training here; set them in the profile, then load it again")
    if not 0 < (temperature := overrides.get("temperature", profile.temperature)) < math.inf:
        raise ValueError(f"temperature={temperature}: logits are divided by it, so it must be above 0")
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


def checked(reward_func: RewardFunc, name: str, watch: bool) -> RewardFunc:
    """The same reward function, async if it is, under `name`; it refuses to return nonsense.

    With `watch` the share of completions that state a calculation is logged beside it, as WORKED.
    """

    def judged(got: Any, /, completions: Sequence[Completion], log_metric: Any = None, **_: Any) -> list[float | None]:
        if watch and log_metric is not None:
            log_metric(WORKED, sum(has_calculation(rewards.completion_text(c)) for c in completions) / len(completions))
        return rewards.usable(got, name, completions)

    def wrapper(**kwargs: Any) -> list[float | None]:
        return judged(reward_func(**kwargs), **kwargs)

    async def awaiting(**kwargs: Any) -> list[float | None]:
        return judged(await reward_func(**kwargs), **kwargs)

    safe = awaiting if rewards.is_async(reward_func) else wrapper
    safe.__name__ = name
    return safe


def watched_and_checked(reward_funcs: Sequence[RewardFunc]) -> list[RewardFunc]:
    """Each function `checked`, the first of them watched as well; reward models are left to TRL."""
    names, own = rewards.reward_names(reward_funcs), [i for i, f in enumerate(reward_funcs) if not rewards.is_model(f)]
    return [checked(f, names[i], watch=i == own[0]) if i in own else f for i, f in enumerate(reward_funcs)]


def check_questions(profile: Profile, dataset: Dataset) -> None:
    """A ValueError if they do not fill one step, or hold a prompt that is neither a text nor a chat."""
    if len(dataset) < profile.prompts_per_step:
        what = f"{len(dataset)} questions are fewer than the {profile.prompts_per_step} that one step asks"
        now = f"{profile.batch} × {profile.accumulation} completions"
        raise ValueError(f"{what}; take more questions, or a smaller batch (now {now})")
    for row, prompt in enumerate(dataset["prompt"]):
        turns = prompt if isinstance(prompt, list) else [None]
        chat = all(isinstance(turn, dict) and turn.get("role") and turn.get("content") for turn in turns)
        if not prompt or not (chat or isinstance(prompt, str)):
            what = "a text, or a list of messages, each with its role and content"
            raise ValueError(f"the prompt in row {row} is {str(prompt)[:200]!r}; give {what}")


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
    """A GRPO trainer for the profile, ready for `train`; `overrides` are GRPOConfig fields.

    `reward_funcs` is what TRL takes: one, or several whose rewards are added up. The `doctor` stops a run that cannot
    learn. Questions, rewards or LoRA targets that cannot be trained with are a ValueError.
    """
    reward_funcs = [reward_funcs] if callable(reward_funcs) or rewards.is_model(reward_funcs) else list(reward_funcs)
    if not reward_funcs:
        raise ValueError("no reward function: give at least one")
    if not isinstance(dataset, Dataset):
        raise ValueError(f"the questions are of type {type(dataset).__name__}: make a Dataset, as by Dataset.from_list")
    gold = ["answer"] if rewards.correctness_reward_func in reward_funcs else []
    for column in ("prompt", *gold):
        if column not in dataset.column_names:
            raise ValueError(f"the dataset has no column {column!r} (it has {dataset.column_names})")
    rewards.check_columns(dataset.column_names)
    check_questions(profile, dataset)
    check_targets(model, profile.lora_targets)
    list(map(gold_text, dataset["answer"] if gold else []))
    prompt = dataset[0]["prompt"]
    if isinstance(prompt, str) and not any(token in prompt for token in tokenizer.all_special_tokens):
        print("the prompts are plain strings, to which TRL applies no chat template: a chat model may run on and")
        print("never end its turn; give messages instead, [{'role': 'user', 'content': ...}]")
    one_process = int(os.environ.get("WORLD_SIZE", "1")) == 1
    share = profile.shared_prompts and one_process and supports_sharing(model)
    trainer = (SharedPromptTrainer if share else GRPOTrainer)(
        model=model,
        reward_funcs=watched_and_checked(reward_funcs),
        args=grpo_config(profile, output_dir, seed, **overrides),
        train_dataset=dataset,
        processing_class=tokenizer,
        peft_config=lora_config(profile),
        callbacks=[*callbacks, *([DoctorCallback()] if doctor else []), RewardProgress()],
    )
    if share:
        trainer.skip_tied = profile.skip_tied
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer


FINISHED, INTERRUPTED, STOPPED = "finished", "interrupted", "stopped by the doctor"


@dataclass(frozen=True)
class Outcome:
    """How a training ended: FINISHED, INTERRUPTED (by Ctrl-C) or STOPPED (by the doctor, for its `finding`)."""

    how: str
    step: int
    finding: Any = None

    @property
    def finished(self) -> bool:
        return self.how == FINISHED

    def __str__(self) -> str:
        why = f": {self.finding.name}; remedy: {self.finding.remedy}" if self.finding else ""
        return f"{self.how} at step {self.step}{why}"


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


class FitsCheckpoint(TrainerCallback):
    """Before the first step after a resume: a fused optimizer given moments of another shape reads past their end."""

    begun = False

    def on_step_begin(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any) -> None:
        kept = [] if self.begun else optimizer.state.items()
        if wrong := [p.shape for p, moments in kept if moments.get("exp_avg", p).shape != p.shape]:
            raise ValueError(f"optimizer.pt belongs to another adapter: this one has weights of shape {wrong[0]}")
        self.begun = True


def train(trainer: GRPOTrainer, resume: bool = False) -> Outcome:
    """Train, from the newest whole checkpoint if `resume`, until the end, Ctrl-C or the doctor stops it.

    Afterwards the policy is ready to generate: eval mode, KV cache on, no activation checkpointing. (Left in train mode
    it would sample with dropout and recompute every token.)

    A full disk is an OSError, and the run can be resumed once there is room; a checkpoint of another run a ValueError.
    """
    stop, fits = StopAtStepEnd(), FitsCheckpoint()
    trainer.add_callback(stop)
    trainer.add_callback(fits)
    checkpoint = checkpoints.latest(trainer.args.output_dir) if resume else None
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
            if fits.begun or not checkpoint:
                raise
            why = f"{type(error).__name__}: {error}".partition("\n")[0]
            raise ValueError(f"{checkpoint} does not fit this run ({why}); delete it to use an older one") from error
        what = f"step {trainer.state.global_step} could not be saved ({error}); make room, then resume"
        raise OSError(errno.ENOSPC, what, without_root(trainer.args.output_dir)) from error
    finally:
        stop.restore()
        trainer.remove_callback(stop)
        trainer.remove_callback(fits)
        trainer.model.eval()
        if trainer.args.activation_checkpointing:
            trainer.model.activation_checkpointing_disable()
        trainer.model.config.use_cache = True
    finding = next((c.stopped_by for c in trainer.callback_handler.callbacks if isinstance(c, DoctorCallback)), None)
    how = STOPPED if finding else INTERRUPTED if stop.stopped else FINISHED
    return Outcome(how, trainer.state.global_step, finding)


def train_to_end(trainer: GRPOTrainer) -> None:
    """`train` for an experiment, in which half a run is of no use: stopped by Ctrl-C, it raises KeyboardInterrupt."""
    if train(trainer).how == INTERRUPTED:
        raise KeyboardInterrupt("stopped by Ctrl-C")
