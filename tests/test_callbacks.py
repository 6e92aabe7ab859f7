"""What looks on while a policy trains must not change it, and must not slow it down."""

import json
import re
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from grpo_helpers import data, evaluation, models, plotting, training
from grpo_helpers.evaluation import QUESTIONS, SAMPLED, SampleReplies

from .cells import definitions
from .test_training import CLOCKS, QUICK, quick_trainer

LiveHistory = definitions("05_grpo_training", "LiveHistory").LiveHistory


def samples(path, profile=QUICK):
    _, tokenizer = models.load_policy(profile)
    return SampleReplies(profile, tokenizer, data.load_task(profile, "test", 8), path)


def trained(output, *callbacks):
    """History without its clocks, and the trained weights."""
    trainer = quick_trainer(output, callbacks=callbacks)
    assert training.train(trainer).finished
    rows = [{k: v for k, v in row.items() if k not in CLOCKS} for row in trainer.state.log_history if "reward" in row]
    return rows, {k: v.clone() for k, v in trainer.model.state_dict().items() if "lora" in k}


@pytest.mark.trains
def test_onlookers_change_nothing_not_a_bit_and_the_time_of_a_step_is_told_early(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("grpo_helpers.callbacks.TOLD", 0.0)
    drawn = []
    alone = trained(tmp_path / "alone")
    assert re.search(r"s a step at first: about .* minutes left", capsys.readouterr().out)
    watched = trained(tmp_path / "watched", samples(tmp_path / "samples.jsonl"), LiveHistory(drawn.append))
    assert watched[0] == alone[0]
    assert all(torch.equal(watched[1][name], weights) for name, weights in alone[1].items())
    table = pd.read_json(tmp_path / "samples.jsonl", lines=True)
    assert tuple(table.columns) == SAMPLED
    assert table.groupby("step").size().to_dict() == dict.fromkeys((0, QUICK.steps), QUESTIONS)
    assert drawn[0] is None and len(drawn[-1]) == QUICK.steps


def state(step, steps=100):
    return SimpleNamespace(global_step=step, max_steps=steps, is_world_process_zero=True, log_history=[])


@pytest.mark.trains
def test_questions_are_asked_at_every_tenth_and_again_after_a_resume(tmp_path):
    path, model = tmp_path / "samples.jsonl", models.load_policy(QUICK)[0].train()

    def train(begin, end, steps=100):
        """The steps at which questions were asked, of a run that goes on from `begin`."""
        callback = samples(path)
        callback.on_train_begin(None, state(begin, steps), None, model=model)
        for step in range(begin + 1, end + 1):
            callback.on_step_end(None, state(step, steps), None, model=model)
        return [json.loads(line)["step"] for line in path.read_text().splitlines()][::QUESTIONS]

    assert train(0, 45) == [0, 10, 20, 30, 40]
    assert model.training, "the model is left in the mode it was in"
    path.write_text(path.read_text().replace('"completion": "', '"completion": "before '))
    assert train(20, 100) == list(range(0, 101, 10))
    assert path.read_text().count("before ") == 3 * QUESTIONS, "what followed the checkpoint is asked again"
    assert train(100, 200, steps=200) == list(range(0, 101, 10)) + list(range(120, 201, 20))
    assert train(0, 0) == [0], "a new run does not carry on an old one's file"


def test_replies_are_the_policys_greedy_ones_with_their_verdicts(tmp_path):
    model, tokenizer = models.load_policy(QUICK)
    shown, callback = [], samples(tmp_path / "samples.jsonl")
    callback.show = shown.append
    callback.on_train_begin(None, state(0), None, model=model)
    assert shown[0] is None and tuple(shown[1].columns) == SAMPLED
    asked = data.load_task(QUICK, "test", QUESTIONS)
    table = evaluation.evaluate(model, tokenizer, asked, QUICK.max_completion_length)
    written = pd.read_json(tmp_path / "samples.jsonl", lines=True, dtype={"gold": str})
    for found in (shown[1], written):
        pd.testing.assert_frame_equal(found[list(SAMPLED[1:])], table[list(SAMPLED[1:])], check_dtype=False)


def test_live_figure_of_notebook_05_keeps_its_pause(monkeypatch):
    drawn, rows = [], []
    live = LiveHistory(lambda table: drawn.append(table if table is None else len(table)))
    live.on_train_begin(None, None, None)
    for step in range(1, 26):
        monkeypatch.setattr("time.monotonic", lambda now=100.0 + step: now)
        rows.append({"step": step, "reward": 1.0, "reward_std": 0.5})
        live.on_log(None, SimpleNamespace(log_history=rows), None, logs=rows[-1])
    live.on_train_end(None, SimpleNamespace(log_history=rows), None)
    assert drawn == [None, 1, 12, 23, 25]


def test_live_figure_stays_one(monkeypatch):
    shown, updates = [], []
    handle = SimpleNamespace(update=updates.append)
    monkeypatch.setattr("IPython.display.display", lambda *args, **options: shown.append(options) or handle)
    draw = plotting.live_history("Title")
    assert shown == [], "nothing is shown before training begins"
    draw(None)
    table = pd.DataFrame({"step": [1, 2], "reward": [0.5, 1.0], "entropy": [1.0, 0.5], "kl": [0.0, 0.1]})
    draw(table.head(1))
    draw(table)
    assert len(shown) == 1 and shown[0]["display_id"] is True and len(updates) == 2
    titles = [ax.get_title() for ax in updates[-1].axes]
    assert titles == ["total reward", "entropy of the policy", "KL to the reference"]
