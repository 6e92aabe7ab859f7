"""Grids: every setting can be trained, cells are repeatable, and a grid that is stopped goes on where it was."""

from __future__ import annotations

import multiprocessing
import random

import pandas as pd
import pytest

from grpo_helpers import experiments, records, training
from grpo_helpers.experiments import grids
from grpo_helpers.experiments.grids import (
    GRIDS,
    USUAL,
    Setting,
    random_reward_func,
    run_cell,
    run_grid,
    tables,
)
from grpo_helpers.files import read_json, write_json
from grpo_helpers.plotting.experiments import plot_grid, plot_settings
from grpo_helpers.profiles import TINY

QUICK = TINY.with_(batch=8, num_generations=4, max_completion_length=12, steps=4, eval_questions=6, max_samples=12)
ALL = [(name, label, setting) for name, grid in GRIDS.items() for label, setting in grid.items()]


def but_seconds(result):
    """Everything else in words, because kl is nan, which equals nothing."""
    return str([{k: v for k, v in row.items() if k != "seconds"} for row in result["curves"]]) + str(result["history"])


# --- the settings -----------------------------------------------------------


def test_the_grids_that_can_be_recorded_are_those_that_are_defined():
    assert {f"grid_{varied}" for varied in experiments.GRIDS} == set(GRIDS)
    assert experiments.get_experiment("grid_placebo").args == ("grid_placebo",)
    with pytest.raises(AttributeError, match="grid_nothing"):
        grids.grid_nothing  # noqa: B018


def test_every_grid_has_the_usual_setting_once_and_first():
    for grid in GRIDS.values():
        assert [setting == USUAL for setting in grid.values()] == [True] + [False] * (len(grid) - 1)


@pytest.mark.parametrize("setting", [s for *_, s in ALL], ids=[f"{name}-{label}" for name, label, _ in ALL])
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
    assert random_reward_func(completions=["wrong"] * 500, answer=[]) == first
    assert set(first) == {0.0, 1.0} and 200 < sum(first) < 300


# --- a cell -----------------------------------------------------------------


@pytest.mark.trains
def test_a_cell_can_be_repeated_and_evaluating_it_changes_nothing(monkeypatch):
    once, again = run_cell(QUICK, USUAL, seed=3), run_cell(QUICK, USUAL, seed=3)
    assert [row["completions"] for row in once["curves"]] == [0, 8, 16, 24, 32]
    measured = {"strict", "flexible", "format", "worked", "tokens"}
    assert all(measured < set(row) for row in once["curves"])
    assert all({training.WORKED, "completions/mean_length"} < set(row) for row in once["history"])
    seconds = [row["seconds"] for row in once["curves"]]
    assert seconds[0] == 0 and seconds == sorted(set(seconds))
    assert but_seconds(once) == but_seconds(again)
    monkeypatch.setattr(grids, "POINTS", 1)
    seldom = run_cell(QUICK, USUAL, seed=3)
    assert [row["completions"] for row in seldom["curves"]] == [0, 32]
    assert str(seldom["history"]) == str(once["history"])
    assert str(run_cell(QUICK, USUAL, seed=4)["history"]) != str(once["history"])


@pytest.mark.trains
def test_several_updates_a_batch_sample_as_many_completions():
    result = run_cell(QUICK, Setting({"num_iterations": 2}), seed=3)
    assert [row["completions"] for row in result["curves"]] == [0, 8, 16, 24, 32]
    assert [row["step"] for row in result["history"]] == [1, 3, 5, 7]  # the reward is logged once a batch


@pytest.mark.trains
def test_a_constant_reward_leaves_the_policy_as_it_is():
    result = run_cell(QUICK, GRIDS["grid_placebo"]["constant"], seed=3)
    assert {row["grad_norm"] for row in result["history"]} == {0.0}
    assert len({str(row["strict"]) + str(row["flexible"]) for row in result["curves"]}) == 1


@pytest.mark.trains
def test_all_weights_can_be_trained_and_only_mixed_questions_taken():
    profile = QUICK.with_(steps=1, max_completion_length=48, max_samples=60)  # few are mixed: it is mostly wrong
    result = run_cell(profile, Setting(mixed_only=True, adapter=False), seed=3)
    (cell,) = result["cells"]
    assert cell["probe"] == 60 * 4 and 2 <= cell["questions"] < 30
    assert len(result["history"]) == 1


# --- a grid -----------------------------------------------------------------


