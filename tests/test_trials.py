"""A trial: its witnesses pay nothing, and its rates are counted."""

import pandas as pd
import pytest

from grpo_helpers import rewards
from grpo_helpers.lessons.trials import rates, trial
from grpo_helpers.profiles import TINY

from .cells import definitions

generous_reward_func = definitions("03_reward_design", "generous_reward_func").generous_reward_func


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
    found = trial(short, [generous_reward_func], 1, witnesses=witnesses, evaluate_before=False)
    assert found.before is None and len(found.after) == 4
    assert found.history["rewards/correctness_reward_func/mean"].notna().all()
    paid = found.history["rewards/generous_reward_func/mean"]
    assert found.history["reward"].tolist() == pytest.approx(paid.tolist())
