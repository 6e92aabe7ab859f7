"""The doctor: silent on healthy runs at every step, names each planted illness, and survives any log."""

import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo_helpers.callbacks import DoctorCallback
from grpo_helpers.lessons import doctor
from grpo_helpers.lessons.doctor import COMPLAINTS, EXPECTED, SYMPTOMS, diagnose
from grpo_helpers.profiles import DATA, ROOT

PATHS = sorted(path for name in ("tiny", "small") for path in (DATA / "runs").glob(f"{name}-[0-9]*/history.csv"))
HEALTHY = {path.parent.name: pd.read_csv(path) for path in PATHS}
TINY_RUN, SMALL_RUN = HEALTHY["tiny-1"][:60], HEALTHY["small-1"]  # as many steps each
CORRECT, STRICT = "rewards/correctness_reward_func/mean", "rewards/strict_format_reward_func/"
TIED = {"frac_reward_zero_std": 1.0, "reward_std": 0.0, "grad_norm": 0.0}
CUT, LENGTH = "completions/clipped_ratio", "completions/mean_length"


def sick(history):
    return {f.name: f.severity for f in diagnose(history) if f.severity != "note"}


def notes(history):
    return {f.name for f in diagnose(history) if f.severity == "note"}


def changed(history, start=0, **columns):
    """A copy with columns replaced from a row on; a value, or one for each row."""
    new = history.astype(float)
    for name, values in columns.items():
        new.loc[start:, name] = values
    return new


def untrained(history, steps, seed=0):
    """The first ten steps drawn again and again: a run that does not learn."""
    rows = np.random.default_rng(seed).integers(0, 10, steps)
    return history.iloc[rows].reset_index(drop=True).assign(step=range(1, steps + 1))


@pytest.mark.trains
@pytest.mark.parametrize("name", [*HEALTHY, "healthy_kl-tiny-42", "healthy_kl-tiny-1"])
def test_healthy_run_is_called_healthy_at_every_step(name):
    history = pd.read_csv(DATA / "runs" / name / "history.csv")
    assert [k for k in range(1, len(history) + 1) if sick(history[:k])] == []


def test_what_alarms_people_is_explained_in_a_healthy_run():
    for name, run in HEALTHY.items():
        assert notes(run) >= {"nothing is clipped", "the policy becomes sure"}
        assert "the loss does not fall" in notes(run[:10])
        if name.startswith("tiny"):  # its length doubles, because it thinks
            assert "length hacked" not in notes(run)
            assert run[LENGTH].tail(10).mean() > doctor.LENGTH_FACTOR * run[LENGTH].head(10).mean()


def another_seed(history, seed):
    """A run with the trend of `history` and its noise in another order, whole rows kept together."""
    numbers = history.astype(float)
    trend = numbers.rolling(11, center=True, min_periods=1).mean()
    n = len(numbers)
    near = (np.arange(n) + np.random.default_rng(seed).integers(-8, 9, n)).clip(0, n - 1)  # noise changes with time
    run = (trend + (numbers - trend).iloc[near].to_numpy()).clip(numbers.min(), numbers.max(), axis=1)
    return run.assign(step=history["step"])


@pytest.mark.trains
@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_runs_of_other_seeds_are_called_healthy(name):
    for seed in range(6):
        run = another_seed(HEALTHY[name], seed)
        assert [sick(run[:k]) for k in (10, 20, 30, 40, 50, len(run))] == [{}] * 6, seed


def test_ties_from_the_start_stop_the_run_at_the_tenth_step():
    run = changed(TINY_RUN, reward=1.0, **TIED)
    assert sick(run[:9]) == {}
    assert sick(run[:10]) == {"nothing but ties": "stop"}
    assert sick(run)["nothing but ties"] == "stop"
    one_group = changed(run, frac_reward_zero_std=np.where(run["step"] % 10 == 5, 0.5, 1.0))
    assert "nothing but ties" not in sick(one_group), "a group in twenty still teaches"


def test_ties_that_come_later_stop_the_run_unless_the_questions_are_mastered():
    stuck = changed(SMALL_RUN, 30, reward=2.0, **TIED)
    assert "nothing but ties" not in sick(stuck[:49])
    assert sick(stuck[:50])["nothing but ties"] == "stop"
    mastered = changed(TINY_RUN, 35, reward=4.0, **TIED)
    assert sick(mastered) == {}
    assert "the policy becomes sure" in notes(mastered)


