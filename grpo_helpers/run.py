"""The main job: evaluate, train, evaluate again, and keep everything as files.

outputs/<profile>-<seed>/
    run.json           profile, seed, versions, hardware, commit, command, results; of a GPU, what training took of it
    before.jsonl       a reply to every held-out question, scored; also after.jsonl
    history.csv        the training log, a row a step; history.png shows it
    comparison.csv     rates before and after with intervals; comparison.png
    samples.jsonl      the same six held-out questions, answered before, during and after training
    adapter/           the trained LoRA adapter with its model card
    checkpoints/       to resume from
"""

from __future__ import annotations

import io
import itertools
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from trl import GRPOTrainer

from . import adapters, data, evaluation, machine, models, plotting, pretrained, records, training
from .files import read_json, write_bytes, write_json, write_text
from .ledger import Ledger
from .profiles import DATA, ROOT, Profile, output_root, without_root

MAY_CHANGE_ON_RESUME = {"steps", "minutes", "about", "save_steps", "eval_batch"}
RECORDED = ("run.json", "history.csv", "history.png", "comparison.csv", "before.jsonl", "after.jsonl", "samples.jsonl")
MAX_ADAPTER_MB = 10.0  # what a repository can bear


def provenance(profile: Profile, seed: int) -> dict[str, Any]:
    """Where numbers come from: profile, seed, versions, hardware, commit, command, time."""
    found = pretrained.find_weights(profile.model, profile.revision)
    return {
        "profile": profile.as_dict() | {"model": without_root(profile.model)},
        "seed": seed,
        "weights": found.source,
        "weights_sha256": pretrained.fingerprint(found.folder),
        "versions": machine.versions(),
        "hardware": machine.hardware(),
        "commit": commit(),
        "command": " ".join(["python -m grpo_helpers", *map(shlex.quote, map(without_root, sys.argv[1:]))]),
        "date": time.strftime("%Y-%m-%d"),
    }


def commit() -> str:
    """The commit of the code, "-dirty" when something but recorded runs differs from it."""

    def git(*args: str) -> str:
        return subprocess.run(["git", "-C", str(ROOT), *args], capture_output=True, text=True).stdout.strip()

    changed = git("status", "--porcelain", "--", ".", ":(exclude,glob)data/runs/*-*/**")
    return git("rev-parse", "--short=12", "HEAD") + ("-dirty" if changed else "") or "unknown"


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
            names = (output.with_name(f"{output.name}.old{k}") for k in itertools.count(1))
            kept = output.rename(next(name for name in names if not name.exists()))
            print(f"an earlier run was there; it is kept as {kept.name}")
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
    now = json.loads(json.dumps(now))  # as it comes back from a file: tuples are lists
    old, new = ({k: facts[k] for k in ("seed", "weights_sha256")} | facts["profile"] for facts in (saved, now))
    differ = [k for k in new if k not in MAY_CHANGE_ON_RESUME and old.get(k) != new[k]]
    if differ:
        changes = "; ".join(f"{k} was {old.get(k)!r}, now {new[k]!r}" for k in differ)
        raise ValueError(f"this run was started with other settings ({changes}); use those, or another --output")


def record(output: Path) -> Path:
    """Copy what the notebooks quote from a finished run to `data/runs`: tables, replies and the adapter.

    An adapter of more than MAX_ADAPTER_MB is left out, and that is said.
    """
    target = DATA / "runs" / output.name
    (target / "adapter").mkdir(parents=True, exist_ok=True)
    names, adapter = list(RECORDED), [f"adapter/{name}" for name in adapters.FILES]
    megabytes = sum((output / name).stat().st_size for name in adapter) / 1e6
    if megabytes <= MAX_ADAPTER_MB:
        names += adapter
    else:
        print(f"the adapter is not recorded: {megabytes:.0f} MB, more than {MAX_ADAPTER_MB:g}; it stays in {output}")
    for name in names:
        write_bytes(target / name, (output / name).read_bytes())
    return target


Tables = dict[float, pd.DataFrame]  # temperature → a table


@dataclass
class Result:
    """What a run leaves: its folder, how training ended, and its tables."""

    output: Path
    outcome: training.Outcome
    history: pd.DataFrame
    comparisons: Tables


def _evaluations(profile: Profile, model: Any, tokenizer: Any, questions: Any, output: Path, when: str) -> Tables:
    """Greedy (temperature 0) and sampled replies as the profile asks; kept on disk, so that a resumed run has them."""
    tables = {}
    for temperature in profile.eval_temperatures:
        path = output / f"{when}{'' if temperature == 0 else '_sampled'}.jsonl"
        if when == "before" and path.exists():
            tables[temperature] = pd.DataFrame(data.read_jsonl(path, columns=("question", "completion")))
            continue
        length, batch = profile.max_completion_length, profile.eval_batch
        table = evaluation.evaluate(model, tokenizer, questions, length, temperature=temperature, batch_size=batch)
        write_text(path, table.to_json(orient="records", lines=True, force_ascii=False))
        tables[temperature] = table
    return tables


def _save_figure(figure: plt.Figure, path: Path) -> None:
    picture = io.BytesIO()
    figure.savefig(picture, dpi=120)
    write_bytes(path, picture.getvalue())
    plt.close(figure)


