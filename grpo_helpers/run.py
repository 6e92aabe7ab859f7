"""The main job: evaluate, train, evaluate again, and keep everything as files.

outputs/<profile>-<seed>/
    run.json           profile, seed, versions, hardware, commit, command, results
    before.jsonl       a reply to every held-out question, scored; also after.jsonl
    history.csv        the training log, a row a step; history.png shows it
    comparison.csv     rates before and after with intervals; comparison.png
    adapter/           the trained LoRA adapter
    checkpoints/       to resume from
"""

from __future__ import annotations

import os
import platform
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import torch
from trl import GRPOTrainer

from . import data, evaluation, models, plotting, training
from .files import read_json, write_json, write_text
from .profiles import DATA, ROOT, Profile, without_root

PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "numpy", "pandas")
MAY_CHANGE_ON_RESUME = {"steps", "minutes", "about", "save_steps", "eval_batch"}


def provenance(profile: Profile, seed: int) -> dict[str, Any]:
    """Where numbers come from: profile, seed, versions, hardware, commit, command, time."""
    weights = models.find_weights(profile.model, profile.revision)
    shown = profile.as_dict() | {"model": without_root(profile.model)}
    return {
        "profile": shown,
        "seed": seed,
        "weights": weights.source,
        "weights_sha256": models.fingerprint(weights.folder),
        "versions": {"python": platform.python_version()} | {p: version(p) for p in PACKAGES},
        "hardware": hardware(),
        "commit": _commit(),
        "command": " ".join(["python -m grpo_helpers", *map(shlex.quote, map(without_root, sys.argv[1:]))]),
        "date": time.strftime("%Y-%m-%d"),
    }


def _commit() -> str:
    """The commit of the code, "-dirty" when something but recorded runs differs from it."""

    def git(*args: str) -> str:
        return subprocess.run(["git", "-C", str(ROOT), *args], capture_output=True, text=True).stdout.strip()

    changed = git("status", "--porcelain", "--", ".", ":!data/runs")
    return git("rev-parse", "--short=12", "HEAD") + ("-dirty" if changed else "") or "unknown"


def hardware() -> str:
    """The machine in words: GPU or processor, cores, memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cpu = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [x.split(":")[1].strip() for x in cpuinfo.read_text().splitlines() if x.startswith("model name")]
        cpu = names[0] if names else cpu
    gpu = f"{torch.cuda.get_device_name()}, " if torch.cuda.is_available() else ""
    return f"{gpu}{cpu}, {os.cpu_count()} cores, {memory:.0f} GB"


def peak_memory_gb() -> float:
    """The largest resident memory this process has had, in GB (10^9 bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e9 if sys.platform == "darwin" else peak * 1024 / 1e9


def prepare_output(output: Path, resume: bool) -> None:
    """Make the output folder, prove it writable, and move an earlier run aside rather than over.

    Raises:
        PermissionError: nothing can be written there.
        FileNotFoundError: `resume` is asked for and there is no run.
    """
    if resume and not (output / "run.json").is_file():
        raise FileNotFoundError(f"{output} holds no run to resume (no run.json); start one without --resume")
    try:
        if not resume and (output / "run.json").exists():
            k = next(k for k in range(1, 10_000) if not output.with_name(f"{output.name}.old{k}").exists())
            output.rename(output.with_name(f"{output.name}.old{k}"))
            print(f"an earlier run was there; it is kept as {output.name}.old{k}")
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output):
            pass
    except OSError as error:
        raise PermissionError(
            f"cannot write to the output folder {output} ({error.strerror}); choose another with --output"
        ) from None


