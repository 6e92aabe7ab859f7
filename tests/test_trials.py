"""A trial's rates are counted. That its witnesses pay nothing is tested in test_sick_runs.py."""

import pandas as pd

from grpo_helpers.lessons.trials import rates


def test_rates_are_counted_for_each_policy_and_outcome():
    outcome = pd.DataFrame({"strict": [True, False], "flexible": [True, True], "format": [True, False]})
    outcome[["worked", "truncated"]] = False
    table = rates({"before": outcome, "after": outcome.assign(strict=True)})
    assert len(table) == 10 and set(table["n"]) == {2}
    strict = table[table["outcome"] == "strict"].set_index("policy")
    assert strict["hits"].to_dict() == {"before": 1, "after": 2}
    assert ((table["low"] <= table["rate"]) & (table["rate"] <= table["high"])).all()
