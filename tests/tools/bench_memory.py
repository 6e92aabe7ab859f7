"""The planner of `grpo_helpers.lessons.memory` beside measured peaks on this CPU.

    python tests/tools/bench_memory.py            all configurations, a few minutes
    python tests/tools/bench_memory.py --record   also writes data/runs/memory-cpu

Each configuration trains two steps, or evaluates, in a process of its own. What
is compared is the largest resident memory less what the process had after its
imports. In training every completion is forced to full length, as the planner
assumes.

For evaluation completions end when they end; the plan supposes the worst moment
at which rows can be let go.

The planner's constants (`CPU_OVERHEAD_GB`, `CPU_SLACK`) and some of its formulas
were corrected by the rows marked "fitted"; the others were not used for that.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from os.path import commonprefix
from pathlib import Path
from typing import Any

STEPS = 2
WITHIN = 0.20
ATTENTION_AND_MLP = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
# The table in data/runs is of a tiny with shorter problems and replies than it has now.
AS_RECORDED = {"problem_steps": (1,), "max_completion_length": 48}

# name → (profile, its changes, what is run, was the planner corrected by its measurement?)
CONFIGURATIONS: dict[str, tuple[str, dict[str, Any], str, bool]] = {
    "tiny": ("tiny", AS_RECORDED, "training", True),
    "tiny, 256 completions": ("tiny", AS_RECORDED | {"batch": 256}, "training", True),
    "tiny, 128 completions of 96 tokens": (
        "tiny",
        AS_RECORDED | {"batch": 128, "max_completion_length": 96},
        "training",
        False,
    ),
    "tiny, adapters on attention and MLP": (
        "tiny",
        AS_RECORDED | {"batch": 256, "lora_rank": 64, "lora_targets": ATTENTION_AND_MLP},
        "training",
        False,
    ),
    "small": ("small", {}, "training", True),
    "small, 14 completions": ("small", {"batch": 14}, "training", False),
    "small, 7 completions of 128 tokens": ("small", {"batch": 7, "max_completion_length": 128}, "training", False),
    "tiny, evaluation": ("tiny", AS_RECORDED | {"eval_batch": 200}, "evaluation", False),
    "small, evaluation": ("small", {}, "evaluation", True),
    "small, evaluation in small batches": ("small", {"eval_batch": 40, "eval_questions": 80}, "evaluation", False),
}


def measure(name: str) -> dict[str, Any]:
    """Run one configuration in this process and return its peak beside the planned one, in GB."""
    from bench import full_length

    import grpo_helpers.fast.sampling
    from grpo_helpers import data, evaluation, models, training
    from grpo_helpers.lessons import memory
    from grpo_helpers.machine import peak_memory_gb
    from grpo_helpers.profiles import get_profile
    from grpo_helpers.prompts import prompt_ids

    profile_name, changes, what, fitted = CONFIGURATIONS[name]
    profile = get_profile(profile_name).with_(steps=STEPS, save_steps=10_000, **changes)
    baseline = peak_memory_gb()
    model, tokenizer = models.load_policy(profile)
    asked = STEPS * profile.prompts_per_step if what == "training" else profile.eval_questions
    questions = data.load_task(profile, "train" if what == "training" else "test", asked)
    prompts = prompt_ids(tokenizer, questions["prompt"])
    lengths = {"prompt_tokens": max(map(len, prompts)), "shared_prefix": len(commonprefix(prompts))}
    here = profile.with_(dtype=str(model.dtype).removeprefix("torch."))
    plan = memory.plan(here, memory.ModelShape.from_config(model.config), on_gpu=False, **lengths)
    if what == "training":
        grpo_helpers.fast.sampling.sample = full_length(grpo_helpers.fast.sampling.sample)
        forced = {"generation_kwargs": {"min_new_tokens": profile.max_completion_length}}
        with tempfile.TemporaryDirectory() as folder:
            training.make_trainer(profile, model, tokenizer, questions, folder, **forced).train()
        planned = plan.totals.drop("evaluation")
    else:
        evaluation.evaluate(model, tokenizer, questions, profile.max_completion_length, batch_size=profile.eval_batch)
        planned = plan.totals[["evaluation"]]
    measured = peak_memory_gb() - baseline
    return {
        "configuration": name,
        "measured_gb": round(measured, 3),
        "planned_gb": round(float(planned.max()), 3),
        "ratio": round(float(planned.max()) / measured, 3),
        "phase": str(planned.idxmax()),
        "fitted": fitted,
        "imports_gb": round(baseline, 3),
    } | lengths


def in_a_process_of_its_own(name: str) -> dict[str, Any]:
    # This process imports nothing heavy before: a child's peak starts from its parent's.
    command = [sys.executable, __file__, "--measure", name]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{name!r} could not be measured:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def record(rows: list[dict[str, Any]], within: int) -> Path:
    import pandas as pd

    from grpo_helpers.files import write_json, write_text
    from grpo_helpers.profiles import DATA, get_profile
    from grpo_helpers.run import provenance

    facts = provenance(get_profile("small"), seed=42)
    kept = {key: facts[key] for key in ("seed", "versions", "hardware", "commit", "date")}
    folder = DATA / "runs" / "memory-cpu"
    folder.mkdir(parents=True, exist_ok=True)
    about = {
        "about": "largest resident memory less that after imports, of two training steps or one evaluation",
        "command": "python tests/tools/bench_memory.py --record",
        "configurations": {name: {"profile": c[0], "changes": c[1], "run": c[2]} for name, c in CONFIGURATIONS.items()},
        "results": {"configurations": len(rows), "within_20_percent": within},
    }
    write_json(folder / "run.json", about | kept)
    write_text(folder / "memory.csv", pd.DataFrame(rows).to_csv(index=False))
    return folder


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", action="store_true", help="keep the table in data/runs/memory-cpu")
    parser.add_argument("--measure", choices=list(CONFIGURATIONS), help="one configuration, in this process, as JSON")
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure)))
        return 0
    print(f"{'':36} measured  planned   planned / measured")
    rows = []
    for name in CONFIGURATIONS:
        rows.append(row := in_a_process_of_its_own(name))
        verdict = "" if abs(row["ratio"] - 1) <= WITHIN else "   not within 20 %"
        fitted = " (fitted)" if row["fitted"] else ""
        print(f"{name:36} {row['measured_gb']:5.2f} GB {row['planned_gb']:5.2f} GB   {row['ratio']:.2f}", end="")
        print(f"{fitted}{verdict}", flush=True)
    within = sum(abs(row["ratio"] - 1) <= WITHIN for row in rows)
    print(f"{within} of {len(rows)} within 20 %")
    if args.record:
        print(f"recorded in {record(rows, within).name}")
    off = [row["configuration"] for row in rows if abs(row["ratio"] - 1) > WITHIN]
    if off:
        print(f"more than 20 % off: {', '.join(off)}", file=sys.stderr)
    return 1 if off else 0


if __name__ == "__main__":
    sys.exit(main())