def test_truncation_stops_a_run_only_if_it_does_not_learn():
    cut = changed(untrained(TINY_RUN, 30), **{CUT: 1.0}, reward=0.0)
    assert "truncated" not in sick(cut[:9])
    assert sick(cut[:10])["truncated"] == "stop"
    assert sick(changed(TINY_RUN, **{CUT: 0.7})) == {"truncated": "warn"}
    assert sick(changed(TINY_RUN, **{CUT: 1.0})) == {"truncated": "warn"}, "the reward rises all the same"
    assert sick(changed(TINY_RUN, 50, **{CUT: np.where(TINY_RUN["step"][50:] < 54, 1.0, 0.0)})) == {}


@pytest.mark.parametrize(("column", "value"), [("loss", np.nan), ("grad_norm", np.nan), ("grad_norm", -np.inf)])
def test_numbers_that_stay_infinite_stop_the_run(column, value):
    run = changed(TINY_RUN, 40, **{column: value})
    assert sick(run[:44]) == {}, "fp16 loss scaling does this, and recovers"
    assert sick(run[:45]) == {"not finite": "stop"}
    skipped = changed(TINY_RUN, **{column: TINY_RUN[column].where(~TINY_RUN["step"].isin([1, 2, 40]), value)})
    assert sick(skipped) == {} and "not finite" in notes(skipped)


def test_learning_rate_too_high():
    ruined = changed(TINY_RUN, 30, reward=TINY_RUN["reward"][:30].to_numpy()[::-1] * 0.05, entropy=2.0)
    assert "learning rate too high" not in sick(ruined[:30])
    assert sick(ruined[:50])["learning rate too high"] == "stop"
    flat = untrained(TINY_RUN, 80)
    forgot = changed(flat, **{CORRECT: np.linspace(1, 0, 80), "entropy": np.linspace(0.2, 0.3, 80)})
    came_back = changed(flat, reward=flat["reward"].where(~flat["step"].between(30, 50), 0.0))
    grew_unsure = changed(untrained(TINY_RUN, 40), 20, entropy=1.5)
    half_lost = changed(TINY_RUN, 40, reward=TINY_RUN["reward"][40:] - 1.6)
    for run in (forgot, came_back, grew_unsure, half_lost):
        assert sick(run) == {"learning rate too high": "warn"}
    assert "learning rate too high" not in sick(changed(forgot, entropy=0.2))


def test_a_flat_reward_is_blamed_on_steps_or_on_questions():
    for seed in range(3):
        flat = untrained(TINY_RUN, 80, seed)
        assert sick(flat[:59]) == {}
        assert sick(flat) == {"learning rate too low": "warn"}
        assert sick(changed(flat, frac_reward_zero_std=0.8)) == {"too hard or too easy": "warn"}
        assert sick(changed(flat, entropy=np.linspace(0.4, 0.3, 80))) == {}, "a policy that changes learns fast enough"


def test_entropy_collapse_is_told_from_healthy_sharpening():
    collapsed = changed(untrained(TINY_RUN, 40), 15, entropy=1e-3)
    assert sick(collapsed) == {"entropy collapse": "warn"}
    assert sick(changed(collapsed, 15, **TIED))["entropy collapse"] == "stop"
    assert sick(changed(SMALL_RUN, 30, entropy=0.01, frac_reward_zero_std=0.9)) == {"entropy collapse": "warn"}
    assert sick(changed(TINY_RUN, 40, entropy=1e-3)) == {}, "the reward is at its best"
    wrong = changed(TINY_RUN, 40, **{"entropy": 0.01, CORRECT: 0.0})
    assert next(iter(sick(wrong))) == "entropy collapse", "the reward rises, and the policy is sure of what is wrong"
    differ = changed(wrong, 40, entropy=0.05)
    assert "entropy collapse" not in sick(differ), "groups that differ still teach"
    assert next(iter(sick(changed(differ, 40, frac_reward_zero_std=0.6)))) == "entropy collapse"


