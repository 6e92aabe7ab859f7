"""More than one process: a run that several can share, and questions on disk for `trl grpo`.

`accelerate launch … -m grpo_helpers.lessons.scaling train outputs/two --batch 32` trains the tiny policy in every
process that the launcher starts. Its completions depend on the seed, the step and their place in the whole batch, never
on the process that writes them, so that one process with 64 completions and two with 32 do the same.
`python -m grpo_helpers.lessons.scaling prepare outputs/prepared/tiny --profile tiny` writes questions for `trl grpo`.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer, PrinterCallback
from trl import GRPOTrainer

from .. import data, models, pretrained, records, training
from ..__main__ import exit_code
from ..fast import sampling
from ..profiles import PROFILES, TINY, Profile
from ..rewards import REWARD_FUNCS


def prepare(profile: Profile, folder: str | Path) -> Path:
    """The profile's questions with prompts as `folder`/train.jsonl; the folder is a configuration's `dataset_name`."""
    questions = data.load_task(profile, "train", profile.max_samples)
    tokenizer = AutoTokenizer.from_pretrained(pretrained.find_weights(profile.model, profile.revision).folder)
    questions, _ = data.drop_long_prompts(questions, tokenizer, profile.max_prompt_length)
    Path(folder).mkdir(parents=True, exist_ok=True)
    questions.to_pandas().to_json(Path(folder) / "train.jsonl", orient="records", lines=True)
    return Path(folder)


@torch.no_grad()
def rank_free_rollout(prompts: list[Any], trainer: Any) -> dict[str, Any]:
    """TRL's `rollout_func`: completions drawn by (seed, step, place in the whole batch), whoever draws them."""
    tokenizer, length, model = trainer.processing_class, trainer.max_completion_length, trainer.model
    prompt_ids = tokenizer.apply_chat_template(prompts, add_generation_prompt=True, return_dict=False)
    first = trainer.accelerator.process_index * len(prompts)
    keys = [(trainer.args.seed, trainer.state.global_step, first + i) for i in range(len(prompts))]
    draws = torch.tensor(np.array([1 - np.random.default_rng(key).random(length) for key in keys]), device=model.device)
    ids, mask = sampling.pad_left(prompt_ids, tokenizer.pad_token_id, model.device)

    def choose(so_far: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        cumulative = (logits.double() / trainer.temperature).softmax(dim=-1).cumsum(dim=-1)
        draw = draws[:, so_far.shape[1] - ids.shape[1], None] * cumulative[:, -1:]
        token = torch.searchsorted(cumulative, draw).clamp(max=logits.shape[-1] - 1)
        return torch.full_like(logits, -torch.inf).scatter(1, token, 0.0)

    output = model.generate(ids, attention_mask=mask, max_new_tokens=length, do_sample=False, logits_processor=[choose])
    rows, end = output[:, ids.shape[1] :].tolist(), tokenizer.eos_token_id
    completions = [row[: row.index(end) + 1] if end in row else row for row in rows]
    return {"prompt_ids": prompt_ids, "completion_ids": completions, "logprobs": None}


def train(folder: str | Path, batch: int, steps: int = 8, loss_type: str = "dapo") -> None:
    """Train the tiny policy with `batch` completions in this process, and in each of its siblings if there are any.

    Adam divides a gradient by its size, so that rounding would decide the step where a gradient is next to nothing; a
    larger epsilon than usual prevents it. Every process writes the adapter it ends with and its history, to
    rank-<number>.safetensors and history-<number>.csv.
    """
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # `rollout_func` is declared experimental in TRL 1.16
    folder, profile = Path(folder), TINY.with_(batch=batch, steps=steps, loss_type=loss_type)
    folder.mkdir(parents=True, exist_ok=True)
    model, tokenizer = models.load_policy(profile)
    options = {"use_cpu": True, "save_strategy": "no", "adam_epsilon": 1e-5, "ddp_find_unused_parameters": False}
    trainer = GRPOTrainer(
        model=model.to("cpu"),
        reward_funcs=list(REWARD_FUNCS),
        args=training.grpo_config(profile, folder, **options),
        train_dataset=data.load_task(profile, "train", 500),
        processing_class=tokenizer,
        peft_config=models.lora_config(profile),
        rollout_func=rank_free_rollout,
    )
    trainer.remove_callback(PrinterCallback)
    training.train(trainer)
    rank, processes = trainer.accelerator.process_index, trainer.accelerator.num_processes
    trained = {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
    save_file(trained, folder / f"rank-{rank}.safetensors")
    records.history(trainer).to_csv(folder / f"history-{rank}.csv", index=False)
    line = f"process {rank} of {processes}: {steps} steps, {batch} completions in each\n"
    print(line, end="", flush=True)  # one write a process: two at once may share a line
    trainer.accelerator.end_training()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m grpo_helpers.lessons.scaling")
    parser.add_argument("command", choices=("prepare", "train"), help="questions for `trl grpo`, or the tiny policy")
    parser.add_argument("folder", help="where the result goes")
    parser.add_argument("--profile", choices=PROFILES, default="tiny", help="whose questions to prepare")
    parser.add_argument("--batch", type=int, default=64, help="completions in each process that trains")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--loss_type", default="dapo", help="as in GRPOConfig")
    args = parser.parse_args()
    if args.command == "prepare":
        return exit_code(lambda: print(prepare(PROFILES[args.profile], args.folder)))
    return exit_code(lambda: train(args.folder, args.batch, args.steps, args.loss_type))


if __name__ == "__main__":
    sys.exit(main())