@pytest.mark.trains
def test_a_grid_that_is_interrupted_goes_on_where_it_was(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("GRPO_OUTPUT", str(tmp_path))
    settings = {"constant": GRIDS["grid_placebo"]["constant"], "usual": USUAL}
    real = grids.as_completed

    def interrupted(futures):
        yield next(iter(real(futures)))
        raise KeyboardInterrupt

    monkeypatch.setattr(grids, "as_completed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_grid(settings, QUICK, [3], workers=1)
    for child in multiprocessing.active_children():
        child.join(timeout=5)
    assert multiprocessing.active_children() == []
    assert "2 cells, 2 of them to run, 1 at a time\n1/2 constant, seed 3" in capsys.readouterr().out
    (kept,) = (tmp_path / "grids").glob("*.json")
    result = read_json(kept)
    result["curves"][-1]["strict"] = 0.123  # to recognise it
    write_json(kept, result)

    monkeypatch.setattr(grids, "as_completed", real)
    found = run_grid(settings, QUICK, [3], workers=1)
    assert "2 cells, 1 of them to run, 1 at a time\n2/2 usual, seed 3" in capsys.readouterr().out
    curves = found["curves"].set_index("setting")
    assert curves.loc["constant", "strict"].iloc[-1] == 0.123
    assert len(curves.loc["usual"]) == 5 and len(found["history"]) == 8
    assert set(found["cells"]["workers"]) == {1}
    assert list((tmp_path / "grids").iterdir()) == []  # the next run is a run


def test_what_a_cell_depends_on_is_in_its_name():
    job = (QUICK, USUAL, 3)
    others = [(QUICK.with_(steps=5), USUAL, 3), (QUICK, Setting(adapter=False), 3), (QUICK, USUAL, 4)]
    others += [(QUICK, Setting(rewards=(random_reward_func,)), 3), (QUICK, Setting({"epsilon": 0.1}), 3)]
    names = {grids._key(*j) for j in [job, job, *others]}
    assert len(names) == 1 + len(others)


def test_a_grid_runs_what_is_changed_and_the_usual_setting_is_a_grid_of_its_own(monkeypatch):
    asked = {}
    monkeypatch.setattr(grids, "run_grid", lambda settings, profile, seeds: asked.update({tuple(settings): seeds}))
    for name in ("grid_usual", "grid_placebo"):
        experiments.get_experiment(name)(TINY, 42)
    assert asked == {("usual",): range(42, 48), ("layout only", "random", "constant"): range(42, 45)}


def test_tables_put_the_usual_setting_first_under_the_grids_own_name(monkeypatch):
    recorded = {
        name: {"curves": pd.DataFrame({"setting": [label], "seed": [42], "strict": [strict]})}
        for name, label, strict in (("grid_usual", "usual", 0.5), ("grid_placebo", "constant", 0.25))
    }
    monkeypatch.setattr(grids, "load", lambda name, *where: recorded[name])
    assert tables("grid_placebo")["curves"].to_numpy().tolist() == [["real reward", 42, 0.5], ["constant", 42, 0.25]]
    assert tables("grid_usual")["curves"].to_numpy().tolist() == [["usual", 42, 0.5]]


@pytest.mark.parametrize("name", GRIDS)
def test_what_is_recorded_is_what_is_defined(name):
    cells = records.load(name, "tiny")["cells"]
    labels = [label for label, setting in GRIDS[name].items() if setting != USUAL] or ["usual"]
    assert list(dict.fromkeys(cells["setting"])) == labels
    assert set(cells.groupby("setting")["seed"].nunique()) == {6 if name == "grid_usual" else 3}


# --- figures ----------------------------------------------------------------


def drawn():
    rows = [
        ("usual", s, c, c / 100, v) for s, vs in ((1, (0, 0.5)), (2, (0.1, 0.9))) for c, v in ((0, vs[0]), (64, vs[1]))
    ]
    curves = pd.DataFrame(rows, columns=["setting", "seed", "completions", "seconds", "flexible"])
    return curves.assign(tokens=10 + 20 * curves["flexible"])


def test_a_curve_is_the_mean_of_its_seeds_and_the_band_their_range():
    for x, last in (("completions", 64), ("seconds", 0.64)):
        figure = plot_grid(drawn(), "a title", x=x)
        (ax,) = figure.axes
        assert ax.lines[0].get_xydata().ravel() == pytest.approx([0, 5, last, 70])
        assert ax.collections[0].get_datalim(ax.transData).y1 == pytest.approx(90)
    assert figure.get_suptitle() == "a title" and "(s)" in ax.get_xlabel()


def test_each_measure_has_a_panel_rates_in_per_cent_and_lengths_in_tokens():
    rates, lengths, *hidden = plot_grid(drawn(), "a title", ("flexible", "tokens")).axes
    assert not hidden
    assert rates.lines[0].get_ydata() == pytest.approx([5, 70]) and "(%)" in rates.get_ylabel()
    assert lengths.lines[0].get_ydata() == pytest.approx([11, 24]) and lengths.get_ylim()[0] == 0
    three = plot_grid(drawn().assign(format=1.0), "a title", ("format", "flexible", "tokens"))
    assert [ax.get_visible() for ax in three.axes] == [True, True, True, False]


def test_every_setting_has_a_row_with_all_its_seeds():
    values = pd.DataFrame({"grid": ["a", "a", "b"], "setting": ["x", "x", "y"], "value": [0.1, 0.3, 0.9]})
    ax = plot_settings(values, pd.Series([0.4, 0.6]), "a title").axes[0]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a: x", "b: y"]
    assert sorted(ax.lines[0].get_xdata()) == pytest.approx([10, 30])