def _keep_training(trainer: GRPOTrainer, profile: Profile, output: Path, title: str) -> pd.DataFrame:
    """Adapter, history and its figure, written as soon as training ends, however it ends."""
    adapters.save(trainer.model, output / "adapter", profile)
    adapters.write_card(output)
    table = records.history(trainer)
    write_text(output / "history.csv", table.to_csv(index=False))
    _save_figure(plotting.plot_rewards(table, title), output / "history.png")
    return table


def show_examples(before: pd.DataFrame, after: pd.DataFrame) -> None:
    """Three questions with the reply before and after, questions whose verdict changed first."""
    same = before["strict"] == after["strict"]
    for i in same.sort_values(kind="stable").index[:3]:
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
    doctor: bool = True,
) -> Result:
    """Train `profile` with GRPO and measure what it learned. See the module's docstring for the files.

    Args:
        output: None takes outputs/<profile>-<seed>, or the same under `GRPO_OUTPUT`.
        resume: whether to go on from the last whole checkpoint there.
        gsm8k: folder with GSM8K's files, in place of the hub's.
        doctor: whether a run that cannot learn is stopped.
    """
    start = time.perf_counter()
    output = Path(output) if output else output_root(Path("outputs")) / f"{profile.name}-{seed}"
    prepare_output(output, resume)
    print(f"\n{profile}\n  results     {output}{os.sep}")
    print(f"  time        {machine.time_in_words(profile)}\n")

    facts = provenance(profile, seed)
    if resume:
        check_same_run(read_json(output / "run.json"), facts)
    write_json(output / "run.json", facts | {"outcome": "running"})
    model, tokenizer = models.load_policy(profile)
    train_set = data.load_task(profile, "train", profile.max_samples, gsm8k)
    train_set, dropped = data.drop_long_prompts(train_set, tokenizer, profile.max_prompt_length)
    held_out = data.load_task(profile, "test", profile.eval_questions, gsm8k)
    if dropped:
        print(f"{dropped} training questions dropped: prompt over {profile.max_prompt_length} tokens")
    print(f"{len(train_set)} training questions, {len(held_out)} held-out ones; weights from {facts['weights']}")
    if both := data.asked_in_both(train_set, held_out):
        print(f"{both} of the held-out questions are training questions, too: right answers to these may be memory")

    ledger = Ledger(model, tokenizer, train_set[0]["prompt"])
    print("evaluating the untrained policy ...", flush=True)
    before = _evaluations(profile, model, tokenizer, held_out, output, "before")
    samples = evaluation.SampleReplies(profile, tokenizer, held_out, output / "samples.jsonl")
    trainer = training.make_trainer(
        profile, model, tokenizer, train_set, output / "checkpoints", seed=seed, callbacks=[samples], doctor=doctor
    )
    ledger.attach(trainer)
    try:
        outcome = training.train(trainer, resume)
    except KeyboardInterrupt:
        outcome = training.Outcome(training.INTERRUPTED, trainer.state.global_step)
    facts |= {"outcome": outcome.how} | ({"finding": outcome.finding._asdict()} if outcome.finding else {})
    write_json(output / "run.json", facts | ledger.facts())
    table = _keep_training(trainer, profile, output, f"Reward history, {profile.name}, seed {seed}")
    if not outcome.finished:
        against = ", with --no-doctor against the doctor's advice" if outcome.finding else ""
        print(f"training was {outcome}\nadapter and history are in {output}; --resume goes on{against}")
        return Result(output, outcome, table, {})

    print("evaluating the trained policy on the same questions ...", flush=True)
    after = _evaluations(profile, trainer.model, tokenizer, held_out, output, "after")
    comparisons = {t: evaluation.compare(before[t], after[t]) for t in before}
    for temperature in comparisons:
        decoding = "greedy" if temperature == 0 else f"sampled at temperature {temperature:g}"
        print(f"\n{len(held_out)} held-out questions, {decoding}:")
        print(evaluation.before_after(before[temperature], after[temperature]).to_string())
    greedy = profile.eval_temperatures[0]
    print(f"\n{evaluation.what_was_learned(before[greedy], after[greedy])}")
    write_text(output / "comparison.csv", pd.concat(comparisons, names=["temperature"]).to_csv())
    _save_figure(plotting.plot_before_after(comparisons[greedy]), output / "comparison.png")
    show_examples(before[greedy], after[greedy])

    minutes, peak = (time.perf_counter() - start) / 60, machine.peak_memory_gb()
    results = {
        "minutes": round(minutes, 2),
        "peak_memory_gb": round(peak, 2),
        "seconds_per_step": round(float(table["step_time"].median()), 3),
        "tokens": {str(t): [round(float(x[t]["tokens"].mean()), 2) for x in (before, after)] for t in after},
        "rates": {str(t): c.round(4).to_dict("index") for t, c in comparisons.items()},
    }
    write_json(output / "run.json", facts | ledger.facts() | {"results": results})
    adapters.write_card(output)
    first, last = table["reward"].iloc[:5].mean(), table["reward"].iloc[-5:].mean()
    print(f"\nreward {first:.2f} → {last:.2f} (means of the first and last 5 steps)")
    print(f"{minutes:.1f} minutes, peak resident memory {peak:.2f} GB; everything is in {output}")
    return Result(output, outcome, table, comparisons)
