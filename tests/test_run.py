"""The main job, as a user starts it: from the command line, with the right and the wrong arguments."""

import itertools
import json
import os
import shutil
from pathlib import Path
from unittest.mock import Mock

import pandas as pd
import pytest
import torch

from grpo_helpers import adapters, data, evaluation, models, profiles, run, training
from grpo_helpers.__main__ import main
from grpo_helpers.files import held, read_json, write_json

from .test_rewards import mine

SHORT = profiles.TINY.with_(batch=8, num_generations=4, max_completion_length=12, steps=2, save_steps=1, minutes=0.1)
SHORT = SHORT.with_(eval_questions=4, eval_temperatures=(0.0,))
ASKED = SHORT.with_(name="t4", task="gsm8k")  # questions from a folder


@pytest.fixture
def short(monkeypatch, tmp_path):
    monkeypatch.setitem(profiles.PROFILES, "tiny", SHORT)
    monkeypatch.setitem(profiles.PROFILES, "t4", ASKED)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def touched(folder):
    """What is in a folder: each file with when it was written, each folder."""
    return {p.relative_to(folder): p.is_file() and (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.rglob("*")}


@pytest.mark.trains
def test_a_run_leaves_everything_it_promises_and_a_second_one_moves_that_and_nothing_else(short, capsys, monkeypatch):
    monkeypatch.setitem(profiles.PROFILES, "tiny", SHORT.with_(eval_temperatures=(0.0, 1.0)))
    monkeypatch.setenv("GRPO_OUTPUT", str(short / "drive"))
    monkeypatch.setattr(run, "DATA", short / "data")
    assert main(["--profile", "tiny", "--seed", "7", "--record"]) == 0
    output, printed = short / "drive" / "tiny-7", capsys.readouterr().out
    recorded = {*run.RECORDED, *(f"adapter/{name}" for name in adapters.FILES)}
    for name in recorded | {"before_sampled.jsonl", "after_sampled.jsonl", "comparison.png"}:
        assert (output / name).stat().st_size > 0
    assert not list(output.glob(".*")), "half-written files"
    facts = read_json(output / "run.json")
    assert facts["seed"] == 7 and facts["profile"]["name"] == "tiny" and "trl" in facts["versions"]
    assert facts["outcome"] == "finished" and 0 < facts["results"]["peak_memory_gb"] < 8
    for name in ("run.json", "adapter/adapter_config.json", "adapter/README.md"):
        assert not any(str(p) in (output / name).read_text() for p in (Path.home(), profiles.ROOT)), name
    assert "strict accuracy" in (output / "adapter/README.md").read_text()
    assert pd.read_json(output / "samples.jsonl", lines=True)["step"].tolist() == [0] * 4 + [2] * 4
    assert len(pd.read_json(output / "before.jsonl", lines=True)) == 4
    assert all(text in printed for text in ("strict accuracy", "before (", "after ("))
    record = short / "data" / "runs" / "tiny-7"
    assert {str(name) for name, is_file in touched(record).items() if is_file} == recorded
    monkeypatch.setattr(run, "MAX_ADAPTER_MB", 0.0)
    shutil.rmtree(record)
    run.record(output)
    assert not (record / "adapter" / "adapter_model.safetensors").exists()
    kept = touched(output)
    (output / "notes.txt").write_text("mine")
    assert main(["--profile", "tiny", "--seed", "7"]) == 0
    assert touched(short / "drive" / "tiny-7.old1") == kept and (output / "notes.txt").read_text() == "mine"


@pytest.mark.trains
def test_resume_extends_a_finished_run_keeps_one_history_and_refuses_another_recipe(again, capsys, monkeypatch):
    assert main([*again, "--steps", "4"]) == 0
    assert list(pd.read_csv("run/history.csv")["step"]) == [1, 2, 3, 4]
    monkeypatch.setitem(profiles.PROFILES, "t4", ASKED.with_(learning_rate=0.5))
    assert main([*again, "--steps", "4"]) == 2
    assert "learning_rate was 0.002, now 0.5" in capsys.readouterr().err


@pytest.mark.trains
def test_run_that_cannot_learn_is_stopped_with_its_own_exit_code_and_can_be_made_to_go_on(short, capsys, monkeypatch):
    monkeypatch.setitem(profiles.PROFILES, "tiny", SHORT.with_(steps=12, save_steps=12))
    monkeypatch.setattr(training.make_trainer, "__defaults__", ((mine,), *training.make_trainer.__defaults__[1:]))
    monkeypatch.setattr(run, "DATA", short / "data")
    assert main(["--profile", "tiny", "--record"]) == 3
    assert "stop: nothing but ties" in capsys.readouterr().out and not (short / "data").exists()
    output = short / "outputs" / "tiny-42"
    adapters.check(output / "adapter")
    facts = read_json(output / "run.json")
    assert facts["outcome"] == "stopped by the doctor" and facts["finding"]["name"] == "nothing but ties"
    assert main(["--profile", "tiny", "--resume"]) == 0, "two new steps are not evidence enough"
    assert list(pd.read_csv(output / "history.csv")["step"]) == list(range(1, 13))
    assert main(["--profile", "tiny", "--resume", "--no-doctor", "--steps", "24"]) == 0
    assert read_json(output / "run.json")["outcome"] == "finished"


def questions_in(folder, train=12, test=4, skip=0):
    """A folder like GSM8K's, made of word problems."""
    folder.mkdir(exist_ok=True)
    for split, n in (("train", train), ("test", test)):
        rows = data.word_problem_rows(split)[skip : skip + n]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a finished run of two steps."""
    folder = tmp_path_factory.mktemp("finished")
    run.run(ASKED, output=folder / "run", gsm8k=questions_in(folder / "asked"))
    return folder / "run"


@pytest.fixture
def again(finished, short):
    """What resumes a copy of that run."""
    shutil.copytree(finished, short / "run")
    questions_in(short / "asked")
    return ["--profile", "t4", "--output", "run", "--gsm8k", "asked", "--resume"]


def refused(arguments, message, folder, capsys):
    """Exit code 2 and one sentence, whatever the mistake; what is in the folder stays as it was."""
    before = touched(folder)
    assert main([*map(str, arguments)]) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(error) == 1 and message in error[0], error
    assert touched(folder) == before


@pytest.mark.trains
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--profile", "huge"], "unknown profile 'huge'; choose one of tiny, small, small_long, t4, t4_full, article"),
        (["--steps", "0"], "steps=0"), (["--seed", "-1"], "seed=-1"),
        (["--resume", "--output", "nowhere"], "holds no run to resume"), (["--model", "."], "has no config.json"),
        (["--model", "cut"], "cut has no whole model.safetensors"), (["--model", "no template"], "no chat template"),
        (["--model", "odd template"], "chat template cannot be used"),
        (["--output", "a file/run"], "cannot write to the output folder a file/run (Not a directory)"),
        (["--gsm8k", "nowhere"], "profile tiny asks word_problems, so nowhere is of no use"),
        (["--profile", "t4", "--gsm8k", "~/nowhere"], str(Path.home() / "nowhere")),
        (["--profile", "t4", "--gsm8k", "few"], "1 questions are fewer than the 2"),
        (["--profile", "t4", "--gsm8k", "asked", "--resume", "--steps", "1"], "--steps 1: 2 steps are already taken"),
        (["--profile", "t4", "--gsm8k", "asked", "--resume", "--seed", "3"], "seed was 42, now 3"),
        (["--profile", "t4", "--gsm8k", "other", "--resume"], "data_sha256 was"),
    ],
)  # fmt: skip
def test_mistakes_are_named_before_anything_is_touched(arguments, message, again, short, capsys):
    for name in ("cut", "no template", "odd template"):
        shutil.copytree(profiles.TINY.model, short / name, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
        if name != "cut":
            (short / name / "chat_template.jinja").unlink()
    weights = short / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    (short / "odd template" / "chat_template.jinja").write_text("{{ messages[0].no.such }}")
    (short / "a file").touch()
    questions_in(short / "few", train=1)
    questions_in(short / "other", skip=3)
    usual = ["--profile", "tiny", "--model", profiles.TINY.model, "--output", "run"]
    refused([*usual, *arguments], message, short, capsys)


@pytest.mark.trains
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("run.json", "[]"), ("run.json", "{"), ("run.json", '{"profile": 3, "seed": 1, "weights_sha256": ""}'),
        ("samples.jsonl", "[]"), ("samples.jsonl", '{"question": "a", "gold": "1", "completion": "b"}'),
    ],
)  # fmt: skip
def test_files_that_are_damaged_are_named(name, text, again, short, capsys):
    (short / "run" / name).write_text(text)
    refused(again, name, short, capsys)


def other_moments(folder):
    """Which the fused optimizer would read past their end."""
    saved = torch.load(folder / "optimizer.pt", weights_only=True)
    for moments in saved["state"].values():
        moments |= {name: moments[name][:, :1].clone() for name in ("exp_avg", "exp_avg_sq")}
    torch.save(saved, folder / "optimizer.pt")


@pytest.mark.trains
@pytest.mark.parametrize(
    "spoil",
    [
        other_moments, lambda folder: torch.save({"state": {}, "param_groups": []}, folder / "optimizer.pt"),
        lambda folder: torch.save({"a": 1}, folder / "scheduler.pt"),
        lambda folder: torch.save([1], folder / "rng_state.pth"),
    ],
    ids=["other moments", "no groups", "no scheduler", "no state of chance"],
)  # fmt: skip
def test_checkpoint_of_something_else_is_named(spoil, again, short, capsys):
    spoil(short / "run" / "checkpoints" / "checkpoint-2")
    assert main([*again, "--steps", "3"]) == 2
    assert "checkpoint-2 does not fit this run" in capsys.readouterr().err
    assert read_json(short / "run" / "run.json")["outcome"] == "failed"


def test_a_run_from_before_a_field_existed_goes_on_with_its_default():
    now = run.provenance(SHORT, 1)
    saved = now | {"profile": {k: v for k, v in now["profile"].items() if k != "chat_template_kwargs"}}
    run.check_same_run(saved, now)
    with pytest.raises(ValueError, match="chat_template_kwargs was None, now"):
        run.check_same_run(saved, run.provenance(SHORT.with_(chat_template_kwargs={"enable_thinking": False}), 1))


def test_a_full_gpu_is_told_with_the_way_on(monkeypatch, capsys):
    full = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    monkeypatch.setattr(run, "run", Mock(side_effect=full))
    assert main(["--profile", "tiny"]) == 2
    assert "smaller profile" in (said := capsys.readouterr().err) and "CUDA out of memory" in said


def test_second_run_in_a_folder_is_refused(short, capsys):
    write_json(short / "run.json", {})
    with held(short):
        for more in ([], ["--resume"]):
            refused(["--profile", "tiny", "--output", ".", *more], "another run (process", short, capsys)


MOMENTS = {
    "looking for the weights": (run, "provenance", 1),
    "loading": (models, "load_policy", 1),
    "asking the untrained policy": (evaluation, "evaluate", 1),
    "building the trainer": (training, "make_trainer", 1),
    "the first replies during training": (evaluation, "evaluate", 2),
    "before the first logged step": (training.SharedPromptTrainer, "_generate_and_score_completions", 1),
    "before the second step": (training.SharedPromptTrainer, "_generate_and_score_completions", 2),
    "saving the adapter": (adapters, "save", 1),
    "asking the trained policy": (evaluation, "evaluate", 4),
    "the last words": (run, "show_examples", 1),
}


@pytest.mark.trains
@pytest.mark.parametrize("moment", MOMENTS if os.environ.get("WEEKLY") else list(MOMENTS)[::3])
def test_ctrl_c_at_any_moment_is_130_one_sentence_and_an_honest_run_json(moment, short, capsys, monkeypatch):
    owner, name, nth = MOMENTS[moment]
    inner, calls = getattr(owner, name), itertools.count(1)

    def interrupted(*args, **kwargs):
        if next(calls) == nth:
            raise KeyboardInterrupt
        return inner(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, interrupted)
        assert main(["--profile", "tiny", "--output", "run"]) == 130
    printed = capsys.readouterr()
    said = [line for line in (printed.out + printed.err).splitlines() if "--resume" in line]
    assert len(said) == 1 and "Traceback" not in printed.err
    begun = moment not in list(MOMENTS)[:2]
    assert (short / "run").exists() == begun
    if begun:
        assert read_json(short / "run" / "run.json")["outcome"] == "interrupted"
        assert not (short / "run" / ".lock").exists()
    assert main(["--profile", "tiny", "--output", "run", *["--resume"] * begun]) == 0
    assert list(pd.read_csv(short / "run" / "history.csv")["step"]) == [1, 2]
    assert read_json(short / "run" / "run.json")["outcome"] == "finished"


@pytest.mark.trains
def test_what_was_measured_before_is_not_said_of_a_run_that_went_on(again, short, monkeypatch):
    monkeypatch.setattr(evaluation, "evaluate", Mock(side_effect=OSError(28, "full")))
    monkeypatch.setattr(evaluation.SampleReplies, "on_step_end", lambda *args, **kwargs: None)
    assert main([*again, "--steps", "4"]) == 2
    facts, card = read_json(short / "run" / "run.json"), (short / "run" / "adapter" / "README.md").read_text()
    assert facts["outcome"] == "failed" and facts["steps_taken"] == 4
    assert "Not measured" in card and "4 steps" in card and not (short / "run" / "comparison.csv").exists()


@pytest.mark.trains
def test_a_run_that_has_lost_its_checkpoints_is_not_begun_anew_over_its_adapter(again, short):
    trained = (short / "run" / "adapter" / "adapter_model.safetensors").read_bytes()
    shutil.rmtree(short / "run" / "checkpoints")
    assert main([*again, "--seed", "3"]) == 2 and main(again) == 0
    assert (short / "run.old1" / "adapter" / "adapter_model.safetensors").read_bytes() == trained


@pytest.mark.trains
def test_replies_to_other_questions_are_asked_anew(again, short):
    kept = (short / "run" / "before.jsonl").read_text()
    for text in ("{cut", kept.replace("strict", "lax"), kept.splitlines()[0]):
        (short / "run" / "before.jsonl").write_text(text)
        assert main(again) == 0
        assert (short / "run" / "before.jsonl").read_text() == kept


def test_a_run_is_recorded_under_its_own_name_and_over_no_other_record(short, monkeypatch):
    monkeypatch.setattr(run, "DATA", short)
    assert run.record_folder(Path(".")) == short / "runs" / short.name
    (short / "runs" / "grid").mkdir(parents=True)
    write_json(short / "runs" / "grid" / "run.json", {})
    with pytest.raises(ValueError, match="runs/grid holds another kind of record"):
        run.record_folder(short / "grid")
