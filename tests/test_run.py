"""The main job, as a user starts it: from the command line, with the right and the wrong arguments."""

import json
from pathlib import Path

import pandas as pd
import pytest

from grpo_helpers import profiles
from grpo_helpers.__main__ import main, parse

QUICK = profiles.TINY.with_(batch=16, num_generations=4, steps=2, eval_questions=6, save_steps=1, minutes=0.1)


@pytest.fixture
def quick(monkeypatch, tmp_path):
    monkeypatch.setitem(profiles.PROFILES, "tiny", QUICK)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_run_leaves_everything_it_promises(quick, capsys):
    assert main(["--profile", "tiny", "--seed", "7"]) == 0
    output, printed = quick / "outputs" / "tiny-7", capsys.readouterr().out
    for name in (
        "run.json",
        "history.csv",
        "history.png",
        "before.jsonl",
        "after.jsonl",
        "before_sampled.jsonl",
        "after_sampled.jsonl",
        "comparison.csv",
        "comparison.png",
        "adapter/adapter_model.safetensors",
    ):
        assert (output / name).stat().st_size > 0, name
    assert not list(output.glob(".*")), "half-written files"
    run = json.loads((output / "run.json").read_text())
    assert run["seed"] == 7 and run["profile"]["name"] == "tiny" and "trl" in run["versions"]
    assert str(Path.home()) not in (output / "run.json").read_text()
    assert 0 < run["results"]["peak_memory_gb"] < 8
    assert len(pd.read_json(output / "before.jsonl", lines=True)) == 6
    for text in ("about", "strict accuracy", "peak resident memory", "before (", "after ("):
        assert text in printed


def test_resume_extends_a_finished_run_and_keeps_one_history(quick, capsys):
    assert main(["--profile", "tiny"]) == 0
    assert main(["--profile", "tiny", "--steps", "4", "--resume"]) == 0
    assert "resuming from checkpoint-2" in capsys.readouterr().out
    history = pd.read_csv(quick / "outputs" / "tiny-42" / "history.csv")
    assert list(history["step"]) == [1, 2, 3, 4]


def test_resume_under_another_recipe_is_refused(quick, capsys, monkeypatch):
    assert main(["--profile", "tiny"]) == 0
    monkeypatch.setitem(profiles.PROFILES, "tiny", QUICK.with_(learning_rate=0.5))
    assert main(["--profile", "tiny", "--resume"]) == 2
    assert "learning_rate was 0.002, now 0.5" in capsys.readouterr().err


def test_a_second_run_keeps_the_first(quick):
    assert main(["--profile", "tiny"]) == 0
    assert main(["--profile", "tiny"]) == 0
    assert (quick / "outputs" / "tiny-42.old1" / "run.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--profile", "huge"], "unknown profile 'huge'; choose one of tiny, small, t4, article"),
        (["--profile", "tiny", "--steps", "0"], "steps=0"),
        (["--profile", "tiny", "--resume", "--output", "nowhere"], "holds no run to resume"),
        (["--profile", "tiny", "--model", "."], "has no config.json"),
        (["--profile", "t4", "--model", str(profiles.DATA / "tiny_policy"), "--gsm8k", "nowhere"], "no such file"),
        (["--profile", "tiny", "--output", "/proc/nowhere"], "cannot write to the output folder /proc/nowhere"),
    ],
)
def test_bad_arguments_name_the_value_and_the_remedy(arguments, message, quick, capsys):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_help_teaches(capsys):
    with pytest.raises(SystemExit):
        parse(["--help"])
    printed = capsys.readouterr().out
    for word in ("GRPO", "advantage", "tiny", "small", "t4", "article", "outputs/", "--resume", "examples"):
        assert word in printed
