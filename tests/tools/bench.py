"""Speed of this package beside the libraries' own ways, measured side by side in one run (`make bench`).

1. Seconds per optimizer step of the profile, against TRL's GRPOTrainer as it
   comes (model by name, default precision and memory settings), on the same
   policy, prompts and numbers of completions and tokens.
2. Where those seconds go, phase by phase, against the floor that this machine's
   matrix products and memory set (`bench_step`).
3. Evaluation throughput, against the article's one-question-at-a-time loop.

Every completion is forced to full length, so that all sides do equal work.
Ratios carry over to another machine; seconds do not.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch
from bench_step import Steps, floor, machine, step_phases
from transformers import PrinterCallback
from trl import GRPOConfig, GRPOTrainer

import grpo_helpers.fast.sampling as sampling
from grpo_helpers import data, evaluation, models, pretrained, training
from grpo_helpers.files import write_json
from grpo_helpers.profiles import Profile, get_profile
from grpo_helpers.prompts import prompt_ids
from grpo_helpers.rewards import REWARD_FUNCS
from grpo_helpers.run import provenance


def full_length(sample):
    """`sample` without an end-of-turn token."""

    def sample_all(*args, eos_id, **kwargs):
        return sample(*args, eos_id=-1, **kwargs)

    return sample_all


def trl_defaults(profile: Profile, output: str, **more) -> GRPOConfig:
    """TRL's defaults; only the sizes of a step are the profile's."""
    return GRPOConfig(
        output_dir=output,
        use_cpu=True,
        per_device_train_batch_size=profile.batch,
        num_generations=profile.num_generations,
        max_completion_length=profile.max_completion_length,
        generation_kwargs={"min_new_tokens": profile.max_completion_length},
        max_steps=profile.steps,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **more,
    )


def own_trainer(profile: Profile, steps: int, work: str) -> GRPOTrainer:
    model, tokenizer = models.load_policy(profile)
    train_set = data.load_task(profile, "train", 200)
    profile = profile.with_(steps=steps + 1, save_steps=10_000)  # one more to warm up
    return training.make_trainer(profile, model, tokenizer, train_set, work, doctor=False)


def trl_trainer(profile: Profile, steps: int, work: str, same_precision: bool) -> GRPOTrainer:
    model, tokenizer = models.load_policy(profile)
    precision = {"bf16": model.dtype == torch.bfloat16, "activation_checkpointing": False} if same_precision else {}
    return GRPOTrainer(
        model=model if same_precision else str(pretrained.find_weights(profile.model, profile.revision).folder),
        reward_funcs=list(REWARD_FUNCS),
        args=trl_defaults(profile.with_(steps=steps + 1), work, **precision),
        train_dataset=data.load_task(profile, "train", 200),
        processing_class=tokenizer,
        peft_config=models.lora_config(profile),
    )


WAYS = {
    "this package": own_trainer,
    "TRL, same precision": partial(trl_trainer, same_precision=True),
    "TRL as it comes": partial(trl_trainer, same_precision=False),
}


def step_seconds(way: str, profile: Profile, steps: int, work: str) -> float:
    """Median seconds of a step of one of WAYS."""
    sampling.sample = full_length(sampling.sample)  # here too: a spawned process knows nothing of `main`
    trainer = WAYS[way](profile, steps, work)
    trainer.remove_callback(PrinterCallback)  # its rows of numbers would bury ours
    watch = Steps()
    trainer.add_callback(watch)
    trainer.train()
    return watch.median


def bench_training(profile: Profile, steps: int, work: str) -> dict[str, float]:
    """Median seconds of a step of each of WAYS, one after another.

    Each has a process of its own: TRL's nearly fill 24 GB, and what another has left behind would be too much.
    """
    seconds = {}
    for way in WAYS:
        with ProcessPoolExecutor(1, get_context("spawn")) as alone:
            seconds[way] = alone.submit(step_seconds, way, profile, steps, work).result()
        print(f"  {way:22} {seconds[way]:7.2f} s a step", flush=True)
    return seconds


def bench_phases(profile: Profile, steps: int, work: str) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """Seconds and floor of each phase of this package's step, and the speed of the machine that sets the floor."""
    trainer = own_trainer(profile, steps, work)
    tokenizer, asked = trainer.processing_class, trainer.train_dataset["prompt"][: profile.prompts_per_step]
    prompts = prompt_ids(tokenizer, asked)
    completions, tokens = profile.batch * profile.accumulation, profile.max_completion_length
    speed = machine(trainer.model, completions * tokens)
    least = floor(trainer.model, prompts, completions, tokens, speed)
    phases = {name: {"seconds": s, "floor": least[name]} for name, s in step_phases(trainer).items()}
    print(f"  {speed['gemm_gflops']:.0f} GFLOP/s, {speed['bandwidth_gb_s']:.0f} GB/s; seconds a step, and the floor:")
    for name, row in phases.items():
        print(f"  {name:22} {row['seconds']:7.2f} {row['floor']:7.2f}", flush=True)
    return phases, speed


@torch.no_grad()
def one_reply(model, tokenizer, prompt, length):
    inputs = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_tensors="pt").to(model.device)
    output = model.generate(**inputs, max_new_tokens=length, do_sample=False)
    return tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def bench_evaluation(profile: Profile, questions: int, one_by_one: int) -> dict[str, float]:
    model, tokenizer = models.load_policy(profile)
    prompts = data.load_task(profile, "test", questions)["prompt"]
    length = profile.max_completion_length
    model.generation_config.min_new_tokens = length
    ways = {
        "this package": (
            partial(evaluation.generate_predictions, model, tokenizer, prompts, length, batch_size=profile.eval_batch),
            len(prompts),
        ),
        "one at a time": (
            lambda: [one_reply(model, tokenizer, p, length) for p in prompts[:one_by_one]],
            one_by_one,
        ),
    }
    rates = {}
    for name, (work, n) in ways.items():
        start = time.perf_counter()
        work()
        rates[name] = n / (time.perf_counter() - start)
        print(f"  {name:22} {rates[name]:7.2f} questions a second", flush=True)
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="small")
    parser.add_argument("--steps", type=int, default=2, help="timed steps of each trainer")
    parser.add_argument("--record", type=Path, help="also write the numbers to this JSON file")
    args = parser.parse_args()
    profile = get_profile(args.profile)
    sampling.sample = full_length(sampling.sample)
    facts = provenance(profile, seed=42) | {
        "command": f"make bench ARGS='--profile {args.profile} --steps {args.steps}'"
    }
    print(f"profile {profile.name}: {profile.batch} completions of {profile.max_completion_length} tokens a step")
    with tempfile.TemporaryDirectory() as work:
        steps = bench_training(profile, args.steps, work)
        phases, speed = bench_phases(profile, args.steps, work)
    rates = bench_evaluation(profile, questions=2 * profile.eval_batch, one_by_one=12)
    least = sum(row["floor"] for row in phases.values())
    ratios = {
        "step, against TRL as it comes": steps["TRL as it comes"] / steps["this package"],
        "step, against TRL in the same precision": steps["TRL, same precision"] / steps["this package"],
        "floor of this machine, against the step": steps["this package"] / least,
        "evaluation, against one at a time": rates["this package"] / rates["one at a time"],
    }
    for name, ratio in ratios.items():
        print(f"{name:42} {ratio:5.1f}× faster")
    if args.record:
        measured = {"seconds_per_step": steps, "phases": phases, "machine": speed, "questions_per_second": rates}
        write_json(args.record, facts | measured | {"ratios": ratios})


if __name__ == "__main__":
    main()
