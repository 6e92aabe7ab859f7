"""A few steps of a profile on this machine's GPU: seconds and memory of each phase, planned beside measured.

    python tests/tools/gpu_check.py                     about ten minutes on a T4 (an estimate); prints
    python tests/tools/gpu_check.py --record            also writes data/runs/gpu-<card>
    python tests/tools/gpu_check.py --cap 15 --as-t4    a larger card stands in for a T4: its memory, and float16
    python tests/tools/gpu_check.py --only 0            the first of SETTINGS alone

Any CUDA machine will do. Where the profile's weights cannot be had, random weights of the same shape take their place:
what they write is noise that never ends, which is the longest and largest that a step can be. So seconds and memory
are measured; what is learned is not.
"""

from __future__ import annotations

import argparse
import gc
import shlex
import sys
import tempfile
import time
from typing import Any

import pandas as pd
import torch
from transformers import AutoTokenizer, GenerationConfig, Qwen2Config, Qwen2ForCausalLM

from grpo_helpers import data, evaluation, machine, models, profiles, run, training
from grpo_helpers.__main__ import exit_code
from grpo_helpers.fast import sampling
from grpo_helpers.files import write_json
from grpo_helpers.ledger import Ledger
from grpo_helpers.lessons import memory
from grpo_helpers.pretrained import WeightsNotFound
from grpo_helpers.prompts import prompt_ids

SETTINGS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "transformers' generate in place of fast.sampling": {"shared_prompts": False},
    "no checkpointing, batch 2 x 16, 160 tokens": {
        "checkpointing": False,
        "batch": 2,
        "accumulation": 16,
        "max_completion_length": 160,
    },
}


