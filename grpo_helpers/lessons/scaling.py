"""More than one process: the arithmetic of a step, memory on each GPU, and a run that several processes can share.

`accelerate launch … -m grpo_helpers.lessons.scaling train outputs/two --batch 32` trains the tiny policy in every
process that the launcher starts. Its completions depend on the seed, the step and their place in the whole batch, never
on the process that writes them, so that one process with 64 completions and two with 32 do the same.
`python -m grpo_helpers.lessons.scaling prepare outputs/prepared/tiny --profile tiny` writes questions for `trl grpo`.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from safetensors.torch import save_file
from transformers import AutoTokenizer, PrinterCallback
from trl import GRPOTrainer

from .. import data, models, pretrained, records, training
from ..fast import sampling
from ..profiles import PROFILES, ROOT, T4, TINY, Profile
from ..rewards import REWARD_FUNCS
from .memory import GB, QWEN25_15B, ModelShape, Plan, plan


@dataclass(frozen=True)
class Step:
    """One optimizer step of all processes together; `batch` and `accumulation` are those of a single process."""

    processes: int
    batch: int
    accumulation: int
    num_generations: int

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < (least := 2 if name == "num_generations" else 1):
                raise ValueError(f"{name}={value}: at least {least} is needed")
        if self.completions % self.num_generations:
            fits = [g for g in range(2, self.completions + 1) if self.completions % g == 0]
            raise ValueError(
                f"{self.processes} processes × batch {self.batch} × accumulation {self.accumulation} completions do "
                f"not divide by num_generations={self.num_generations}; use one of {fits}, or a multiple of it as batch"
            )

    @property
    def completions(self) -> int:
        return self.processes * self.batch * self.accumulation

    @property
    def prompts(self) -> int:
        return self.completions // self.num_generations


# What an engine keeps in slices, one on each process; everything else is there whole, on every process.
# ZeRO: Rajbhandari et al., arXiv 1910.02054, section 5. FSDP: Zhao et al., arXiv 2304.11277.
SLICED = {"DDP": (), "ZeRO-1": ("optimizer",), "ZeRO-2": ("optimizer", "gradients")}
SLICED |= dict.fromkeys(("ZeRO-3", "FSDP"), ("optimizer", "gradients", "weights"))
# Sizes as in the public config.json of Qwen/Qwen2.5-7B; layers and heads also in arXiv 2412.15115, table 1.
QWEN25_7B = ModelShape(3584, 28, 28, 4, 18944, 152064, tied=False, biases=4608)
SHAPES = {"Qwen/Qwen2.5-1.5B-Instruct": QWEN25_15B, "Qwen/Qwen2.5-7B-Instruct": QWEN25_7B}


def per_process(whole: Plan, engine: str, processes: int) -> pd.DataFrame:
    """The table of `memory.plan`, in GB, as each of `processes` GPUs has it while it trains under an engine of SLICED.

    Sliced weights are put together where they are needed, in 16 bits: one layer at a time, and all of them while
    ZeRO-3 generates (TRL's `ds3_gather_for_generation`).

    Raises:
        ValueError: an unknown engine, or no process.
    """
    if engine not in SLICED or processes < 1:
        raise ValueError(f"{engine=}, {processes=}: the engine is one of {', '.join(SLICED)}, on at least 1 process")
    table, shape = whole.table[["generation", "update", "optimizer step"]].copy(), whole.shape
    table.loc[list(SLICED[engine])] /= processes
    if "weights" in SLICED[engine] and processes > 1:
        layer = (shape.parameters - shape.vocab * shape.hidden * (1 if shape.tied else 2)) / shape.layers
        together = {"generation": shape.parameters if engine == "ZeRO-3" else layer, "update": layer}
        slices = table.at["weights", "optimizer step"]
        table.loc["weights"] = [slices + 2 * together.get(phase, 0) / GB for phase in table.columns]
    return table


def read_config(path: str | Path) -> tuple[Step, str, pd.DataFrame]:
    """A configuration file of `trl grpo` for one of SHAPES: its step, its engine, and the memory of each GPU in GB.

    Raises:
        KeyError: a field that this arithmetic needs is not in the file.
    """
    config = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    shipped = files("trl.accelerate_configs") / f"{config['accelerate_config']}.yaml"
    launch = yaml.safe_load((shipped if shipped.is_file() else ROOT / config["accelerate_config"]).read_text())
    kind, zero = launch["distributed_type"], launch.get("deepspeed_config", {}).get("zero_stage")
    engine, processes = f"ZeRO-{zero}" if zero else {"FSDP": "FSDP"}.get(kind, "DDP"), launch["num_processes"]
    batch, accumulation = config["per_device_train_batch_size"], config["gradient_accumulation_steps"]
    step = Step(1 if kind == "NO" else processes, batch, accumulation, config["num_generations"])
    same = {name: config[name] for name in ("num_generations", "max_completion_length", "beta")}
    same |= {"checkpointing": config["activation_checkpointing"], "lora_rank": config.get("lora_r", T4.lora_rank)}
    profile = T4.with_(batch=batch, accumulation=accumulation, dtype="bfloat16", **same)
    shape, trainable = SHAPES[config["model_name_or_path"]], "lora" if config.get("use_peft") else "full"
    return step, engine, per_process(plan(profile, shape, trainable=trainable, on_gpu=True), engine, step.processes)


def prepare(profile: Profile, folder: str | Path, source: str | Path | None = None) -> Path:
    """The profile's training questions as `folder`/train.jsonl, with the column `prompt` that `trl grpo` wants.

    Args:
        source: as in `data.get_gsm8k_questions`.

    Returns:
        The folder: what a configuration names as its `dataset_name`.
    """
    questions = data.load_task(profile, "train", profile.max_samples, source)
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


def train(folder: str | Path, batch: int, steps: int = 8, loss_type: str = "dapo", seed: int = 42) -> None:
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
        args=training.grpo_config(profile, folder, seed, **options),
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
    print(f"process {rank} of {processes}: {steps} steps, {batch} completions in each", flush=True)
    trainer.accelerator.end_training()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m grpo_helpers.lessons.scaling")
    parser.add_argument("command", choices=("prepare", "train"), help="questions for `trl grpo`, or the tiny policy")
    parser.add_argument("folder", help="where the result goes")
    parser.add_argument("--profile", choices=PROFILES, default="tiny", help="whose questions to prepare")
    parser.add_argument("--batch", type=int, default=64, help="completions in each process that trains")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--loss_type", default="dapo", help="as in GRPOConfig")
    args = parser.parse_args()
    if args.command == "prepare":
        print(prepare(PROFILES[args.profile], args.folder))
    else:
        train(args.folder, args.batch, args.steps, args.loss_type)


if __name__ == "__main__":
    main()
