"""Grids: every setting can be trained, cells are repeatable, and a grid that is stopped goes on where it was."""

import multiprocessing
import os
import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import record
from grpo_helpers import records, training
from grpo_helpers.files import read_json, write_json
from grpo_helpers.lessons import grids
from grpo_helpers.lessons.grids import USUAL, Setting, random_reward_func, run_cell, run_grid
from grpo_helpers.profiles import TINY
from record import grid

from .cells import definitions

GRIDS, tables = grid.LAB.GRIDS, definitions("08_experiments", "tables").tables
QUICK = TINY.with_(batch=8, num_generations=4, max_completion_length=12, steps=4, eval_questions=6, max_samples=12)
ALL = {f"{name}-{label}": setting for name, varied in GRIDS.items() for label, setting in varied.items()}


def test_every_grid_has_the_usual_setting_once_and_first():
    for varied in GRIDS.values():
        assert [setting == USUAL for setting in varied.values()] == [True] + [False] * (len(varied) - 1)


@pytest.mark.parametrize("setting", ALL.values(), ids=ALL)
def test_every_setting_is_a_configuration(setting, tmp_path):
    options = dict(setting.changes)
    profile = TINY.with_(**{field: options.pop(field) for field in TINY.as_dict() if field in options})
    config = training.grpo_config(profile, tmp_path, **options)
    assert all(getattr(config, field) == value for field, value in options.items())
    assert config.reward_weights is None or len(config.reward_weights) == len(setting.rewards)
    assert profile.batch * profile.accumulation == TINY.batch  # a fixed number of completions


def test_the_coin_is_fair_and_the_seed_decides():
    random.seed(5)
    first = random_reward_func(["right"] * 500)
    random.seed(5)
    assert random_reward_func(completions=["wrong"] * 500, answer=[]) == first and 200 < sum(first) < 300


@pytest.mark.trains
def test_a_cell_can_be_repeated_and_evaluating_it_changes_nothing():
    once, again = run_cell(QUICK, USUAL, seed=3), run_cell(QUICK, USUAL, seed=3)
    assert [row["completions"] for row in once["curves"]] == [0, 8, 16, 24, 32]
    measured = {"strict", "flexible", "format", "worked", "tokens"}
    assert all(measured < set(row) for row in once["curves"])
    assert all({training.WORKED, "completions/mean_length"} < set(row) for row in once["history"])
    seconds = [row["seconds"] for row in once["curves"]]
    assert seconds[0] == 0 and seconds == sorted(set(seconds))
    for row in once["curves"] + again["curves"]:
        del row["seconds"]
    assert str(once) == str(again)  # in words, because kl is nan, which equals nothing
    seldom = run_cell(QUICK, USUAL, seed=3, points=1)
    assert [row["completions"] for row in seldom["curves"]] == [0, 32]
    assert str(seldom["history"]) == str(once["history"])
    assert str(run_cell(QUICK, USUAL, seed=4)["history"]) != str(once["history"])


@pytest.mark.trains
def test_several_updates_a_batch_sample_as_many_completions():
    result = run_cell(QUICK, Setting({"num_iterations": 2}), seed=3)
    assert [row["completions"] for row in result["curves"]] == [0, 8, 16, 24, 32]
    assert [row["step"] for row in result["history"]] == [1, 3, 5, 7]  # the reward is logged once a batch


@pytest.mark.trains
def test_all_weights_can_be_trained_and_only_mixed_questions_taken():
    profile = QUICK.with_(steps=1, max_completion_length=48, max_samples=60)  # few are mixed: it is mostly wrong
    result = run_cell(profile, Setting(mixed_only=True, adapter=False), seed=3)
    (cell,) = result["cells"]
    assert cell["probe"] == 60 * 4 and 2 <= cell["questions"] < 30
    assert len(result["history"]) == 1


@pytest.mark.trains
def test_a_grid_that_is_interrupted_goes_on_where_it_was(monkeypatch, tmp_path, capsys):
    settings = {"constant": GRIDS["grid_placebo"]["constant"], "usual": USUAL}
    profile, real = QUICK.with_(steps=1), grids.as_completed

    def interrupted(futures):
        yield next(iter(real(futures)))
        raise KeyboardInterrupt

    # a thread for the worker: tests share the cores
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0}, raising=False)
    monkeypatch.setattr(grids, "as_completed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_grid(settings, profile, [3], keep=tmp_path)
    deadline = time.monotonic() + 60  # the pool's thread reaps the child too: a join can end before either knows it
    while multiprocessing.active_children() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert multiprocessing.active_children() == []
    assert "2 cells, 2 of them to run, 1 at a time\n1/2 constant, seed 3" in capsys.readouterr().out
    (kept,) = tmp_path.iterdir()
    result = read_json(kept)
    result["curves"][-1]["strict"] = 0.123  # to recognise it
    write_json(kept, result)

    monkeypatch.setattr(grids, "as_completed", real)
    monkeypatch.setattr(grids, "ProcessPoolExecutor", lambda workers, *_: ThreadPoolExecutor(workers))  # soon begun
    found = run_grid(settings, profile, [3], keep=tmp_path)
    assert "2 cells, 1 of them to run, 1 at a time\n2/2 usual, seed 3" in capsys.readouterr().out
    curves = found["curves"].set_index("setting")
    assert curves.loc["constant", "strict"].iloc[-1] == 0.123
    assert len(curves.loc["usual"]) == 2 and len(found["history"]) == 2
    assert set(found["cells"]["workers"]) == {1}
    gradients = found["history"].set_index("setting")["grad_norm"]
    assert gradients["constant"] == 0 < gradients["usual"], "a setting's changes reach its trainer"


@pytest.mark.parametrize(("commit", "kept"), [("abc", ["cell.json"]), ("abc-dirty", [])])
def test_an_interrupted_record_goes_on_if_the_code_is_the_same(commit, kept, monkeypatch, tmp_path):
    found = []

    def run(settings, profile, seeds, keep):
        found.append((list(settings), seeds, [path.name for path in keep.iterdir()]))
        (keep / "cell.json").touch()
        if len(found) == 1:
            raise KeyboardInterrupt

    monkeypatch.setenv("GRPO_OUTPUT", str(tmp_path))
    monkeypatch.setattr(grid, "run_grid", run)
    monkeypatch.setattr(grid, "provenance", lambda profile, seed: {"commit": commit})
    with pytest.raises(KeyboardInterrupt):
        record.RECORDERS["grid_placebo"](TINY, 42)
    record.RECORDERS["grid_placebo"](TINY, 42)
    asked = ["layout only", "random", "constant"], range(42, 45)
    assert found == [(*asked, []), (*asked, kept)]
    assert list((tmp_path / "grids").iterdir()) == []  # the next run is a run


@pytest.mark.parametrize("name", GRIDS)
def test_what_is_recorded_is_what_is_defined(name):
    cells = records.load(name, "tiny")["cells"]
    labels = [label for label, setting in GRIDS[name].items() if setting != USUAL] or ["usual"]
    assert list(dict.fromkeys(cells["setting"])) == labels
    assert set(cells.groupby("setting")["seed"].nunique()) == {6 if name == "grid_usual" else 3}
    told, usual = tables(name)["curves"], records.load("grid_usual", "tiny")["curves"]
    assert [*told["setting"].unique()] == [*GRIDS[name]], "the usual setting first, under the grid's own name"
    assert told.head(len(usual)).equals(usual.assign(setting=next(iter(GRIDS[name]))))