def policy(profile: profiles.Profile, random: bool) -> tuple[Any, Any, str]:
    """The profile's policy, or random weights of Qwen2.5-1.5B's shape with the tiny policy's tokenizer."""
    if not random:
        try:
            return *models.load_policy(profile), profile.model
        except WeightsNotFound as error:
            print(f"{error}\nrandom weights take their place")
    tokenizer = AutoTokenizer.from_pretrained(profiles.TINY.model, padding_side="left")
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    shape = memory.QWEN25_15B
    sizes = {"hidden_size": shape.hidden, "intermediate_size": shape.intermediate, "vocab_size": shape.vocab}
    heads = {"num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads}
    config = Qwen2Config(
        **sizes | heads | ends,
        num_hidden_layers=shape.layers,
        tie_word_embeddings=shape.tied,
        pad_token_id=tokenizer.pad_token_id,
        dtype=machine.resolve_dtype(profile),
    )
    torch.manual_seed(0)
    with torch.device("cuda"):
        model = Qwen2ForCausalLM(config).to(config.dtype).eval()
    model.generation_config = GenerationConfig(**ends, pad_token_id=tokenizer.pad_token_id)
    return model, tokenizer, "random weights of Qwen2.5-1.5B's shape"


def decoding(model: Any, tokenizer: Any, prompts: list[list[int]], rows: int, tokens: int) -> dict[str, float]:
    """Milliseconds a token of `rows` completions: transformers' generate, as TRL calls it, and `fast.sampling`."""
    groups = prompts[: max(1, rows // 8)]
    ids, mask = sampling.pad_left([p for p in groups for _ in range(8)], tokenizer.pad_token_id, "cuda")

    def generate() -> None:
        limits = {"max_new_tokens": tokens, "min_new_tokens": tokens}
        model.generate(input_ids=ids, attention_mask=mask, do_sample=True, top_k=0, top_p=1.0, **limits)

    def ours() -> None:
        never = {"eos_id": -1, "pad_id": tokenizer.pad_token_id}
        with sampling.quick_adapters(model):
            sampling.sample(models.causal_lm(model), groups, max_new_tokens=tokens, num_generations=8, **never)

    found = {}
    for name, function in {"generate": generate, "fast.sampling": ours}.items():
        function()
        torch.cuda.synchronize()
        start = time.perf_counter()
        function()
        torch.cuda.synchronize()
        found[name] = round(1000 * (time.perf_counter() - start) / tokens, 2)
    return found


def check(profile: profiles.Profile, random: bool, steps: int, tokens: int = 64) -> dict[str, Any]:
    """Everything that is measured, as `run.json` has it; decoding is timed over so many tokens."""
    model, tokenizer, weights = policy(profile, random)
    # GSM8K's questions come from the hub; those of this repository are as long, for memory, once padded.
    questions = data.load_task(profile.with_(task="word_problems"), "train", 256)
    held_out = data.load_task(profile.with_(task="word_problems"), "test", profile.eval_batch)
    prompts = prompt_ids(tokenizer, questions["prompt"])
    result: dict[str, Any] = {"weights": weights, "prompt_tokens": max(map(len, prompts))}

    took = Ledger(model, tokenizer, questions[0]["prompt"])
    took.begin()
    evaluation.evaluate(model, tokenizer, held_out, profile.max_completion_length, batch_size=profile.eval_batch)
    took.end("evaluation")
    with tempfile.TemporaryDirectory() as folder:
        trainer = training.make_trainer(
            profile.with_(steps=steps), model, tokenizer, questions, folder, doctor=False, save_strategy="no"
        )
        took.attach(trainer)
        start = time.perf_counter()
        training.train(trainer)
        result["seconds_per_step"] = round((time.perf_counter() - start) / steps, 2)
    result |= took.results()
    rows = profile.batch * profile.accumulation
    result["decoding_ms_per_token"] = decoding(trainer.model, tokenizer, prompts, rows, tokens)
    plan = memory.plan(profile, memory.ModelShape.from_config(model.config), prompt_tokens=result["prompt_tokens"])
    result["planned_gb"] = plan.table.drop(index="overhead").sum().round(3).to_dict()
    return result


def shown(results: dict[str, Any]) -> pd.DataFrame:
    """Seconds and memory of each phase, the plan beside it; an update is planned as a whole."""
    table = pd.DataFrame(results["phases"]).T
    names = {phase: "update" if phase in ("scoring", "backward") else phase for phase in table.index}
    return table.assign(planned_gb=[results["planned_gb"][names[phase]] for phase in table.index])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--profile", default="t4", choices=["t4", "t4_full", "article"], help="whose settings are run")
    parser.add_argument("--steps", type=int, default=3, help="training steps (default: 3)")
    parser.add_argument("--cap", type=float, metavar="GB", help="use no more of the card's memory")
    parser.add_argument("--as-t4", action="store_true", help="float16, as on a card without bfloat16")
    parser.add_argument("--random", action="store_true", help="random weights, even where the hub is reachable")
    parser.add_argument("--only", type=int, choices=range(len(SETTINGS)), help="one of SETTINGS, by its number")
    parser.add_argument("--record", action="store_true", help="write data/runs/gpu-<card>")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("no CUDA device here; the rehearsal without one is tests/test_t4.py")
    if args.cap:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, args.cap * 1e9 / total))
    if args.as_t4:  # not by the card's capability, which Triton asks for as well
        for module in (machine, models, training):
            module.resolve_dtype = lambda profile: torch.float16
    profile = profiles.get_profile(args.profile)
    facts: dict[str, Any] = machine.gpu_record() | {
        "cap_gb": args.cap,
        "dtype": str(machine.resolve_dtype(profile)),
        "profile": profile.as_dict(),
        "command": shlex.join(["python", "tests/tools/gpu_check.py", *sys.argv[1:]]),
        "hardware": machine.hardware(),
        "versions": machine.versions(),
        "commit": run.commit(),
        "date": time.strftime("%Y-%m-%d"),
        "runs": [],
    }
    chosen = list(SETTINGS) if args.only is None else [list(SETTINGS)[args.only]]
    for setting in chosen:
        results = check(profile.with_(**SETTINGS[setting]), args.random, args.steps)
        facts["runs"].append({"name": setting, "changes": SETTINGS[setting], "results": results})
        print(f"\n{args.profile}, {setting}: {results['seconds_per_step']} s a step, {results['seconds_a_step']}")
        lost = {name: results.get(name) for name in ("loss_scale", "steps_lost_to_overflow", "largest_activation")}
        print(f"{lost}\nmilliseconds a token {results['decoding_ms_per_token']}")
        print(shown(results).to_string(), flush=True)
        gc.collect()
        torch.cuda.empty_cache()
    if args.record:
        folder = profiles.DATA / "runs" / f"gpu-{facts['card'].lower().replace(' ', '-')}"
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "run.json", facts)
        print(f"recorded in {folder}")


if __name__ == "__main__":
    sys.exit(exit_code(main))
