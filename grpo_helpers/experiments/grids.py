"""Grids: many short runs of one recipe, each with one thing changed and from several seeds, for notebook 08.

    python -m grpo_helpers.experiments grid_loss --profile tiny

A cell is one setting and one seed. Cells run side by side, a process each. A finished one is kept on disk until the
grid is whole, so that a grid that was stopped goes on where it was. The usual setting is recorded once, as
`grid_usual`; `tables` puts it among the settings of any grid.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import random
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from transformers import PrinterCallback

from .. import data, models, pretrained, records, training
from ..fast.trainer import SharedPromptTrainer
from ..files import read_json, write_json
from ..lessons import probing
from ..profiles import Profile, output_root
from ..records import load
from ..rewards import REWARD_FUNCS, RewardFunc
from .held_out import HeldOut, Measure, held_out_rates
from .trial import significant

# batches of completions in a cell, how often so many held-out questions are asked meanwhile, seeds
STEPS, POINTS, QUESTIONS, SEEDS, USUAL_SEEDS = 24, 6, 100, 3, 6
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


USUAL = Setting()


def _vary(field: str, *values: Any, label: str = "{}") -> dict[str, Setting]:
    """A setting for each value; the first is the usual one."""
    return {label.format(v): Setting({field: v}) if i else USUAL for i, v in enumerate(values)}


_LAYOUT, _NONE = [1.0, 1.0, 1.0, 0.0, 0.0], [0.0] * 5  # weights of REWARD_FUNCS: what is not paid still looks on
_GSPO = {"loss_type": "grpo", "importance_sampling_level": "sequence"}
_GSPO_4 = _GSPO | {"num_iterations": 4, "epsilon": 3e-4, "epsilon_high": 4e-4}  # its paper's clip range
GRIDS: Mapping[str, Mapping[str, Setting]] = {
    "grid_usual": {"usual": USUAL},
    "grid_loss": _vary("loss_type", "dapo", "grpo", "dr_grpo") | {"GSPO": Setting(_GSPO)},
    "grid_kl": _vary("beta", 0.0, 0.04, 0.4, label="beta {:g}"),
    "grid_rate": _vary("learning_rate", 2e-3, 2e-4, 6e-4, 6e-3, label="rate {:g}"),
    "grid_group": _vary("num_generations", 8, 2, 16, 32, label="groups of {}"),
    "grid_rank": _vary("lora_rank", 8, 1, 32, label="rank {}")
    | {f"all weights, rate {r:g}": Setting({"learning_rate": r}, adapter=False) for r in (2e-4, 1e-3)},
    "grid_scale": _vary("scale_rewards", "group", "batch", "none"),
    "grid_temperature": _vary("temperature", 1.0, 0.7, 1.3, label="temperature {:g}"),
    "grid_iterations": _vary("num_iterations", 1, 4, label="updates per batch: {}") | {"4, GSPO": Setting(_GSPO_4)},
    "grid_filter": {"all questions": USUAL, "mixed groups only": Setting({"max_samples": 384}, mixed_only=True)},
    "grid_placebo": {
        "real reward": USUAL,
        "layout only": Setting({"reward_weights": _LAYOUT}),
        "random": Setting({"reward_weights": [*_NONE, 1.0]}, (*REWARD_FUNCS, random_reward_func)),
        "constant": Setting({"reward_weights": _NONE}),
    },
}


class Watch(HeldOut):
    """Asks after every so many batches of completions; its seconds are the processor's, which others do not stretch."""

    def __init__(self, measure: Measure, every: int) -> None:
        super().__init__(measure, time.process_time)
        self.every = every

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        batches, rest = divmod(state.global_step, args.num_iterations)
        if rest == 0 and (batches % self.every == 0 or state.global_step == state.max_steps):
            sampled = batches * args.per_device_train_batch_size * args.gradient_accumulation_steps
            self.note(model, self.seconds, completions=sampled)


