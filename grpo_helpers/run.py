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

import contextlib
import hashlib
import io
import itertools
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd

from . import adapters, checkpoints, data, evaluation, machine, models, plotting, pretrained, records, training
from .files import held, read_json, write_bytes, write_json, write_text
from .ledger import Ledger
from .profiles import DATA, ROOT, Profile, output_root, without_root
from .prompts import prompt_ids

MAY_CHANGE_ON_RESUME = {"steps", "minutes", "about", "save_steps", "eval_batch"}
RECORDED = ("history.csv", "history.png", "comparison.csv", "before.jsonl", "after.jsonl", "samples.jsonl", "run.json")
MEASURED = ("comparison.csv", "comparison.png", "after.jsonl", "after_sampled.jsonl")  # of the adapter as it was then
MADE = ("run.json", *RECORDED[:-1], *MEASURED, "before_sampled.jsonl", "adapter", "checkpoints")
MAX_ADAPTER_MB = 10.0  # what a repository can bear


def provenance(profile: Profile, seed: int) -> dict[str, Any]:
    """Where numbers come from: profile, seed, versions, hardware, commit, command, time."""
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed={seed}: choose a whole number from 0 to {2**32 - 1}")
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

    if not shutil.which("git"):
        return "unknown"

    def git(*args: str) -> str:
        return subprocess.run(["git", "-C", str(ROOT), *args], capture_output=True, text=True).stdout.strip()

    changed = git("status", "--porcelain", "--", ".", ":(exclude,glob)data/runs/*-*/**")
    return git("rev-parse", "--short=12", "HEAD") + ("-dirty" if changed else "") or "unknown"


def move_aside(output: Path) -> None:
    """Move what an earlier run left to a folder beside it, run.json first: what may be left behind then is no run."""
    if left := [output / name for name in dict.fromkeys(MADE) if (output / name).exists()]:
        output = output.resolve()
        names = (output.with_name(f"{output.name}.old{k}") for k in itertools.count(1))
        kept = next(name for name in names if not name.exists())
        kept.mkdir()
        for path in left:
            path.rename(kept / path.name)
        print(f"an earlier run was there; it is kept as {kept.name}")


