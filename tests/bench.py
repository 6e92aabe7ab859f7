"""Speed of this package beside the libraries' own ways, measured side by side in one run (`make bench`).

1. Seconds per optimizer step of the profile, against TRL's GRPOTrainer as it
   comes (model by name, default precision and memory settings), on the same
   policy, prompts and numbers of completions and tokens.
2. Evaluation throughput, against the article's one-question-at-a-time loop.

Every completion is forced to full length, so that all sides do equal work.
Ratios carry over to another machine; seconds do not.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

from transformers import PrinterCallback
from trl import GRPOConfig, GRPOTrainer

import grpo_helpers.trainer as shared
from grpo_helpers import data, evaluation, models, training
from grpo_helpers.files import write_json
from grpo_helpers.profiles import Profile, get_profile
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


def seconds_per_step(trainer: GRPOTrainer) -> float:
    """Median wall time between logged steps after the first, which warms up."""
    moments = []
    original = trainer.training_step

    def timed(*args, **kwargs):
        start = time.perf_counter()
        result = original(*args, **kwargs)
        moments.append(time.perf_counter() - start)
        return result

    trainer.training_step = timed
    trainer.train()
    return statistics.median(moments[1:])


def bench_training(profile: Profile, steps: int) -> dict[str, float]:
    profile = profile.with_(steps=steps + 1, save_steps=10_000)
    folder = models.find_weights(profile.model, profile.revision).folder
    seconds = {}
    with tempfile.TemporaryDirectory() as work:
        for name in ("this package", "TRL, same precision", "TRL as it comes"):
            model, tokenizer = models.load_policy(profile)
            train_set = data.load_task(profile, "train", 200)
            if name == "this package":
                trainer = training.make_trainer(profile, model, tokenizer, train_set, work)
            else:
                same = name == "TRL, same precision"
                bf16 = {"bf16": str(model.dtype) == "torch.bfloat16", "activation_checkpointing": False} if same else {}
                trainer = GRPOTrainer(
                    model=model if same else str(folder),
                    reward_funcs=list(REWARD_FUNCS),
                    args=trl_defaults(profile, work, **bf16),
                    train_dataset=train_set,
                    processing_class=tokenizer,
                    peft_config=models.lora_config(profile),
                )
            trainer.remove_callback(PrinterCallback)  # its rows of numbers would bury ours
            seconds[name] = seconds_per_step(trainer)
            print(f"  {name:22} {seconds[name]:7.2f} s a step", flush=True)
    return seconds


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
            lambda: [evaluation.generate_prediction(model, tokenizer, p, length) for p in prompts[:one_by_one]],
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
    shared.sample = full_length(shared.sample)
    facts = provenance(profile, seed=42) | {
        "command": f"make bench ARGS='--profile {args.profile} --steps {args.steps}'"
    }
    print(f"profile {profile.name}: {profile.batch} completions of {profile.max_completion_length} tokens a step")
    steps = bench_training(profile, args.steps)
    rates = bench_evaluation(profile, questions=2 * profile.eval_batch, one_by_one=12)
    ratios = {
        "step, against TRL as it comes": steps["TRL as it comes"] / steps["this package"],
        "step, against TRL in the same precision": steps["TRL, same precision"] / steps["this package"],
        "evaluation, against one at a time": rates["this package"] / rates["one at a time"],
    }
    for name, ratio in ratios.items():
        print(f"{name:42} {ratio:5.1f}× faster")
    if args.record:
        write_json(args.record, facts | {"seconds_per_step": steps, "questions_per_second": rates, "ratios": ratios})


if __name__ == "__main__":
    main()
