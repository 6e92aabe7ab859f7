"""Grids: many short runs of one recipe, each with one thing changed and from several seeds, for notebook 08.

A cell is one setting and one seed. Cells run side by side, a process each. What is varied stands in the notebook.
"""

import multiprocessing
import os
import random
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase, PrinterCallback, TrainerCallback

from .. import data, evaluation, models, training
from ..fast.trainer import SharedPromptTrainer
from ..files import read_json, write_json
from ..profiles import Profile
from ..records import history
from ..rewards import REWARD_FUNCS, RewardFunc
from .probing import sample_replies

POINTS = 6  # times that the held-out questions are asked along a cell
KEPT = ("step", "reward", "reward_std", "rewards/correctness_reward_func/mean", "frac_reward_zero_std", "entropy")
KEPT += ("kl", "grad_norm", "completions/mean_length", training.WORKED, "clip_ratio/region_mean")


def random_reward_func(completions: Sequence[Any], **kwargs: Any) -> list[float]:
    """A coin for each completion; the trainer's seed decides how it falls."""
    return [float(random.random() < 0.5) for _ in completions]


class Setting(NamedTuple):
    """What is changed; `changes` are fields of the profile or of GRPOConfig."""

    changes: Mapping[str, Any] = {}
    rewards: tuple[RewardFunc, ...] = REWARD_FUNCS
    mixed_only: bool = False  # only questions that the untrained policy answers sometimes right, sometimes wrong
    adapter: bool = True  # else all weights are trained
    trainer: type[SharedPromptTrainer] = SharedPromptTrainer
    order: Callable[[Dataset, int], Dataset] | None = None  # (questions, seed) → the questions as they are asked
    logged: tuple[str, ...] = ()  # kept of the history beside KEPT


USUAL = Setting()


class Watch(TrainerCallback):
    """Asks the held-out questions after every so many batches, greedily: `rows` are what is `measured`, and when.

    Seconds are CPU time, which other processes do not stretch, and of training alone: asking does not count.
    The first row is to be noted before training.
    """

    measured = ("strict", "flexible", "format", "worked", "tokens")

    def __init__(self, profile: Profile, tokenizer: PreTrainedTokenizerBase, every: int, skip: int = 0) -> None:
        self.profile, self.tokenizer, self.every, self.rows = profile, tokenizer, every, []
        self.held_out = data.load_task(profile, "test", skip + profile.eval_questions).skip(skip)

    def measure(self, model: Any) -> dict[str, float]:
        length, batch = self.profile.max_completion_length, self.profile.eval_batch
        table = evaluation.evaluate(model, self.tokenizer, self.held_out, length, batch_size=batch)
        return table[[*self.measured]].mean().round(4).to_dict()

    def note(self, model: Any, seconds: float = 0.0, **at: int) -> None:
        """A row: `at`, seconds, and what is measured."""
        self.rows.append(at | {"seconds": round(seconds, 2)} | self.measure(model))
        self.start = time.process_time() - seconds

    @property
    def seconds(self) -> float:
        """Of training, so far."""
        return time.process_time() - self.start

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.start = time.process_time() - self.rows[-1]["seconds"]

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        batches, rest = divmod(state.global_step, args.num_iterations)
        if rest == 0 and (batches % self.every == 0 or state.global_step == state.max_steps):
            sampled = batches * args.per_device_train_batch_size * args.gradient_accumulation_steps
            self.note(model, self.seconds, completions=sampled)


def significant(table: pd.DataFrame, digits: int = 5) -> pd.DataFrame:
    """A table of numbers with so many significant digits, so that a record is small."""
    return table.map(lambda value: float(f"{value:.{digits}g}"))


def run_cell(
    profile: Profile, setting: Setting, seed: int, points: int = POINTS, skip: int = 0, watch: type[Watch] = Watch
) -> dict[str, Any]:
    """Train the policy under one setting: rows of the three tables of `run_grid`, which says what `skip` is."""
    options = dict(setting.changes)
    profile = profile.with_(**{field: options.pop(field) for field in profile.as_dict() if field in options})
    model, tokenizer = models.load_policy(profile)
    questions, probed = data.load_task(profile, "train", profile.max_samples), 0
    if setting.mixed_only:
        said = sample_replies(profile, model, tokenizer, questions, num_generations=profile.num_generations, seed=seed)
        kinds, probed = said.groupby("number")["correctness"].nunique(), len(said)
        questions = questions.select(kinds.index[kinds > 1])
    if setting.order:
        questions, options["shuffle_dataset"] = setting.order(questions, seed), False
    looks = watch(profile, tokenizer, max(1, profile.steps // points), skip)
    looks.note(model, completions=0)
    profile = profile.with_(steps=profile.steps * profile.num_iterations)  # as many completions, more updates
    with tempfile.TemporaryDirectory() as folder:
        trainer = setting.trainer(
            model=model,
            reward_funcs=training.watched_and_checked(setting.rewards),
            args=training.grpo_config(profile, folder, seed, save_strategy="no", **options),
            train_dataset=questions,
            processing_class=tokenizer,
            peft_config=models.lora_config(profile) if setting.adapter else None,
            callbacks=[looks],
        )
        trainer.remove_callback(PrinterCallback)
        training.train_to_end(trainer)
    rows = significant(history(trainer).reindex(columns=[*KEPT, *setting.logged]), 4).to_dict("records")
    return {"curves": looks.rows, "history": rows, "cells": [{"probe": probed, "questions": len(questions)}]}


def run_grid(
    settings: Mapping[str, Setting],
    profile: Profile,
    seeds: Sequence[int],
    keep: Path | None = None,
    points: int = POINTS,
    skip: int = 0,
    run: Callable[..., dict[str, Any]] = run_cell,
) -> dict[str, pd.DataFrame]:
    """Run every setting from every seed, a cell for each core at a time, and say which are done.

    In the folder `keep` finished cells are kept, and those that are there already are not run again. The held-out
    questions are asked `points` times, without the first `skip`. `run` is what runs a cell.

    Returns tables, each with the columns setting and seed: curves (completions, seconds, `Watch.measured`), history
    (KEPT), cells (completions of its probe, training questions, threads, workers).
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cells = {(name, seed): (profile, settings[name], seed, points, skip) for name in settings for seed in seeds}
    files = {cell: keep / f"{cell[0]}, seed {cell[1]}.json" for cell in cells} if keep else {}
    results = {cell: read_json(path) for cell, path in files.items() if path.exists()}
    workers = min(cores, len(cells))
    print(f"{len(cells)} cells, {len(cells) - len(results)} of them to run, {workers} at a time", flush=True)
    spawn, threads = multiprocessing.get_context("spawn"), max(1, cores // workers)
    with ProcessPoolExecutor(workers, spawn, torch.set_num_threads, (threads,)) as pool:
        futures = {pool.submit(run, *job): cell for cell, job in cells.items() if cell not in results}
        try:
            for future in as_completed(futures):
                cell = futures[future]
                results[cell] = future.result()
                if keep:
                    write_json(files[cell], results[cell])
                end = results[cell]["curves"][-1]["strict"]
                print(f"{len(results)}/{len(cells)} {cell[0]}, seed {cell[1]}: {end:.1%}", flush=True)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in multiprocessing.active_children():
                child.terminate()
            raise
    found = {
        name: pd.DataFrame([{"setting": c[0], "seed": c[1]} | row for c in cells for row in results[c][name]])
        for name in ("curves", "history", "cells")
    }
    return found | {"cells": found["cells"].assign(workers=workers, threads=threads)}
