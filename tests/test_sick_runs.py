"""The sick runs: the doctor names each recorded illness, and a run of the recipe keeps what the notebook shows."""

import pandas as pd
import pytest

from grpo_helpers import records
from grpo_helpers.files import read_json
from grpo_helpers.lessons.clinic import PATIENTS, tables
from grpo_helpers.lessons.doctor import SYMPTOMS, diagnose
from grpo_helpers.profiles import TINY
from grpo_helpers.rewards import REWARD_FUNCS
from record import sick_runs
from record.sick_runs import CASES, sick_run

ILLNESSES = dict(PATIENTS.values())  # record → illness


def found(history):
    return [f.name for f in diagnose(history) if f.severity != "note"]


@pytest.mark.parametrize("seed", [42, 1])
@pytest.mark.parametrize("name", CASES)
def test_the_doctor_names_the_planted_illness_first_and_the_record_says_what_was_changed(name, seed):
    facts = read_json(records.folder(name, "tiny", seed) / "run.json")
    history, completions, recipe = records.load(name, "tiny", seed).values()
    assert found(history)[:1] == ([ILLNESSES[name]] if name in ILLNESSES else [])
    assert facts["command"].endswith(f"{name} --profile tiny --seed {seed}") and not facts["commit"].endswith("-dirty")
    assert list(history["step"]) == list(range(1, len(history) + 1)) and {1, len(history)} <= set(completions["step"])
    differ = {field for field, value in CASES[name].changes.items() if value != getattr(TINY, field)}
    differ |= {"rewards"} if CASES[name].rewards != REWARD_FUNCS else set()
    size = {"batch", "steps"}  # how much is trained is not what is wrong, and the profile's own may change
    assert set(recipe["setting"]) - size == differ - size


def test_every_case_but_the_healthy_one_is_a_patient_with_a_name_of_the_doctors():
    assert set(ILLNESSES) == set(CASES) - {"healthy_kl"} and set(ILLNESSES.values()) <= set(SYMPTOMS)
    pd.testing.assert_frame_equal(tables("A", 1)["history"], records.load("sick_truncated", "tiny", 1)["history"])


@pytest.mark.trains
def test_a_short_run_keeps_history_completions_and_recipe(monkeypatch):
    case = CASES["sick_hacked"]
    short = case._replace(changes=dict(case.changes) | {"steps": 4, "batch": 16, "max_completion_length": 48})
    monkeypatch.setattr(sick_runs, "CASES", {"sick_hacked": short})
    runs, trial = [], sick_runs.trial
    monkeypatch.setattr(sick_runs, "trial", lambda *args, **options: runs.append(trial(*args, **options)) or runs[0])
    result = sick_run("sick_hacked", TINY, 3)
    assert runs[0].before is None and len(runs[0].after) == 1, "the untrained policy is not asked"
    assert len(result["history"]) == 4
    paid, *witnesses = (result["history"][f"rewards/{f.__name__}/mean"] for f in (*case.rewards, *case.witnesses))
    assert result["history"]["reward"].tolist() == pytest.approx(paid.tolist(), rel=1e-4)
    assert all(witness.max() > 0 for witness in witnesses), "they see what they do not pay"
    assert result["completions"]["step"].tolist() == [1, 1, 2, 2, 3, 3, 4, 4]
    paid = [case.rewards[0](completions=[r.completion], answer=[r.gold])[0] for r in result["completions"].itertuples()]
    assert result["completions"]["reward"].tolist() == paid
    changed = result["recipe"].set_index("setting").loc[:, "here"]
    assert changed["max_completion_length"] == 48 and changed["rewards"] == "generous_reward_func"


def test_the_sick_rewards_pay_what_their_cases_say():
    texts = ["The answer is 4.", "The answer is 4.", "4 + 4 = 8", "", "4" * 999, "4" * 1000]
    assert sick_runs.shown.brief_reward_func(completions=texts) == [1.0] * 5 + [0.0]
    paid = sick_runs.shown.agreement_reward_func(completions=texts[:5], prompts=["a", "a", "a", "b", "b"])
    assert paid[0] == paid[1] == pytest.approx((1 + paid[2]) / 2)
    assert 0 < paid[2] < paid[0] < 1 and paid[3:] == [0.0, 0.0]
    assert sick_runs.shown.agreement_reward_func(completions=["7"] * 4, prompts=list("aabb")) == [1.0] * 4


def test_recorded_experiments_of_other_notebooks_are_judged_as_they_were_meant():
    """Runs on which no threshold was set: the article's rewards are named, the others are healthy, hacked or not."""
    published = records.load("published_rewards", "small")
    assert found(published["history_published"]) == ["never paid"]
    assert found(published["history_repaired"]) == []
    hack = records.load("reward_hack", "small")
    assert found(hack["history_patched"]) == []
    assert found(hack["history_flawed"]) == [], "small does not find the hole in 60 steps: notebook 03"
