"""The main job, as a user starts it: from the command line, with the right and the wrong arguments."""

import json
from pathlib import Path

import pandas as pd
import pytest

from grpo_helpers import adapters, profiles, run, training
from grpo_helpers.__main__ import main, parse

QUICK = profiles.TINY.with_(batch=16, num_generations=4, steps=2, eval_questions=6, save_steps=1, minutes=0.1)


@pytest.fixture
def quick(monkeypatch, tmp_path):
    monkeypatch.setitem(profiles.PROFILES, "tiny", QUICK)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.trains
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
        "samples.jsonl",
        "adapter/adapter_model.safetensors",
        "adapter/README.md",
    ):
        assert (output / name).stat().st_size > 0, name
    assert not list(output.glob(".*")), "half-written files"
    facts = json.loads((output / "run.json").read_text())
    assert facts["seed"] == 7 and facts["profile"]["name"] == "tiny" and "trl" in facts["versions"]
    assert facts["outcome"] == "finished"
    for name in ("run.json", "adapter/adapter_config.json", "adapter/README.md"):
        assert (
            str(Path.home()) not in (output / name).read_text()
            and str(profiles.ROOT) not in (output / name).read_text()
        )
    assert "strict accuracy" in (output / "adapter/README.md").read_text()
    assert pd.read_json(output / "samples.jsonl", lines=True)["step"].tolist() == [0] * 6 + [1] * 6 + [2] * 6
    assert 0 < facts["results"]["peak_memory_gb"] < 8
    assert len(pd.read_json(output / "before.jsonl", lines=True)) == 6
    for text in ("about", "strict accuracy", "peak resident memory", "before (", "after ("):
        assert text in printed


@pytest.mark.trains
def test_resume_extends_a_finished_run_and_keeps_one_history(quick, capsys):
    assert main(["--profile", "tiny"]) == 0
    assert main(["--profile", "tiny", "--steps", "4", "--resume"]) == 0
    assert "resuming from checkpoint-2" in capsys.readouterr().out
    history = pd.read_csv(quick / "outputs" / "tiny-42" / "history.csv")
    assert list(history["step"]) == [1, 2, 3, 4]


def constant(completions, **kwargs):
    return [1.0] * len(completions)


@pytest.mark.trains
def test_run_that_cannot_learn_is_stopped_with_its_own_exit_code_and_can_be_made_to_go_on(quick, capsys, monkeypatch):
    monkeypatch.setitem(profiles.PROFILES, "tiny", QUICK.with_(steps=12))
    monkeypatch.setattr(training.make_trainer, "__defaults__", ((constant,), *training.make_trainer.__defaults__[1:]))
    assert main(["--profile", "tiny", "--record"]) == 3
    printed, output = capsys.readouterr().out, quick / "outputs" / "tiny-42"
    for text in ("nothing but ties", "remedy", "--resume", "--no-doctor"):
        assert text in printed
    assert "recorded" not in printed
    assert len(pd.read_csv(output / "history.csv")) == 10 and (output / "adapter/adapter_model.safetensors").exists()
    facts = json.loads((output / "run.json").read_text())
    assert facts["outcome"] == "stopped by the doctor" and facts["finding"]["name"] == "nothing but ties"
    assert main(["--profile", "tiny", "--resume", "--no-doctor"]) == 0
    assert list(pd.read_csv(output / "history.csv")["step"]) == list(range(1, 13))
    assert json.loads((output / "run.json").read_text())["outcome"] == "finished"


@pytest.mark.trains
def test_output_folder_of_the_environment_and_what_is_recorded(quick, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("GRPO_OUTPUT", str(tmp_path / "drive"))
    monkeypatch.setattr(run, "DATA", tmp_path / "data")
    assert main(["--profile", "tiny", "--record"]) == 0
    target = tmp_path / "data" / "runs" / "tiny-42"
    kept = {str(p.relative_to(target)) for p in target.rglob("*") if p.is_file()}
    assert kept == {*run.RECORDED, *(f"adapter/{name}" for name in adapters.FILES)}
    found = adapters.find(QUICK, tmp_path / "nowhere", tmp_path / "data" / "runs")
    assert found.folder == target / "adapter" and "recorded" in found.source
    monkeypatch.setattr(run, "MAX_ADAPTER_MB", 0.0)
    (target / "adapter" / "adapter_model.safetensors").unlink()
    run.record(tmp_path / "drive" / "tiny-42")
    assert not (target / "adapter" / "adapter_model.safetensors").exists()
    assert "not recorded" in capsys.readouterr().out


@pytest.mark.trains
def test_resume_under_another_recipe_is_refused(quick, capsys, monkeypatch):
    assert main(["--profile", "tiny"]) == 0
    monkeypatch.setitem(profiles.PROFILES, "tiny", QUICK.with_(learning_rate=0.5))
    assert main(["--profile", "tiny", "--resume"]) == 2
    assert "learning_rate was 0.002, now 0.5" in capsys.readouterr().err


@pytest.mark.trains
def test_a_second_run_keeps_the_first(quick):
    assert main(["--profile", "tiny"]) == 0
    assert main(["--profile", "tiny"]) == 0
    assert (quick / "outputs" / "tiny-42.old1" / "run.json").exists()


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


def test_help_teaches(capsys):
    with pytest.raises(SystemExit):
        parse(["--help"])
    printed = capsys.readouterr().out
    for word in (
        "GRPO",
        "advantage",
        "tiny",
        "small",
        "t4",
        "t4_full",
        "article",
        "outputs/",
        "--resume",
        "--no-doctor",
        "examples",
    ):
        assert word in printed
