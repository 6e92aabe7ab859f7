"""The main job, as a user starts it: from the command line, with the right and the wrong arguments."""

from pathlib import Path

import pandas as pd
import pytest

from grpo_helpers import adapters, profiles, run, training
from grpo_helpers.__main__ import main, parse
from grpo_helpers.files import read_json

QUICK = profiles.TINY.with_(batch=16, num_generations=4, steps=2, eval_questions=6, save_steps=1, minutes=0.1)


@pytest.fixture
def quick(monkeypatch, tmp_path):
    monkeypatch.setitem(profiles.PROFILES, "tiny", QUICK)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def lines(path):
    return pd.read_json(path, lines=True)


@pytest.mark.trains
def test_a_run_leaves_everything_it_promises_and_a_second_one_keeps_it(quick, capsys):
    assert main(["--profile", "tiny", "--seed", "7"]) == 0
    output, printed = quick / "outputs" / "tiny-7", capsys.readouterr().out
    names = {*run.RECORDED, "before_sampled.jsonl", "after_sampled.jsonl", "comparison.png"}
    names |= {f"adapter/{name}" for name in adapters.FILES}
    assert all((output / name).stat().st_size > 0 for name in names)
    assert not list(output.glob(".*")), "half-written files"
    facts = read_json(output / "run.json")
    assert facts["seed"] == 7 and facts["profile"]["name"] == "tiny" and "trl" in facts["versions"]
    assert facts["outcome"] == "finished" and 0 < facts["results"]["peak_memory_gb"] < 8
    for name in ("run.json", "adapter/adapter_config.json", "adapter/README.md"):
        assert not any(str(p) in (output / name).read_text() for p in (Path.home(), profiles.ROOT)), name
    assert "strict accuracy" in (output / "adapter/README.md").read_text()
    assert lines(output / "samples.jsonl")["step"].tolist() == [0] * 6 + [2] * 6
    assert len(lines(output / "before.jsonl")) == 6
    assert all(text in printed for text in ("strict accuracy", "before (", "after ("))
    assert main(["--profile", "tiny", "--seed", "7"]) == 0
    assert read_json(quick / "outputs" / "tiny-7.old1" / "run.json") == facts


@pytest.mark.trains
def test_resume_extends_a_finished_run_keeps_one_history_and_refuses_another_recipe(quick, capsys, monkeypatch):
    assert main(["--profile", "tiny"]) == 0
    assert main(["--profile", "tiny", "--steps", "4", "--resume"]) == 0
    assert list(pd.read_csv(quick / "outputs" / "tiny-42" / "history.csv")["step"]) == [1, 2, 3, 4]
    monkeypatch.setitem(profiles.PROFILES, "tiny", QUICK.with_(learning_rate=0.5))
    assert main(["--profile", "tiny", "--resume"]) == 2
    assert "learning_rate was 0.002, now 0.5" in capsys.readouterr().err


def constant(completions, **kwargs):
    return [1.0] * len(completions)


@pytest.mark.trains
def test_run_that_cannot_learn_is_stopped_with_its_own_exit_code_and_can_be_made_to_go_on(quick, capsys, monkeypatch):
    monkeypatch.setitem(profiles.PROFILES, "tiny", QUICK.with_(steps=12))
    monkeypatch.setattr(training.make_trainer, "__defaults__", ((constant,), *training.make_trainer.__defaults__[1:]))
    monkeypatch.setattr(run, "DATA", quick / "data")
    assert main(["--profile", "tiny", "--record"]) == 3
    assert "stop: nothing but ties" in capsys.readouterr().out and not (quick / "data").exists()
    output = quick / "outputs" / "tiny-42"
    adapters.check(output / "adapter")
    assert len(pd.read_csv(output / "history.csv")) == 10
    facts = read_json(output / "run.json")
    assert facts["outcome"] == "stopped by the doctor" and facts["finding"]["name"] == "nothing but ties"
    assert main(["--profile", "tiny", "--resume", "--no-doctor"]) == 0
    assert list(pd.read_csv(output / "history.csv")["step"]) == list(range(1, 13))
    assert read_json(output / "run.json")["outcome"] == "finished"


@pytest.mark.trains
def test_output_folder_of_the_environment_and_what_is_recorded(quick, monkeypatch):
    monkeypatch.setenv("GRPO_OUTPUT", str(quick / "drive"))
    monkeypatch.setattr(run, "DATA", quick / "data")
    assert main(["--profile", "tiny", "--record"]) == 0
    target = quick / "data" / "runs" / "tiny-42"
    kept = {str(p.relative_to(target)) for p in target.rglob("*") if p.is_file()}
    assert kept == {*run.RECORDED, *(f"adapter/{name}" for name in adapters.FILES)}
    monkeypatch.setattr(run, "MAX_ADAPTER_MB", 0.0)
    (target / "adapter" / "adapter_model.safetensors").unlink()
    run.record(quick / "drive" / "tiny-42")
    assert not (target / "adapter" / "adapter_model.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--profile", "huge"], "unknown profile 'huge'; choose one of tiny, small, t4, t4_full, article"),
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


def test_help_names_every_profile(capsys):
    with pytest.raises(SystemExit):
        parse(["--help"])
    printed = capsys.readouterr().out
    assert all(name in printed for name in profiles.PROFILES)
