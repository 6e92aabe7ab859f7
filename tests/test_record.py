"""Recorders: what is written can be loaded, half a record counts as none, and each gives the tables that are read.

What the recorded runs show is asserted where it is told, in the notebooks.
"""

import runpy
import subprocess
import sys
from unittest.mock import Mock

import pandas as pd
import pytest

import record
from grpo_helpers import records, run
from grpo_helpers.evaluation import RATES
from grpo_helpers.files import held, read_json
from grpo_helpers.lessons import probing
from grpo_helpers.pretrained import fingerprint
from grpo_helpers.profiles import DATA, ROOT, SMALL, TINY
from record import prompt_variants, reward_experiments
from record.__main__ import main
from record.placebos import PLACEBOS, placebos

NAME = "prompt_variants"
TABLES = {"rates": pd.DataFrame({"variant": ["a", "b"], "strict": [0.25, 0.5]}), "replies": pd.DataFrame({"n": [1]})}
QUICK = TINY.with_(batch=8, num_generations=4, steps=2, max_completion_length=12, eval_questions=6)


@pytest.fixture
def quick(monkeypatch):
    """An experiment that takes no time."""
    monkeypatch.setitem(record.RECORDERS, NAME, lambda profile, seed: TABLES)


def test_a_record_can_be_loaded_and_says_where_it_comes_from_and_without_that_is_none(quick, tmp_path, monkeypatch):
    target = record.record(NAME, TINY, seed=7, runs=tmp_path)
    assert target.name == "prompt_variants-tiny-7"
    loaded = records.load(NAME, "tiny", 7, runs=tmp_path)
    assert list(loaded) == ["rates", "replies"]
    pd.testing.assert_frame_equal(loaded["rates"], TABLES["rates"])
    facts = read_json(target / "run.json")
    assert facts["command"] == "python data/runs/record prompt_variants --profile tiny --seed 7"
    assert facts["seed"] == 7 and facts["profile"]["name"] == "tiny"
    assert {"versions", "hardware", "commit", "weights_sha256"} <= set(facts)
    assert records.available(NAME, runs=tmp_path) == [("tiny", 7)] and records.available("gpu") == []
    (target / "run.json").unlink()
    assert records.available(NAME, runs=tmp_path) == []
    with pytest.raises(FileNotFoundError, match="data/runs/record prompt_variants --profile tiny --seed 7"):
        records.load(NAME, "tiny", 7, runs=tmp_path)
    monkeypatch.setenv("PATH", "")
    assert run.commit() == "unknown", "without git"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seed", "-1"], "seed=-1"),
        (["--output", "/proc/nowhere"], "cannot write to the output folder /proc/nowhere"),
        (["--output", "held"], "another run (process"),
    ],
)
def test_mistakes_are_named_before_the_experiment_is_run(arguments, message, monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(record.RECORDERS, NAME, lambda profile, seed: pytest.fail("hours of work for nothing"))
    monkeypatch.chdir(tmp_path)
    with held(tmp_path / "held" / f"{NAME}-tiny-42"):
        assert main([NAME, "--profile", "tiny", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("error", "code"), [(ValueError("no such thing"), 2), (KeyboardInterrupt(), 130)])
def test_what_fails_or_is_stopped_leaves_the_older_record_as_it_was(error, code, quick, monkeypatch, tmp_path, capsys):
    arguments = [NAME, "--profile", "tiny", "--output", str(tmp_path)]
    assert main(arguments) == 0
    before = {p: p.is_file() and p.read_bytes() for p in tmp_path.rglob("*")}

    monkeypatch.setitem(record.RECORDERS, NAME, Mock(side_effect=error))
    assert main(arguments) == code and ("stopped by Ctrl-C" in capsys.readouterr().err) == (code == 130)
    assert {p: p.is_file() and p.read_bytes() for p in tmp_path.rglob("*")} == before


@pytest.mark.trains
def test_the_command_runs_in_a_plain_checkout_and_names_what_can_be_recorded(tmp_path):
    """From another folder, and without the installed package: only the standard library's and others' are found."""
    code = f"import runpy, sys; sys.path = [p for p in sys.path if p not in ('', {str(ROOT)!r})]; "
    code += "sys.argv = ['record', 'nothing']; sys.meta_path = [f for f in sys.meta_path if 'editable' not in str(f)]; "
    code += f"runpy.run_path({str(ROOT / 'data/runs/record')!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and all(name in done.stderr for name in record.RECORDERS), done.stderr


@pytest.mark.trains
@pytest.mark.parametrize("name", ["published_rewards", "reward_hack"])
def test_two_rewards_leave_two_histories_and_the_rates_and_replies_of_three_policies(name, tmp_path):
    record.record(name, QUICK, seed=7, runs=tmp_path)
    tables = records.load(name, "tiny", 7, tmp_path)
    histories = [t for t in tables if t.startswith("history_")]
    assert len(histories) == 2 and all(len(tables[t]) == QUICK.steps for t in histories)
    policies = ["before", *(t.removeprefix("history_") for t in histories)]
    assert [*tables["rates"]["policy"].unique()] == policies
    assert [*tables["completions"]] == ["question", "gold", *policies] and len(tables["completions"]) == 6
    assert [*tables] == [*records.load(name, "small")]
    assert len(records.load(name, "small")["completions"]) == reward_experiments.SHOWN


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


def test_prompt_variants_give_rates_and_three_replies_of_each(monkeypatch):
    monkeypatch.setattr(prompt_variants, "QUESTIONS", 4)
    tables = prompt_variants.prompt_variants(TINY.with_(max_completion_length=16), seed=0)
    assert tables["rates"]["variant"].tolist() == list(probing.variants())
    assert set(tables["rates"]["n"]) == {4} and len(tables["completions"]) == 3 * len(probing.variants())
    recorded = records.load("prompt_variants", "small")
    assert {name: list(table) for name, table in tables.items()} == {n: list(t) for n, t in recorded.items()}


@pytest.mark.trains
def test_every_checkpoint_answers_every_question():
    (answers,) = record.RECORDERS["checkpoints"](QUICK.with_(max_completion_length=48), seed=3).values()
    assert answers["step"].tolist() == [0, 1, 2] and [*answers] == [*records.load("checkpoints", "tiny", 1)["answers"]]
    assert all(len(right) == 12 and {*right} <= {*".1"} for right in answers["right"])


OF_TINY = ["checkpoints", "shape_ways", "hidden_tests", "learned_reward", "judge", "reward_mixes", "mismatch"]
OF_TINY += [name for name in record.RECORDERS if name.startswith(("alternatives", "elicit"))]


@pytest.mark.parametrize("name, seed", [(n, s) for n in OF_TINY for _, s in records.available(n)])
def test_a_record_is_of_these_weights_and_of_a_commit(name, seed):
    facts = read_json(records.folder(name, "tiny", seed) / "run.json")
    assert facts["weights_sha256"] == fingerprint(DATA / "tiny_policy") and not facts["commit"].endswith("-dirty")


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


@pytest.mark.parametrize("name", OF_TINY)
def test_a_recorder_refuses_another_policy(name):
    with pytest.raises(ValueError, match="profile small: the notebook trains tiny"):
        record.RECORDERS[name](SMALL, 1)


def test_a_policy_that_is_not_there_is_named_with_the_command_that_makes_it(monkeypatch, tmp_path):
    monkeypatch.setenv("GRPO_OUTPUT", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="policies/absent holds no policy.*pretrain.py --worked 0 --output"):
        record.RECORDERS["elicit"](TINY, 1)
    for name in ("carry_over", "ten_minutes"):
        with pytest.raises(ValueError, match="profile tiny: .* small's; use small"):
            record.RECORDERS[name](TINY, 1)
    made = runpy.run_path(str(DATA / "tiny_policy" / "pretrain.py"))
    usual, rare = made["HABIT"], made["with_worked"](made["HABIT"], 1)
    assert made["with_worked"](usual, 26) == usual and rare["worked", "plain"] / rare["worked", "layout"] == 1.5
    assert sum(rare.values()) == pytest.approx(100) and rare["gut", "plain"] == pytest.approx(36 * 99 / 74)
