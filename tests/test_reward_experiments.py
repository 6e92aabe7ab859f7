"""The reward experiments, their figures, and the checks of notebook 03."""

import matplotlib
import pandas as pd
import pytest

from grpo_helpers import checks, experiments, plotting, prompts, records, rewards
from grpo_helpers.evaluation import RATES
from grpo_helpers.experiments import reward_experiments as lab
from grpo_helpers.lessons import flawed
from grpo_helpers.profiles import TINY

from .cells import definitions

matplotlib.use("Agg")

SHORT = TINY.with_(steps=2, batch=16, eval_questions=4)
OUTCOME = pd.DataFrame(
    {
        "question": ["a", "b"],
        "gold": ["1", "2"],
        "completion": ["x", "y"],
        "strict": [True, False],
        "flexible": [True, True],
        "format": [True, False],
        "worked": [False, False],
        "tokens": [10, 21],
        "truncated": [False, False],
    }
)


def test_rates_are_counted_for_each_policy_and_outcome():
    table = lab.rates({"before": OUTCOME, "after": OUTCOME.assign(strict=True)})
    assert len(table) == 10 and set(table["n"]) == {2}
    strict = table[table["outcome"] == "strict"].set_index("policy")
    assert strict["hits"].to_dict() == {"before": 1, "after": 2}
    assert ((table["low"] <= table["rate"]) & (table["rate"] <= table["high"])).all()


def test_policies_stand_side_by_side_with_intervals_and_their_mean_length():
    table = lab.side_by_side({"before": OUTCOME, "after": OUTCOME.assign(strict=True, tokens=40)})
    assert list(table) == ["before", "after"] and list(table.index) == [*RATES.values(), "mean length (tokens)"]
    assert table["after"][RATES["strict"]] == "100.0 % (34.2-100.0)"
    assert table.loc["mean length (tokens)"].tolist() == ["15.5", "40.0"]


def test_replies_stand_side_by_side():
    table = lab.replies({"before": OUTCOME, "after": OUTCOME.assign(completion="z")}, shown=1)
    assert table.to_dict("records") == [{"question": "a", "gold": "1", "before": "x", "after": "z"}]


@pytest.mark.trains
def test_a_witness_is_logged_and_pays_nothing(capsys):
    found = lab.watched(SHORT, (flawed.generous_reward_func,), (rewards.correctness_reward_func,), seed=1)
    history = found.history
    assert found.before is None and len(found.after) == 4
    assert history["rewards/correctness_reward_func/mean"].notna().all()
    paid = history["rewards/generous_reward_func/mean"]
    assert history["reward"].tolist() == pytest.approx(paid.tolist())


@pytest.mark.trains
@pytest.mark.parametrize("name", ["published_rewards", "reward_hack"])
def test_an_experiment_is_recorded_and_read_back(name, tmp_path, capsys):
    experiments.record(name, SHORT, seed=7, runs=tmp_path)
    assert records.available(name, tmp_path) == [("tiny", 7)]
    tables = records.load(name, "tiny", 7, tmp_path)
    histories = [t for t in tables if t.startswith("history_")]
    assert len(histories) == 2 and all(len(tables[t]) == SHORT.steps for t in histories)
    assert set(tables["rates"]["policy"]) == {"before", *(t.removeprefix("history_") for t in histories)}
    assert len(tables["completions"]) == 4


# --- figures -------------------------------------------------------------------------

HISTORY = pd.DataFrame({"step": [1, 2, 3], "reward": [0.0, 1.0, 2.0], "other": [1.0, 0.5, 0.0]})
FIGURES = {
    "matrix": lambda: plotting.plot_reward_matrix(pd.DataFrame({"a": [0.0, 0.5], "b": [2.0, 0.0]}, index=["x", "y"])),
    "nothing paid": lambda: plotting.plot_reward_matrix(pd.DataFrame({"a": [0.0]}, index=["x"])),
    "advantages": lambda: plotting.plot_advantages(pd.DataFrame({"a": [1.0, -1.0], "b": [0.0, 0.0]})),
    "one run": lambda: plotting.plot_runs({"a": HISTORY}, {"paid": "reward", "seen": "other"}),
    "two runs": lambda: plotting.plot_runs(
        {"a": HISTORY, "b": HISTORY}, {"a": {"paid": "reward"}, "b": {"seen": "other"}}
    ),
    "outcomes": lambda: plotting.plot_outcomes(lab.rates({"before": OUTCOME, "after": OUTCOME})),
}


@pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES)
def test_every_figure_has_a_title_and_labelled_axes(draw):
    figure = draw()
    assert figure.get_suptitle() or all(ax.get_title() for ax in figure.axes)
    assert all(ax.get_xlabel() for ax in figure.axes) and figure.axes[0].get_ylabel()
    matplotlib.pyplot.close(figure)


# --- checks ----------------------------------------------------------------------------


def test_the_lab_counts_and_names_what_is_left(capsys):
    checks.break_the_reward(definitions("03_reward_design", "naive_reward_func").naive_reward_func)
    said = capsys.readouterr().out
    assert "cases are judged wrongly" in said and "gold with a comma: deserves pay, got 0.0" in said
    assert "more" in said


def test_the_reward_of_the_series_solves_the_lab(capsys):
    checks.break_the_reward(rewards.correctness_reward_func)
    assert capsys.readouterr().out == "Solved.\n"


def test_a_reward_for_plain_text_only_does_not_solve_it(capsys):
    def strings_only(completions, answer, **kwargs):
        said = map(rewards.final_answer, completions)
        return [2.0 if prompts.same_number(s, a) else 0.0 for s, a in zip(said, answer, strict=True)]

    checks.break_the_reward(strings_only)
    assert capsys.readouterr().out.startswith("Not yet")


def test_a_reward_that_fires_once_is_not_silent(capsys):
    checks.never_fires(lambda fs, cs, golds: [f.__name__ for f in fs if not all(f(completions=cs, answer=golds))])
    assert "only the second" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("group", "said"),
    [
        (lambda n: [(0.5, 2)] + [(0, 0)] * (n - 1), "both ways prefer"),
        (lambda n: [(0.5, 2), (0, 0)], "expected 4 pairs"),
        (lambda n: [(0.25, 2)] * n, "there is a pair (0.25, 2.0)"),
        (lambda n: [(0, 0)] * n, "both ways prefer"),
    ],
)
def test_groups_without_a_dispute_are_refused(group, said, capsys):
    checks.disputed_group(group)
    assert said in capsys.readouterr().out