def check_same_run(saved: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuse to resume a run under another recipe, or on other data: a ValueError names each field that differs."""
    defaults = Profile(name="", about="", minutes=0, model="").as_dict()
    saved = {"data_sha256": now.get("data_sha256")} | saved  # older runs have none, and fewer fields
    same = ("seed", "weights_sha256", "data_sha256")
    sides = ({k: facts.get(k) for k in same} | defaults | facts["profile"] for facts in (saved, now))
    old, new = (json.loads(json.dumps(side)) for side in sides)  # as from a file: tuples are lists
    if differ := [k for k in new if k not in MAY_CHANGE_ON_RESUME and old.get(k) != new[k]]:
        changes = "; ".join(f"{k} was {old.get(k)!r}, now {new[k]!r}" for k in differ)
        raise ValueError(f"this run was started with other settings ({changes}); use the old ones, or another --output")


def record_folder(output: Path) -> Path:
    """Where `record` keeps a run; a ValueError if another kind of record has that name."""
    target = DATA / "runs" / output.resolve().name
    if (target / "run.json").exists() and not (target / "comparison.csv").exists():
        raise ValueError(f"{without_root(str(target))} holds another kind of record; choose another --output")
    return target


def record(output: Path) -> Path:
    """Copy what the notebooks quote from a finished run to `data/runs`: tables, replies and the adapter; run.json last.

    An adapter of more than MAX_ADAPTER_MB is left out, and that is said.
    """
    target = record_folder(output)
    (target / "adapter").mkdir(parents=True, exist_ok=True)
    adapter = [f"adapter/{name}" for name in adapters.FILES]
    megabytes = sum((output / name).stat().st_size for name in adapter) / 1e6
    if megabytes > MAX_ADAPTER_MB:
        print(f"the adapter is not recorded: {megabytes:.0f} MB, more than {MAX_ADAPTER_MB:g}; it stays in {output}")
        adapter = []
    for name in (*adapter, *RECORDED):
        write_bytes(target / name, (output / name).read_bytes())
    return target


@dataclass
class Job:
    """A run that has passed every check: its recipe and folder, what run.json says, what it works with."""

    profile: Profile
    seed: int
    output: Path
    facts: dict[str, Any]
    model: Any
    tokenizer: Any
    train_set: Any
    held_out: Any
    ledger: Ledger

    def note(self, outcome: str, **more: Any) -> None:
        write_json(self.output / "run.json", self.facts | {"outcome": outcome} | more)


def _kept(path: Path, questions: list[str]) -> pd.DataFrame | None:
    """The replies that are there already; None, so that they are asked for, if not whole or to other questions."""
    try:
        table = pd.DataFrame(data.read_jsonl(path, ("question", "completion")))
    except (OSError, ValueError):
        return None
    return table if [*table["question"]] == questions and {*evaluation.RATES, "tokens"} <= {*table} else None


def _evaluations(job: Job, when: str) -> dict[float, pd.DataFrame]:
    """Replies as the profile asks, by temperature (0 is greedy); kept on disk, so that a resumed run has them."""
    tables, length = {}, job.profile.max_completion_length
    for temperature in job.profile.eval_temperatures:
        path = job.output / f"{when}{'' if temperature == 0 else '_sampled'}.jsonl"
        table = _kept(path, job.held_out["question"][:])
        if table is None:
            options = {"temperature": temperature, "batch_size": job.profile.eval_batch}
            table = evaluation.evaluate(job.model, job.tokenizer, job.held_out, length, **options)
            write_text(path, table.to_json(orient="records", lines=True, force_ascii=False))
        tables[temperature] = table
    return tables


def _save_figure(figure: plt.Figure, path: Path) -> None:
    picture = io.BytesIO()
    figure.savefig(picture, dpi=120)
    write_bytes(path, picture.getvalue())
    plt.close(figure)


def _train(job: Job, resume: bool, doctor: bool) -> tuple[training.Outcome, pd.DataFrame | None]:
    """Train; adapter, history and its figure are written as soon as training ends, however it ends."""
    profile, output = job.profile, job.output
    samples = evaluation.SampleReplies(profile, job.tokenizer, job.held_out, output / "samples.jsonl")
    options = {"seed": job.seed, "callbacks": [samples], "doctor": doctor}
    folder = output / "checkpoints"
    trainer = training.make_trainer(profile, job.model, job.tokenizer, job.train_set, folder, **options)
    job.ledger.attach(trainer)
    job.model = trainer.model
    try:
        outcome = training.train(trainer, resume)
    except KeyboardInterrupt:
        outcome = training.Outcome(training.INTERRUPTED, trainer.state.global_step)
    table = None
    if any("reward" in row for row in trainer.state.log_history):
        job.facts["steps_taken"] = outcome.step
        job.note("running", **job.ledger.facts())
        adapters.save(trainer.model, output / "adapter", profile)
        adapters.write_card(output)
        table = records.history(trainer)
        write_text(output / "history.csv", table.to_csv(index=False))
        title = f"Reward history, {profile.name}, seed {job.seed}"
        _save_figure(plotting.plot_rewards(table, title), output / "history.png")
    if not outcome.finished:
        finding = {"finding": outcome.finding._asdict()} if outcome.finding else {}
        job.note(outcome.how, **finding, **job.ledger.facts())
        against = ", with --no-doctor against the doctor's advice" if outcome.finding else ""
        print(f"training was {outcome}\nwhat it left is in {output}; --resume goes on{against}")
    return outcome, table


def show_examples(before: pd.DataFrame, after: pd.DataFrame) -> None:
    """Three questions with the reply before and after, questions whose verdict changed first."""
    same = before["strict"] == after["strict"]
    for i in same.sort_values(kind="stable").index[:3]:
        print(f"\nquestion  {before['question'][i]}\ngold      {before['gold'][i]}")
        for when, table in (("before", before), ("after", after)):
            verdict = "right, in format" if table["strict"][i] else "not right in format"
            print(f"{when} ({verdict}):")
            print("    " + table["completion"][i].replace("\n", "\n    "))


def output_folder(profile: Profile, seed: int, output: str | Path | None) -> Path:
    """`output`, else outputs/<profile>-<seed>, or the same under `GRPO_OUTPUT`."""
    return Path(output).expanduser() if output else output_root(Path("outputs")) / f"{profile.name}-{seed}"


def _prepare(profile: Profile, seed: int, output: Path, resume: bool, gsm8k: str | Path | None) -> Job:
    """Check all that can be checked, before anything in the folder is touched."""
    print(f"\n{profile}\n  results     {output}{os.sep}")
    print(f"  time        {machine.time_in_words(profile)}\n")
    facts = provenance(profile, seed)
    train_set = data.load_task(profile, "train", profile.max_samples, gsm8k)
    held_out = data.load_task(profile, "test", profile.eval_questions, gsm8k)
    taken = max((steps for steps, _ in checkpoints.found(output / "checkpoints")), default=0)
    if resume and profile.steps < taken:
        raise ValueError(f"--steps {profile.steps}: {taken} steps are already taken; ask for --steps {taken} or more")
    if resume and (path := output / "samples.jsonl").exists():  # replies that cannot be asked for again
        rows = data.read_jsonl(path, ("question", "gold", "completion"))
        if not all(isinstance(row.get("step"), int) for row in rows):
            raise ValueError(f"{path} has a line without its step; delete the file to go on without it")

    model, tokenizer = models.load_policy(profile)
    train_set, dropped = data.drop_long_prompts(train_set, tokenizer, profile.max_prompt_length)
    training.check_questions(profile, train_set)
    read = [(prompt_ids(tokenizer, part["prompt"]), part["answer"][:]) for part in (train_set, held_out)]
    facts["data_sha256"] = hashlib.sha256(json.dumps(read).encode()).hexdigest()
    if resume:
        check_same_run(read_json(output / "run.json", profile=dict, seed=int, weights_sha256=str), facts)
    if dropped:
        print(f"{dropped} training questions dropped: prompt over {profile.max_prompt_length} tokens")
    print(f"{len(train_set)} training questions, {len(held_out)} held-out ones; weights from {facts['weights']}")
    if both := data.asked_in_both(train_set, held_out):
        print(f"{both} of the held-out questions are training questions, too: right answers to these may be memory")
    ledger = Ledger(model, tokenizer, train_set[0]["prompt"])
    return Job(profile, seed, output, facts, model, tokenizer, train_set, held_out, ledger)


def _measure(job: Job, before: dict[float, pd.DataFrame], table: pd.DataFrame, start: float) -> None:
    """Ask the trained policy, compare, and say in run.json that the run is finished."""
    profile, output = job.profile, job.output
    print("evaluating the trained policy on the same questions ...", flush=True)
    after = _evaluations(job, "after")
    comparisons = {t: evaluation.compare(before[t], after[t]) for t in before}
    for temperature in comparisons:
        decoding = "greedy" if temperature == 0 else f"sampled at temperature {temperature:g}"
        print(f"\n{len(job.held_out)} held-out questions, {decoding}:")
        print(evaluation.before_after(before[temperature], after[temperature]).to_string())
    greedy = profile.eval_temperatures[0]
    print(f"\n{evaluation.what_was_learned(before[greedy], after[greedy])}")
    write_text(output / "comparison.csv", pd.concat(comparisons, names=["temperature"]).to_csv())
    _save_figure(plotting.plot_before_after(comparisons[greedy]), output / "comparison.png")
    show_examples(before[greedy], after[greedy])
    adapters.write_card(output)

    minutes, peak = (time.perf_counter() - start) / 60, machine.peak_memory_gb()
    results = {
        "minutes": round(minutes, 2),
        "peak_memory_gb": round(peak, 2),
        "seconds_per_step": round(float(table["step_time"].median()), 3),
        "tokens": {str(t): [round(float(x[t]["tokens"].mean()), 2) for x in (before, after)] for t in after},
        "rates": {str(t): c.round(4).to_dict("index") for t, c in comparisons.items()},
    }
    job.note(training.FINISHED, **job.ledger.facts(), results=results)
    first, last = table["reward"].iloc[:5].mean(), table["reward"].iloc[-5:].mean()
    print(f"\nreward {first:.2f} → {last:.2f} (means of the first and last 5 steps)")
    print(f"{minutes:.1f} minutes, peak resident memory {peak:.2f} GB; everything is in {output}")


def run(
    profile: Profile,
    seed: int = 42,
    output: str | Path | None = None,
    resume: bool = False,
    gsm8k: str | Path | None = None,
    doctor: bool = True,
) -> training.Outcome:
    """Train `profile` with GRPO, measure what it learned, and tell how it ended.

    The module's docstring has the files, the command line's help the arguments; `output` is as of `output_folder`.
    Mistakes are a ValueError, OSError or WeightsNotFound before anything in the folder is touched, as far as possible;
    Ctrl-C outside of training is KeyboardInterrupt.
    """
    start = time.perf_counter()
    output = output_folder(profile, seed, output)
    if resume and not (output / "run.json").is_file():
        raise FileNotFoundError(f"{output} holds no run to resume (no run.json); start one without --resume")
    with held(output):
        job = _prepare(profile, seed, output, resume, gsm8k)
        saved = checkpoints.found(output / "checkpoints")
        if not resume or ((output / "adapter").exists() and all(checkpoints.damage(folder) for _, folder in saved)):
            move_aside(output)  # what a run from the first step would write over
        for name in MEASURED:
            (output / name).unlink(missing_ok=True)
        try:
            job.note("running")
            print("evaluating the untrained policy ...", flush=True)
            before = _evaluations(job, "before")
            outcome, table = _train(job, resume, doctor)
            if outcome.finished:
                _measure(job, before, table, start)
        except BaseException as error:
            stopped = isinstance(error, KeyboardInterrupt)
            with contextlib.suppress(OSError):
                job.note(training.INTERRUPTED if stopped else "failed")
            if stopped:
                raise KeyboardInterrupt(f"stopped by Ctrl-C; what is done is in {output}, --resume goes on") from None
            raise
    return outcome