def test_kl_explosion_is_judged_by_the_median():
    calm = changed(TINY_RUN, kl=np.linspace(0, 0.3, len(TINY_RUN)))
    assert sick(calm) == {}
    assert sick(changed(calm, 58, kl=1e6)) == {}, "two spikes"
    assert sick(changed(calm, 55, kl=2.0)) == {"KL explosion": "warn"}
    assert sick(changed(calm, 55, kl=50.0)) == {"KL explosion": "stop"}


def test_a_hack_is_a_reward_that_rises_while_correctness_falls():
    hacked = changed(TINY_RUN, **{CORRECT: TINY_RUN[CORRECT].to_numpy()[::-1]})
    assert sick(hacked) == {"reward hacked": "warn", "length hacked": "warn"}, "longer, and not because it thinks"
    assert sick(changed(hacked, **{LENGTH: 20.0})) == {"reward hacked": "warn"}
    assert "the policy becomes sure" not in notes(hacked)
    both_fall = TINY_RUN.iloc[::-1].reset_index(drop=True).assign(step=TINY_RUN["step"])
    assert "reward hacked" not in sick(both_fall)


def test_a_length_that_runs_away_with_the_reward():
    for factor in (3.0, 1 / 3):
        run = changed(TINY_RUN, **{LENGTH: 20 * np.linspace(1, factor, len(TINY_RUN))})
        assert sick(run) == {}, "correctness rises as well: it may be reasoning"
        blind = run.drop(columns=CORRECT)
        assert sick(blind) == {} and "length hacked" in notes(blind), "nothing logged says what the length is for"
        assert sick(changed(run, **{CORRECT: untrained(TINY_RUN, 60)[CORRECT]})) == {"length hacked": "warn"}


def test_parts_of_the_reward_that_do_nothing():
    for start, mean, std, found in (
        (0, 0.0, 0.0, {"never paid": "warn"}),
        (0, 0.5, 0.0, {"always paid": "warn"}),
        (40, 0.5, 0.0, {}),  # mastered, not useless
        (0, 0.25, 0.25, {}),  # equal means, different completions
    ):
        run = changed(TINY_RUN, start, **{f"{STRICT}mean": mean, f"{STRICT}std": std})
        assert sick(run) == found and sick(run[:19]) == {}
        assert all("strict_format_reward_func" in f.seen for f in diagnose(run) if f.severity == "warn")


def test_every_finding_has_words_threads_and_a_notebook_that_the_page_to_keep_names_too():
    assert set(SYMPTOMS) | set(EXPECTED) <= set(COMPLAINTS)
    thread = re.compile(r"[\w-]+/[\w-]+#\d+|arXiv \d{4}\.\d{5} \([\w. ]+\)")  # links can be made of them
    for name, words in COMPLAINTS.items():
        assert set(words) == {"symptom", "look", "cause", "remedy", "threads", "notebook"}
        assert words["symptom"] and words["look"] and words["cause"], name
        assert (ROOT / "notebooks" / f"{words['notebook']}.ipynb").is_file(), name
        assert all(thread.fullmatch(text) for text in filter(None, words["threads"].split(", "))), name
        assert name not in SYMPTOMS or (words["remedy"] and words["threads"]), name
    page = (ROOT / "notebooks" / "my_run_does_not_learn.md").read_text(encoding="utf-8")
    ends = re.findall(r"^- \*[^*]+\*: \*\*([^*]+)\*\*.*?\((\w+)\.ipynb#", page, re.MULTILINE | re.DOTALL)
    assert sorted(ends) == sorted((name, words["notebook"]) for name, words in COMPLAINTS.items())


def test_a_finding_tells_its_steps_numbers_and_remedy_worst_first():
    everything = changed(untrained(TINY_RUN, 60), 20, entropy=1e-4, loss=np.nan, **{f"{STRICT}mean": 0.0}, **TIED)
    severities = [f.severity for f in diagnose(everything)]
    assert severities == sorted(severities, key=("stop", "warn", "note").index) and len(set(severities)) == 3
    finding = diagnose(changed(TINY_RUN, **{CUT: 1.0}, reward=0.0)[:12])[0]
    assert (finding.name, finding.severity, finding.steps) == ("truncated", "stop", (3, 12)) and "100%" in finding.seen
    assert all(text in str(finding) for text in (finding.seen, finding.remedy, finding.threads, finding.notebook))