def run_cell(profile: Profile, setting: Setting, seed: int) -> dict[str, Any]:
    """Train the policy under one setting: rows of the three tables of `run_grid`."""
    options = dict(setting.changes)
    profile = profile.with_(**{field: options.pop(field) for field in profile.as_dict() if field in options})
    every = max(1, profile.steps // POINTS)
    profile = profile.with_(steps=profile.steps * profile.num_iterations)  # as many completions, more updates
    group = profile.num_generations
    model, tokenizer = models.load_policy(profile)
    questions = data.load_task(profile, "train", profile.max_samples)
    if setting.mixed_only:
        replies = probing.sample_replies(profile, model, tokenizer, questions, group, seed)
        questions = questions.select(probing.questions_with_signal(replies, group, "correctness", 0.0))

    watch, rows, probe = Watch(held_out_rates(profile, tokenizer), every), [], len(replies) if setting.mixed_only else 0
    watch.note(model, 0.0, completions=0)
    with tempfile.TemporaryDirectory() as folder:
        trainer = SharedPromptTrainer(
            model=model,
            reward_funcs=training.watched_and_checked(setting.rewards),
            args=training.grpo_config(profile, folder, seed, save_strategy="no", **options),
            train_dataset=questions,
            processing_class=tokenizer,
            peft_config=models.lora_config(profile) if setting.adapter else None,
            callbacks=[watch],
        )
        trainer.remove_callback(PrinterCallback)
        training.train_to_end(trainer)
    rows = significant(records.history(trainer).reindex(columns=KEPT), 4).to_dict("records")
    return {"curves": watch.rows, "history": rows, "cells": [{"probe": probe, "questions": len(questions)}]}


def _key(*job: Any) -> str:
    """A name for a cell that changes with whatever its result depends on."""
    code = [path.read_text(encoding="utf-8") for path in sorted(Path(__file__).parents[1].rglob("*.py"))]
    parts = [*job[1:], job[0].as_dict(), pretrained.fingerprint(Path(job[0].model)), code]
    words = json.dumps(parts, default=lambda reward_func: reward_func.__name__)
    return hashlib.sha256(words.encode()).hexdigest()[:16]


def run_grid(
    settings: Mapping[str, Setting], profile: Profile, seeds: Sequence[int], workers: int = 0
) -> dict[str, pd.DataFrame]:
    """Run every setting from every seed, `workers` cells at a time (0: one for each core), and say which are done.

    Returns:
        curves (completions, seconds, the rates of `held_out_rates` and tokens), history (columns KEPT), cells
        (completions of its probe, training questions, threads, workers), each with the columns setting and seed.
    """
    keep, cores = output_root() / "grids", os.cpu_count() or 1
    keep.mkdir(parents=True, exist_ok=True)
    jobs = {(label, seed): (profile, setting, seed) for label, setting in settings.items() for seed in seeds}
    files = {cell: keep / f"{_key(*job)}.json" for cell, job in jobs.items()}
    todo = [cell for cell in jobs if not files[cell].exists()]
    workers = workers or min(cores, len(jobs))
    print(f"{len(jobs)} cells, {len(todo)} of them to run, {workers} at a time", flush=True)
    spawn, threads = multiprocessing.get_context("spawn"), max(1, cores // workers)
    with ProcessPoolExecutor(workers, spawn, torch.set_num_threads, (threads,)) as pool:
        futures = {pool.submit(run_cell, *jobs[cell]): cell for cell in todo}
        try:
            for number, future in enumerate(as_completed(futures), start=len(jobs) - len(todo) + 1):
                result, (label, seed) = future.result(), futures[future]
                write_json(files[label, seed], result)
                print(f"{number}/{len(jobs)} {label}, seed {seed}: {result['curves'][-1]['strict']:.1%}", flush=True)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in multiprocessing.active_children():
                child.terminate()
            raise
    results = {cell: read_json(path) for cell, path in files.items()}
    found = {}
    for name in ("curves", "history", "cells"):
        rows = [{"setting": s, "seed": seed} | row for (s, seed), result in results.items() for row in result[name]]
        found[name] = pd.DataFrame(rows)
    for path in files.values():
        path.unlink()
    return found | {"cells": found["cells"].assign(workers=workers, threads=threads)}


def grid(name: str, profile: Profile, seed: int) -> dict[str, pd.DataFrame]:
    """The experiment `name`: the settings of its grid but the usual one, from the seeds `seed`, `seed` + 1 …"""
    settings = {label: setting for label, setting in GRIDS[name].items() if setting != USUAL} or GRIDS[name]
    seeds = range(seed, seed + (USUAL_SEEDS if name == "grid_usual" else SEEDS))
    return run_grid(settings, profile.with_(steps=STEPS, eval_questions=QUESTIONS), seeds)


def tables(name: str, profile: str = "tiny", seed: int = 42) -> dict[str, pd.DataFrame]:
    """The recorded tables of a grid, the usual setting first."""
    usual, first = load("grid_usual", profile, seed), next(iter(GRIDS[name]))
    own = load(name, profile, seed) if name != "grid_usual" else dict.fromkeys(usual)
    return {key: pd.concat([usual[key].assign(setting=first), own[key]], ignore_index=True) for key in own}


def __getattr__(name: str) -> Callable[[Profile, int], dict[str, pd.DataFrame]]:
    """Each grid as an experiment, for `grpo_helpers.experiments`."""
    if name not in GRIDS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return partial(grid, name)
