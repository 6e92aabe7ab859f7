"""Placebos as whole runs: what is recorded, and that a constant leaves the policy as it is."""

import pytest

from grpo_helpers import records
from grpo_helpers.evaluation import RATES
from grpo_helpers.experiments.placebos import PLACEBOS, placebos
from grpo_helpers.profiles import TINY

QUICK = TINY.with_(batch=8, num_generations=4, steps=2, max_completion_length=12, eval_questions=6)


@pytest.mark.trains
def test_each_placebo_is_a_run_of_the_recipe_and_has_a_row_for_each_rate():
    tables = placebos(QUICK, seed=3)
    assert [*tables] == ["rates", "history"] == [*records.load("placebos", "tiny", 1)]
    rates, history = tables.values()
    assert [*rates["policy"].unique()] == ["before", *PLACEBOS] and (rates["n"] == 6).all()
    assert [*rates["outcome"]] == [*RATES] * 4
    hits = rates.pivot(index="outcome", columns="policy", values="hits")
    assert hits["constant"].equals(hits["before"].rename("constant"))
    assert history.groupby("placebo", sort=False)["step"].apply(list).to_dict() == dict.fromkeys(PLACEBOS, [1, 2])
    constant = history[history["placebo"] == "constant"]
    assert (constant["reward"] == 0).all() and (constant["grad_norm"] == 0).all()
