"""A trial: its witnesses pay nothing, its rates are counted; and near misses of notebook 03's exercises."""

import pandas as pd
import pytest

from grpo_helpers import prompts, rewards
from grpo_helpers.checks import notebook_03 as checks
from grpo_helpers.lessons.trials import rates, trial
from grpo_helpers.profiles import TINY

from .cells import definitions

taught = definitions("03_reward_design", "naive_reward_func", "generous_reward_func")


def test_rates_are_counted_for_each_policy_and_outcome():
    outcome = pd.DataFrame({"strict": [True, False], "flexible": [True, True], "format": [True, False]})
    outcome[["worked", "truncated"]] = False
    table = rates({"before": outcome, "after": outcome.assign(strict=True)})
    assert len(table) == 10 and set(table["n"]) == {2}
    strict = table[table["outcome"] == "strict"].set_index("policy")
    assert strict["hits"].to_dict() == {"before": 1, "after": 2}
    assert ((table["low"] <= table["rate"]) & (table["rate"] <= table["high"])).all()


@pytest.mark.trains
def test_a_witness_is_logged_and_pays_nothing():
    short, witnesses = TINY.with_(steps=2, batch=16, eval_questions=4), [rewards.correctness_reward_func]
    found = trial(short, [taught.generous_reward_func], 1, witnesses=witnesses, evaluate_before=False)
    assert found.before is None and len(found.after) == 4
    assert found.history["rewards/correctness_reward_func/mean"].notna().all()
    paid = found.history["rewards/generous_reward_func/mean"]
    assert found.history["reward"].tolist() == pytest.approx(paid.tolist())


# --- exercises ---------------------------------------------------------------------------


def strings_only(completions, answer, **kwargs):
    said = map(rewards.final_answer, completions)
    return [2.0 if prompts.same_number(s, a) else 0.0 for s, a in zip(said, answer, strict=True)]


@pytest.mark.parametrize(
    ("check", "solution", "said"),
    [
        (checks.break_the_reward, rewards.correctness_reward_func, "Solved."),
        (checks.break_the_reward, taught.naive_reward_func, "gold with a comma: deserves pay, got 0.0"),
        (checks.break_the_reward, strings_only, "Not yet"),
        (
            checks.never_fires,
            lambda fs, cs, golds: [f.__name__ for f in fs if not all(f(completions=cs, answer=golds))],
            "only the second",
        ),
        (checks.disputed_group, lambda n: [(0.5, 2)] + [(0, 0)] * (n - 1), "both ways prefer"),
        (checks.disputed_group, lambda n: [(0.5, 2), (0, 0)], "expected 4 pairs"),
        (checks.disputed_group, lambda n: [(0.25, 2)] * n, "there is a pair (0.25, 2"),
        (checks.disputed_group, lambda n: [(0, 0)] * n, "both ways prefer"),
    ],
)
def test_a_near_miss_is_told_what_is_missing(check, solution, said, capsys):
    check(solution)
    assert said in capsys.readouterr().out