def test_a_missing_column_is_no_error_and_no_illness():
    for column in TINY_RUN.columns.drop(["step", "reward"]):
        assert sick(TINY_RUN.drop(columns=column)) == {}, column
        if column not in ("loss", "grad_norm"):
            assert sick(TINY_RUN.assign(**{column: None})) == {}, column


def test_it_says_what_it_could_not_judge_and_refuses_what_is_no_history():
    (bare,) = diagnose(TINY_RUN[["step", "reward"]])
    assert bare.name == "not judged" and f"truncated (no column {CUT})" in bare.seen
    (first,) = [f for f in diagnose(TINY_RUN[:1]) if f.name == "not judged"]
    assert "nothing but ties (10 logged steps needed)" in first.seen and first.steps == (1, 1)
    for history in (TINY_RUN[:0], TINY_RUN.drop(columns="step"), TINY_RUN.assign(reward=np.nan), [{"step": 1}]):
        with pytest.raises(ValueError, match="records.history"):
            diagnose(history)


def test_order_repeats_and_index_do_not_matter():
    run = changed(TINY_RUN, **{CUT: 1.0})
    shuffled = pd.concat([run[5:20].assign(reward=9.0), run.sample(frac=1, random_state=0)])
    before = shuffled.copy()
    assert diagnose(shuffled) == diagnose(run)
    pd.testing.assert_frame_equal(shuffled, before)


values = st.one_of(st.none(), st.floats(), st.sampled_from(["", "x", "1.5"]), st.just(0.0), st.just(1.0))


@pytest.mark.trains
@settings(max_examples=150)
@given(st.data())
def test_no_log_makes_it_raise(data):
    n = data.draw(st.integers(1, 60))
    columns = data.draw(st.lists(st.sampled_from([*TINY_RUN.columns[1:], "kl"]), unique=True))
    run = pd.DataFrame({c: data.draw(st.lists(values, min_size=n, max_size=n)) for c in columns}, index=range(n))
    run = run.assign(step=range(1, n + 1), reward=data.draw(st.lists(st.floats(-4, 4), min_size=n, max_size=n)))
    for finding in diagnose(run):
        assert 1 <= finding.steps[0] <= finding.steps[1] <= n
        assert finding.seen and finding.cause and str(finding)


def follow(callback, history, resumed_at=0):
    """Show a log to the callback step by step, as the trainer does; the step at which it stops, or None."""
    log = history.to_dict("records")
    state = SimpleNamespace(global_step=resumed_at, log_history=log[:resumed_at])
    callback.on_train_begin(None, state, None)
    for row in log[resumed_at:]:
        control = SimpleNamespace(should_training_stop=False, should_save=False)
        state.log_history = [*state.log_history, row]
        callback.on_log(None, state, control, logs=row)
        if control.should_training_stop:
            assert control.should_save
            return row["step"]
    return None


@pytest.mark.trains
def test_callback_lets_a_healthy_run_finish_in_silence_and_stops_a_dead_one_and_says_so_once(capsys):
    callback = DoctorCallback()
    for row in ({"step": 1, "reward": float("nan")}, {"step": 1, "eval_reward": 1.0}, {"train_runtime": 3.0}, None):
        callback.on_log(None, SimpleNamespace(log_history=[row or {}]), None, logs=row)
    assert follow(callback, HEALTHY["small-1"]) is None and callback.stopped_by is None
    assert capsys.readouterr().out == ""
    assert follow(callback, changed(TINY_RUN, reward=1.0, **TIED)) == 10
    assert capsys.readouterr().out.count("stop: nothing but ties") == 1
    assert callback.stopped_by.name == "nothing but ties"


@pytest.mark.trains
@pytest.mark.parametrize("columns", [TIED | {"reward": 0.5}, {"grad_norm": np.nan}], ids=["tied", "NaN"])
def test_after_a_resume_only_new_steps_count(columns):
    dead = changed(TINY_RUN, **columns)[:20]
    mended = pd.concat([dead, TINY_RUN[:40]], ignore_index=True).assign(step=range(1, 61))
    assert follow(DoctorCallback(), mended, resumed_at=20) is None
    assert 20 < follow(DoctorCallback(), changed(TINY_RUN, **columns), resumed_at=20) <= 30
