"""The stopwatch and the floor behind `make bench`: nothing counted twice."""

import contextlib
import time
from types import SimpleNamespace

import pytest

from grpo_helpers import data, models, training
from grpo_helpers.profiles import TINY
from tests.tools.bench_step import PHASES, Stopwatch, floor, step_phases

SPEED = {"gemm_gflops": 1.0, "bandwidth_gb_s": 1.0}


def test_a_piece_inside_another_is_not_counted_twice():
    watch = Stopwatch()
    thing = SimpleNamespace(outer=lambda: (time.sleep(0.05), thing.inner()), inner=lambda: time.sleep(0.02))
    before = thing.inner
    with contextlib.ExitStack() as undo:
        watch.around(thing, "outer", "a", undo)
        watch.around(thing, "inner", "b", undo)
        thing.outer()
        thing.outer()
        watch.end_step()
    assert thing.inner is before
    (step,) = watch.steps
    assert 0.1 <= step["a"] < 0.14 and 0.04 <= step["b"] < 0.08


@pytest.mark.trains
def test_phases_of_a_real_step_are_all_seen_and_have_a_floor(tmp_path):
    profile = TINY.with_(batch=8, num_generations=4, max_completion_length=12, steps=3, save_steps=100)
    model, tokenizer = models.load_policy(profile)
    questions = data.load_task(profile, "train", 16)
    trainer = training.make_trainer(profile, model, tokenizer, questions, tmp_path, doctor=False)
    phases = step_phases(trainer)
    assert list(phases) == list(PHASES) and all(seconds > 0 for seconds in phases.values()), phases
    step_time = [row["step_time"] for row in trainer.state.log_history if "step_time" in row]
    assert sum(phases.values()) > 0.5 * min(step_time)
    least = floor(trainer.model, [[1, 2, 3, 4], [1, 2, 5]], completions=8, tokens=10, speed=SPEED)
    assert set(least) == set(PHASES) and min(least.values()) >= 0
    asked = 2 + 2 + 1  # the common beginning once
    assert least["backward"] == pytest.approx(least["prefill"] * (asked + 80) / asked)
