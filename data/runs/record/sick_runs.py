"""Training runs that are ill on purpose, each from one cause, and a healthy one with a KL penalty, for notebook 07.

Each is a short run of the profile's recipe with one thing changed: `CASES` says what, and
`grpo_helpers.lessons.clinic` what the doctor calls it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import wraps
from typing import Any, NamedTuple

import pandas as pd

from grpo_helpers.lessons.flawed import PUBLISHED_REWARD_FUNCS
from grpo_helpers.lessons.grids import significant
from grpo_helpers.lessons.trials import trial
from grpo_helpers.profiles import Profile
from grpo_helpers.rewards import REWARD_FUNCS, RewardFunc, completion_text
from grpo_helpers.rewards import correctness_reward_func as correctness
from grpo_helpers.rewards import strict_format_reward_func as strict_format
from tests.cells import definitions

BATCH = 24  # completions a step, so that a run takes less than a minute
MOMENTS, SHOWN = 4, 2  # completions are kept at so many steps, so many each
taught = definitions("03_reward_design", "generous_reward_func")
shown = definitions("07_reading_training_runs", "brief_reward_func", "agreement_reward_func")


class Case(NamedTuple):
    """What is changed; witnesses look on and pay nothing."""

    changes: Mapping[str, Any]
    rewards: tuple[RewardFunc, ...] = REWARD_FUNCS
    witnesses: tuple[RewardFunc, ...] = ()


CASES: Mapping[str, Case] = {
    "sick_rate_too_low": Case({"learning_rate": 1e-6, "steps": 60}),
    "sick_rate_too_high": Case({"learning_rate": 1e-2, "beta": 1e-3, "steps": 50}),
    "sick_truncated": Case({"max_completion_length": 5, "steps": 20}),
    "sick_tied": Case({"steps": 20}, (shown.brief_reward_func,), (correctness,)),
    "sick_hacked": Case(
        {"steps": 40, "batch": 64},
        (taught.generous_reward_func,),
        (correctness, strict_format),
    ),
    "sick_collapsed": Case({"steps": 60}, (shown.agreement_reward_func,), (correctness,)),
    "sick_published": Case({"steps": 50}, PUBLISHED_REWARD_FUNCS, (correctness,)),
    "healthy_kl": Case({"beta": 0.04, "steps": 60}),
}


def keeping(reward_func: RewardFunc, every: Sequence[RewardFunc], group: int, at: Sequence[int], rows: list) -> Any:
    """`reward_func`; at the steps `at` it adds a completion of each of the first groups, with its total, to `rows`."""

    @wraps(reward_func)
    def wrapper(completions: Sequence[Any], answer: Sequence[str], trainer_state: Any, **kwargs: Any) -> list[float]:
        step = trainer_state.global_step + 1
        if step in at:
            paid = [f(completions=completions, answer=answer, **kwargs) for f in every]
            total = [sum(points) for points in zip(*paid, strict=True)]
            for i in range(0, SHOWN * group, group):
                rows.append((step, answer[i], completion_text(completions[i]), total[i]))
        return reward_func(completions=completions, answer=answer, trainer_state=trainer_state, **kwargs)

    return wrapper


def _plain(value: Any) -> Any:
    return ", ".join(f.__name__ for f in value) if isinstance(value, tuple) else value


def sick_run(name: str, profile: Profile, seed: int) -> dict[str, pd.DataFrame]:
    """Train as `CASES[name]` says.

    Returns:
        history; completions (step, gold, completion, reward), some at a few steps; recipe, the settings changed.
    """
    case, rows = CASES[name], []
    settings = {"batch": BATCH} | case.changes
    ill = profile.with_(**settings, eval_questions=1)
    at = [1 + k * (ill.steps - 1) // (MOMENTS - 1) for k in range(MOMENTS)]
    first, *others = case.rewards
    run = trial(
        ill,
        (keeping(first, case.rewards, ill.num_generations, at, rows), *others),
        seed,
        witnesses=case.witnesses,
        evaluate_before=False,
    )
    usual = profile.as_dict() | {"rewards": REWARD_FUNCS}
    changes = [(k, usual[k], v) for k, v in (settings | {"rewards": case.rewards}).items() if v != usual[k]]
    return {
        "history": significant(run.history).astype({"step": int}),
        "completions": pd.DataFrame(rows, columns=["step", "gold", "completion", "reward"]),
        "recipe": pd.DataFrame(changes, columns=["setting", "usual", "here"]).map(_plain),
    }
