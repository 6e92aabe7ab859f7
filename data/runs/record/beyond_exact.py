"""Two comparisons of notebook 12, with its own functions: how shape is paid for, and which tests are asked."""

from __future__ import annotations

import pandas as pd

from grpo_helpers.lessons.trials import rates, trial
from grpo_helpers.profiles import Profile
from grpo_helpers.records import history
from grpo_helpers.statistics import wilson_interval
from tests.cells import definitions

from .learned_reward import NOTEBOOK, only_tiny

taught = definitions(
    NOTEBOOK,
    *("WAYS", "WAYS_RECIPE", "program_task", "warm_up", "train_on_tests", "written", "KINDS"),
    *("shown_reward_func", "hidden_reward_func", "DEMONSTRATIONS", "TEST_STEPS", "HELD_OUT_TASKS"),
)


def shape_ways(profile: Profile, seed: int) -> dict[str, pd.DataFrame]:
    """The tiny policy paid by the sum, the product and the gate of shape and answer.

    Returns:
        rates of the untrained policy and of each trained one, held out, greedy (`trials.rates`); history, with the
        column way.
    """
    only_tiny(profile)
    runs = {}
    for way, reward_func in taught.WAYS.items():
        runs[way] = trial(taught.WAYS_RECIPE, [reward_func], seed, evaluate_before=not runs)
    outcomes = {"untrained": next(iter(runs.values())).before} | {way: run.after for way, run in runs.items()}
    logs = {way: run.history for way, run in runs.items()}
    return {"rates": rates(outcomes), "history": pd.concat(logs, names=["way"]).reset_index("way")}


def hidden_tests(profile: Profile, seed: int) -> dict[str, pd.DataFrame]:
    """The warm-up, then GRPO with the shown test alone and with hidden ones.

    Returns:
        kinds, a row for each policy, decoding and kind of reply: hits, n, rate and its 95 % Wilson interval;
        history, with the column tests.
    """
    only_tiny(profile)
    tasks, held_out = taught.program_task("train"), taught.program_task("test").shuffle(seed=0)
    held_out = held_out.select(range(taught.HELD_OUT_TASKS))
    warmed, tokenizer = taught.warm_up(tasks.select(range(taught.DEMONSTRATIONS)), seed=seed)
    new, rows, logs = tasks.select(range(taught.DEMONSTRATIONS, len(tasks))), [], {}

    def note(policy, model):
        for decoding, temperature in (("greedy", 0.0), ("sampled", 1.0)):
            kinds = taught.written(model, tokenizer, held_out, temperature=temperature)["kind"]
            for name in taught.KINDS:
                hits, n = int(kinds.eq(name).sum()), len(kinds)
                rows.append((policy, decoding, name, hits, n, hits / n, *wilson_interval(hits, n)))

    note("warmed up", warmed)
    for tests, reward_func in (("shown", taught.shown_reward_func), ("hidden", taught.hidden_reward_func)):
        trainer = taught.train_on_tests(warmed, tokenizer, new, reward_func, taught.TEST_STEPS, seed)
        logs[tests] = history(trainer)
        note(f"{tests} tests", trainer.model)
    kinds = pd.DataFrame(rows, columns=["policy", "decoding", "kind", "hits", "n", "rate", "low", "high"])
    return {"kinds": kinds, "history": pd.concat(logs, names=["tests"]).reset_index("tests")}
