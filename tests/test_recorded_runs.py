"""The recorded runs of `tiny` are of this recipe and these weights. What they show is asserted where it is told: in the
notebooks 03, 07 and 08."""

import pandas as pd
import pytest

from grpo_helpers.evaluation import RATES
from grpo_helpers.files import read_json
from grpo_helpers.pretrained import fingerprint
from grpo_helpers.profiles import DATA, TINY


@pytest.mark.parametrize("seed", (1, 2, 3))
def test_a_recorded_run_is_of_this_recipe_and_learns_layout_and_thinking(seed):
    folder = DATA / "runs" / f"tiny-{seed}"
    run = read_json(folder / "run.json")
    assert run["weights_sha256"] == fingerprint(DATA / "tiny_policy")
    same = ("steps", "learning_rate", "batch", "num_generations", "max_completion_length", "eval_questions")
    assert all(run["profile"][field] == getattr(TINY, field) for field in same)
    assert run["profile"]["problem_steps"] == [1, 2, 3] and not run["commit"].endswith("-dirty")

    table = pd.read_csv(folder / "comparison.csv")
    found = table[table["temperature"] == 0].set_index("rate").rename({label: name for name, label in RATES.items()})
    before, after = found["before"], found["after"]
    assert (found["n"] == 200).all()
    assert before["strict"] <= 0.25 and before["flexible"] <= 0.35 and before["worked"] <= 0.3
    assert after["strict"] >= 0.75 and after["flexible"] >= 0.75 and after["worked"] >= 0.9
    kept = found.drop(index="truncated")
    assert not ((kept["after"] < kept["before"]) & (kept["p_value"] < 0.05)).any()
