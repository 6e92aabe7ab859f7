"""What GRPO can teach a policy that has seen a skill never, rarely or often, paid in three ways, for notebook 13.

Two of the three policies are pre-trained first, each in half an hour to an hour on one core; `policy` says how. The
third is the policy of the profile `tiny`.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pandas as pd

from grpo_helpers import data, evaluation, models
from grpo_helpers.lessons.grids import Setting, Watch, run_grid
from grpo_helpers.pretrained import fingerprint
from grpo_helpers.profiles import TINY, Profile, output_root

from .alternatives import steps_of, taught
from .grid import LAB, kept
from .learned_reward import only_tiny

SEEDS, SAMPLES = 5, 16
SHOWN, SHOWN_RATES = 10, (5e-4, 2e-3)  # worked solutions, and the learning rates of reading them
WORKED = {"absent": 0, "rare": 1, "common": 26}  # percent of the habit's demonstrations
PAID = ("real reward", "layout only", "random")


def policy(skill: str) -> str:
    """The folder of a policy, "common" being the shipped one; a FileNotFoundError says how to make a missing one."""
    if skill == "common":
        return TINY.model
    folder = output_root() / "policies" / skill
    if not (folder / "model.safetensors").is_file():
        make = f"python data/tiny_policy/pretrain.py --worked {WORKED[skill]} --output {folder}"
        raise FileNotFoundError(f"{folder} holds no policy; make it with {make}")
    return str(folder)


def sampled(profile: Profile) -> pd.DataFrame:
    """`SAMPLES` replies to each held-out question at temperature 1: how many are right, and how many worked out."""
    model, tokenizer = models.load_policy(profile)
    held_out = data.load_task(profile, "test", profile.eval_questions)
    options = {"num_generations": SAMPLES, "temperature": 1.0, "batch_size": profile.eval_batch}
    replies = evaluation.evaluate(model, tokenizer, held_out, profile.max_completion_length, **options)
    return replies.groupby("question", sort=False)[["flexible", "worked"]].sum().reset_index(names="question")


def elicit(profile: Profile, seed: int) -> dict[str, pd.DataFrame]:
    """Each policy under each reward, for all of the profile's steps, from the seeds `seed`, `seed` + 1 …

    Returns:
        policies: each untrained one, its share of worked demonstrations in percent and its fingerprint;
        sampled: what `sampled` counts, with the column skill;
        curves, history: those of `run_grid`, the column setting being like "rare, real reward".
    """
    only_tiny(profile)
    folders = {skill: policy(skill) for skill in WORKED}
    made = [(skill, WORKED[skill], fingerprint(Path(folder))) for skill, folder in folders.items()]
    before = {skill: sampled(profile.with_(model=folder)) for skill, folder in folders.items()}
    paid = LAB.GRIDS["grid_placebo"]
    settings = {
        f"{skill}, {name}": paid[name]._replace(changes={**paid[name].changes, "model": folder})
        for skill, folder in folders.items()
        for name in PAID
    }
    with kept("elicit", profile, seed) as keep:
        found = run_grid(settings, profile, range(seed, seed + SEEDS), keep=keep)
    return {
        "policies": pd.DataFrame(made, columns=["skill", "worked_percent", "weights_sha256"]),
        "sampled": pd.concat(before, names=["skill"]).reset_index("skill"),
        "curves": found["curves"],
        "history": found["history"],
    }


def elicit_shown(profile: Profile, seed: int) -> dict[str, pd.DataFrame]:
    """The policies that lack the skill, or rarely use it, after reading a few worked solutions, and after GRPO on top.

    GRPO starts, from the seeds `seed`, `seed` + 1 …, where the first of them left each policy at its better rate.

    Returns:
        shown: skill, rate, seed, and the means of `Watch.measured` on the held-out questions, greedily;
        curves, history: those of `run_grid`, the setting being the skill.
    """
    only_tiny(profile)
    tokenizer, steps = models.load_policy(profile)[1], steps_of("10 demonstrations", profile)
    watch, rows, settings = Watch(profile, tokenizer, every=1), [], {}
    for skill in ("absent", "rare"):
        folders = {rate: output_root() / "policies" / f"{skill}, shown, rate {rate}" for rate in SHOWN_RATES}
        for rate, own in product(SHOWN_RATES, range(seed, seed + SEEDS)):
            looks = taught.Looks(lambda model: {})
            trained = taught.demonstrations(SHOWN, rate, own, looks, start=policy(skill), **steps).merge_and_unload()
            rows.append({"skill": skill, "rate": rate, "seed": own} | watch.measure(trained))
            print(rows[-1], flush=True)
            if own == seed:
                trained.save_pretrained(folders[rate])
                tokenizer.save_pretrained(folders[rate])
        means = pd.DataFrame(rows).query("skill == @skill").groupby("rate")["flexible"].mean()
        settings[skill] = Setting({"model": str(folders[means.idxmax()])})
    with kept("elicit_shown", profile, seed) as keep:
        found = run_grid(settings, profile, range(seed, seed + SEEDS), keep=keep)
    return {"shown": pd.DataFrame(rows), "curves": found["curves"], "history": found["history"]}