def check_same_run(saved: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuse to resume a run under another recipe.

    Raises:
        ValueError: names each field that differs, saved against asked for.
    """
    old, new = saved["profile"] | {"seed": saved["seed"]}, now["profile"] | {"seed": now["seed"]}
    listed = {k: list(v) if isinstance(v, tuple) else v for k, v in new.items()}
    listed["weights_sha256"], old["weights_sha256"] = now["weights_sha256"], saved.get("weights_sha256")
    differ = [k for k in listed if k not in MAY_CHANGE_ON_RESUME and old.get(k) != listed[k]]
    if differ:
        changes = "; ".join(f"{k} was {old.get(k)!r}, now {listed[k]!r}" for k in differ)
        raise ValueError(f"this run was started with other settings ({changes}); use those, or another --output")


RECORDED = ("run.json", "history.csv", "comparison.csv", "before.jsonl", "after.jsonl")


def record(output: Path) -> Path:
    """Copy what the notebooks quote from a finished run to `data/runs`: text only, no weights."""
    target = DATA / "runs" / output.name
    target.mkdir(parents=True, exist_ok=True)
    for name in RECORDED:
        write_text(target / name, (output / name).read_text(encoding="utf-8"))
    return target


@dataclass
class Result:
    """What a run leaves: its folder, whether it was finished, and its tables."""

    output: Path
    finished: bool
    history: pd.DataFrame
    comparisons: dict[float, pd.DataFrame]


def _evaluations(
    profile: Profile, model: Any, tokenizer: Any, questions: Any, output: Path, when: str
) -> dict[float, pd.DataFrame]:
    """Greedy (temperature 0) and sampled replies as the profile asks; kept on disk, so that a resumed run has them."""
    tables = {}
    for temperature in profile.eval_temperatures:
        path = output / f"{when}{'' if temperature == 0 else '_sampled'}.jsonl"
        if when == "before" and path.exists():
            tables[temperature] = pd.DataFrame(data.read_jsonl(path, columns=("question", "completion")))
            continue
        table = evaluation.evaluate(
            model,
            tokenizer,
            questions,
            profile.max_completion_length,
            temperature=temperature,
            batch_size=profile.eval_batch,
        )
        write_text(path, table.to_json(orient="records", lines=True, force_ascii=False))
        tables[temperature] = table
    return tables


def _save_figure(figure: plt.Figure, path: Path) -> None:
    figure.savefig(path.with_suffix(".tmp.png"), dpi=120)
    os.replace(path.with_suffix(".tmp.png"), path)
    plt.close(figure)


def _keep_training(trainer: GRPOTrainer, output: Path, title: str) -> pd.DataFrame:
    """Adapter, history and its figure, written as soon as training ends, however it ends."""
    trainer.save_model(str(output / "adapter"))
    table = training.history(trainer)
    write_text(output / "history.csv", table.to_csv(index=False))
    _save_figure(plotting.plot_rewards(table, title), output / "history.png")
    return table


def show_examples(before: pd.DataFrame, after: pd.DataFrame, n: int = 3) -> None:
    """`n` questions with the reply before and after, questions whose verdict changed first."""
    changed = (before["strict"] != after["strict"]).to_numpy().nonzero()[0].tolist()
    chosen = (changed + [i for i in range(len(before)) if i not in changed])[:n]
    for i in chosen:
        print(f"\nquestion  {before['question'][i]}\ngold      {before['gold'][i]}")
        for when, table in (("before", before), ("after", after)):
            verdict = "right, in format" if table["strict"][i] else "not right in format"
            print(f"{when} ({verdict}):")
            print("    " + table["completion"][i].replace("\n", "\n    "))


def run(
    profile: Profile,
    seed: int = 42,
    output: str | Path | None = None,
    resume: bool = False,
    gsm8k: str | Path | None = None,
) -> Result:
    """Train `profile` with GRPO and measure what it learned. See the module's docstring for the files."""
    start = time.perf_counter()
    output = Path(output) if output else Path("outputs") / f"{profile.name}-{seed}"
    prepare_output(output, resume)
    print(f"\n{profile}\n  results     {output}{os.sep}")
    print(f"  time        about {models.estimated_minutes(profile):.0f} minutes on this machine (an estimate)\n")

    facts = provenance(profile, seed)
    if resume:
        check_same_run(read_json(output / "run.json"), facts)
    write_json(output / "run.json", facts)
    model, tokenizer = models.load_policy(profile)
    train_set = data.load_task(profile, "train", profile.max_samples, gsm8k)
    train_set, dropped = data.drop_long_prompts(train_set, tokenizer, profile.max_prompt_length)
    held_out = data.load_task(profile, "test", profile.eval_questions, gsm8k)
    if dropped:
        print(f"{dropped} training questions dropped: prompt over {profile.max_prompt_length} tokens")
    print(f"{len(train_set)} training questions, {len(held_out)} held-out ones; weights from {facts['weights']}")

    print("evaluating the untrained policy ...", flush=True)
    before = _evaluations(profile, model, tokenizer, held_out, output, "before")
    trainer = training.make_trainer(profile, model, tokenizer, train_set, output / "checkpoints", seed=seed)
    title = f"Reward history, {profile.name}, seed {seed}"
    try:
        finished = training.train(trainer, resume)
    except KeyboardInterrupt:
        finished = False
    table = _keep_training(trainer, output, title)
    if not finished:
        print(f"stopped at step {table['step'].iloc[-1]:.0f}; adapter and history are in {output}, --resume goes on")
        return Result(output, False, table, {})

    print("evaluating the trained policy on the same questions ...", flush=True)
    after = _evaluations(profile, trainer.model, tokenizer, held_out, output, "after")
    comparisons = {t: evaluation.compare(before[t], after[t]) for t in before}
    for temperature, comparison in comparisons.items():
        decoding = "greedy" if temperature == 0 else f"sampled at temperature {temperature:g}"
        print(f"\n{len(held_out)} held-out questions, {decoding}:")
        print(evaluation.as_percentages(comparison).to_string())
    greedy = profile.eval_temperatures[0]
    parts = evaluation.decompose(before[greedy], after[greedy])
    print(
        f"\nof the questions won, {parts['format']} were right before but not in format and "
        f"{parts['arithmetic']} were wrong by any reading; {parts['lost']} were lost"
    )
    write_text(output / "comparison.csv", pd.concat(comparisons, names=["temperature"]).to_csv())
    _save_figure(plotting.plot_before_after(comparisons[greedy]), output / "comparison.png")
    show_examples(before[greedy], after[greedy])

    minutes, peak = (time.perf_counter() - start) / 60, peak_memory_gb()
    results = {
        "minutes": round(minutes, 2),
        "peak_memory_gb": round(peak, 2),
        "seconds_per_step": round(float(table["step_time"].median()), 3),
        "decomposition": parts,
        "rates": {str(t): c.round(4).to_dict("index") for t, c in comparisons.items()},
    }
    write_json(output / "run.json", facts | {"results": results})
    first, last = table["reward"].iloc[:5].mean(), table["reward"].iloc[-5:].mean()
    print(f"\nreward {first:.2f} → {last:.2f} (means of the first and last 5 steps)")
    print(f"{minutes:.1f} minutes, peak resident memory {peak:.2f} GB; everything is in {output}")
    return Result(output, True, table, comparisons)
