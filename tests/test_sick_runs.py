"""The sick runs: the doctor names each recorded illness, and a run of the recipe keeps what the notebook shows."""

import pandas as pd
import pytest

from grpo_helpers import records
from grpo_helpers.files import read_json
from grpo_helpers.lessons.clinic import PATIENTS, tables
from grpo_helpers.lessons.doctor import SYMPTOMS, diagnose
from grpo_helpers.profiles import TINY
from grpo_helpers.rewards import REWARD_FUNCS, strict_format_reward_func
from record import sick_runs
from record.sick_runs import CASES, keeping, sick_run

SEEDS = (42, 1)
RECORDED = [(name, seed) for name in CASES for seed in SEEDS]
ILLNESSES = dict(PATIENTS.values())  # record → illness


def found(history):
    return [f.name for f in diagnose(history) if f.severity != "note"]


# --- what is recorded ---------------------------------------------------------


@pytest.mark.parametrize("name, seed", RECORDED)
def test_the_doctor_names_the_planted_illness_and_no_other_first(name, seed):
    history = records.load(name, "tiny", seed)["history"]
    assert found(history)[:1] == ([ILLNESSES[name]] if name in ILLNESSES else [])
    assert all(pd.api.types.is_numeric_dtype(kind) for kind in history.dtypes)


@pytest.mark.parametrize("name, seed", RECORDED)
def test_a_record_is_small_and_says_what_was_changed(name, seed):
    folder = records.folder(name, "tiny", seed)
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 60_000
    facts, (history, completions, recipe) = read_json(folder / "run.json"), records.load(name, "tiny", seed).values()
    assert facts["command"].endswith(f"{name} --profile tiny --seed {seed}")
    assert not facts["commit"].endswith("-dirty")
    assert list(history["step"]) == list(range(1, len(history) + 1))
    assert {1, len(history)} <= set(completions["step"])
    differ = {field for field, value in CASES[name].changes.items() if value != getattr(TINY, field)}
    differ |= {"rewards"} if CASES[name].rewards != REWARD_FUNCS else set()
    size = {"batch", "steps"}  # how much is trained is not what is wrong, and the profile's own may change
    assert set(recipe["setting"]) - size == differ - size


def test_every_case_but_the_healthy_one_is_a_patient_with_a_name_of_the_doctors():
    assert set(ILLNESSES) == set(CASES) - {"healthy_kl"} and set(ILLNESSES.values()) <= set(SYMPTOMS)
    pd.testing.assert_frame_equal(tables("A", 1)["history"], records.load("sick_truncated", "tiny", 1)["history"])


# --- a run ----------------------------------------------------------------------


@pytest.mark.trains
def test_a_short_run_keeps_history_completions_and_recipe(monkeypatch):
    case = CASES["sick_hacked"]
    short = case._replace(changes=dict(case.changes) | {"steps": 4, "batch": 16, "max_completion_length": 12})
    monkeypatch.setattr(sick_runs, "CASES", {"sick_hacked": short})
    result = sick_run("sick_hacked", TINY, 3)
    assert len(result["history"]) == 4
    assert {f"rewards/{f.__name__}/mean" for f in (*case.rewards, *case.witnesses)} <= set(result["history"])
    assert result["completions"]["step"].tolist() == [1, 1, 2, 2, 3, 3, 4, 4]
    paid = [case.rewards[0](completions=[r.completion], answer=[r.gold])[0] for r in result["completions"].itertuples()]
    assert result["completions"]["reward"].tolist() == paid
    changed = result["recipe"].set_index("setting")
    assert changed.loc["max_completion_length", "usual"] == TINY.max_completion_length
    assert changed.loc["max_completion_length", "here"] == 12
    assert "learning_rate" not in changed.index
    assert changed.loc["rewards", "here"] == "generous_reward_func"


def test_keeping_changes_neither_the_name_nor_the_points():
    class State:
        global_step = 4

    rows = []
    func = keeping(strict_format_reward_func, REWARD_FUNCS, group=2, at=[5], rows=rows)
    texts = ["<reasoning>\n1\n</reasoning>\n<answer>\n7\n</answer>", "a", "7", "b"]
    asked = {"completions": [[{"role": "assistant", "content": t}] for t in texts], "answer": ["7", "7", "8", "8"]}
    assert func(**asked, trainer_state=State, prompts=None) == [0.5, 0.0, 0.0, 0.0]
    assert func.__name__ == "strict_format_reward_func"
    assert rows == [(5, "7", texts[0], 4.0), (5, "8", "7", 0.0)]
    State.global_step = 5
    func(**asked, trainer_state=State)
    assert len(rows) == 2


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
