"""Training: configuration, rewards that misbehave, crashes at bad moments, and resuming as if nothing happened."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from grpo_helpers import data, models, training
from grpo_helpers.profiles import ROOT, TINY, get_profile

QUICK = TINY.with_(
    batch=8, num_generations=4, max_completion_length=12, steps=6, save_steps=2, minutes=0.1, eval_questions=8
)

# What the subprocess tests run: train into argv[1], resume if argv[2] says so, die where argv[3] says.
DRIVER = """
import os, signal, sys
import torch
from grpo_helpers import training
from grpo_helpers.files import write_json
from tests.test_training import quick_trainer

output, resume, die_in = sys.argv[1:4]
save = torch.save
def save_or_die(value, file, *args, **kwargs):
    if die_in and die_in in str(file):
        open(file, "wb").write(b"PK\\x03\\x04 cut off here")
        os.kill(os.getpid(), signal.SIGKILL)
    return save(value, file, *args, **kwargs)
torch.save = save_or_die
trainer = quick_trainer(output)
finished = training.train(trainer, resume == "resume")
write_json(output + "/result.json", {"finished": finished, "history": trainer.state.log_history})
"""


def quick_trainer(output, profile=QUICK, **kwargs):
    model, tokenizer = models.load_policy(profile)
    return training.make_trainer(profile, model, tokenizer, data.load_task(profile, "train", 64), output, **kwargs)


def start(output, resume="", die_in=""):
    command = [sys.executable, "-c", DRIVER, str(output), resume, die_in]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT
    )


def rewards(result_file):
    log = json.loads(Path(result_file).read_text())["history"]
    return [(row["step"], row["reward"]) for row in log if "reward" in row]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    output = tmp_path_factory.mktemp("uninterrupted")
    process = start(output)
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0, printed
    return output


def resume_and_compare(output, uninterrupted):
    process = start(output, "resume")
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0, printed
    assert rewards(output / "result.json") == rewards(uninterrupted / "result.json")
    return printed


@pytest.mark.parametrize("file", ["optimizer.pt", "rng_state.pth"])
def test_killed_during_a_save_goes_on_from_the_last_whole_checkpoint(file, tmp_path, uninterrupted):
    shutil.copytree(uninterrupted / "checkpoint-4", tmp_path / "checkpoint-4")
    process = start(tmp_path, "resume", f"checkpoint-6/{file}")
    process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL
    assert training.damage(tmp_path / "checkpoint-6")
    printed = resume_and_compare(tmp_path, uninterrupted)
    assert "checkpoint-6 is not whole" in printed
    assert "resuming from checkpoint-4" in printed


def test_killed_at_a_random_moment_ends_as_if_nothing_had_happened(tmp_path, uninterrupted):
    process = start(tmp_path)
    while not list(tmp_path.glob("checkpoint-*")) and process.poll() is None:
        time.sleep(0.02)
    time.sleep(torch.rand(()).item())
    process.kill()
    process.communicate()
    resume_and_compare(tmp_path, uninterrupted)


def test_ctrl_c_finishes_the_step_saves_and_can_go_on(tmp_path, uninterrupted):
    process = start(tmp_path)
    while not list(tmp_path.glob("checkpoint-2/trainer_state.json")) and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 0, printed
    stopped = json.loads((tmp_path / "result.json").read_text())
    if not stopped["finished"]:
        assert "stopping after this step" in printed
        assert training.latest_checkpoint(tmp_path).name == f"checkpoint-{rewards(tmp_path / 'result.json')[-1][0]}"
    resume_and_compare(tmp_path, uninterrupted)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("trainer_state.json", b'{"global_step": 4, "log_his'),
        ("trainer_state.json", b"[]"),
        ("adapter_model.safetensors", b"\x00\x01"),
        ("optimizer.pt", b""),
        ("scheduler.pt", None),
    ],
)
def test_damaged_newest_checkpoint_is_passed_over(file, content, tmp_path, uninterrupted, capsys):
    for name in ("checkpoint-4", "checkpoint-6"):
        shutil.copytree(uninterrupted / name, tmp_path / name)
    assert training.latest_checkpoint(tmp_path).name == "checkpoint-6"
    damaged = tmp_path / "checkpoint-6" / file
    damaged.unlink() if content is None else damaged.write_bytes(content)
    assert training.latest_checkpoint(tmp_path).name == "checkpoint-4"
    assert "checkpoint-6 is not whole" in capsys.readouterr().out


def test_no_checkpoint_is_no_error(tmp_path):
    assert training.latest_checkpoint(tmp_path) is None
    assert training.latest_checkpoint(tmp_path / "nowhere") is None


def test_history_is_one_row_a_step_and_reads_back(uninterrupted, tmp_path):
    table = training.history(uninterrupted / "checkpoint-6" / "trainer_state.json")
    assert list(table["step"]) == [1, 2, 3, 4, 5, 6]
    assert {"reward", "rewards/correctness_reward_func/mean", "entropy", "completions/clipped_ratio"} <= set(table)
    table.to_csv(tmp_path / "history.csv", index=False)
    assert list(training.history(tmp_path / "history.csv")["reward"]) == pytest.approx(list(table["reward"]))


def test_history_of_nothing_says_so():
    with pytest.raises(ValueError, match="train first"):
        training.history([{"train_runtime": 1.0}])


def too_few(completions, **kwargs):
    return [1.0] * (len(completions) - 1)


def not_a_number(completions, **kwargs):
    return [float("nan")] * len(completions)


@pytest.mark.parametrize(
    ("reward", "message"),
    [(too_few, "too_few returned 7 rewards for 8 completions"), (not_a_number, "not_a_number returned nan")],
)
def test_reward_that_returns_nonsense_stops_the_run_with_its_name(reward, message, tmp_path):
    trainer = quick_trainer(tmp_path, reward_funcs=[reward])
    with pytest.raises(ValueError, match=message):
        training.train(trainer)


def test_reward_without_opinion_is_allowed():
    assert training.checked(lambda completions, **kwargs: [None, 1.0])(completions=["a", "b"]) == [None, 1.0]


@pytest.mark.parametrize("column", ["prompt", "answer"])
def test_missing_column_is_named(column, tmp_path):
    model, tokenizer = models.load_policy(QUICK)
    questions = data.load_task(QUICK, "train", 64).remove_columns(column)
    with pytest.raises(ValueError, match=f"no column '{column}'"):
        training.make_trainer(QUICK, model, tokenizer, questions, tmp_path)


def test_too_few_questions_for_one_step(tmp_path):
    model, tokenizer = models.load_policy(QUICK)
    with pytest.raises(ValueError, match="1 questions are fewer than the 2"):
        training.make_trainer(QUICK, model, tokenizer, data.load_task(QUICK, "train", 1), tmp_path)


def test_after_training_the_policy_is_ready_to_generate(tmp_path):
    trainer = quick_trainer(tmp_path, QUICK.with_(steps=1))
    assert training.train(trainer)
    assert not trainer.model.training
    assert trainer.model.config.use_cache
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_precision_is_explicit_on_a_cpu():
    for name in ("tiny", "small", "t4", "article"):
        config = training.grpo_config(get_profile(name), "unused")
        assert config.use_cpu == (not torch.cuda.is_available())
        assert not (config.fp16 and not torch.cuda.is_available())


def test_the_article_profile_is_the_articles_configuration():
    config = training.grpo_config(get_profile("article"), "unused")
    assert (config.learning_rate, config.adam_beta2, config.weight_decay) == (5e-6, 0.99, 0.1)
    assert (config.per_device_train_batch_size, config.gradient_accumulation_steps, config.num_generations) == (4, 2, 4)
    assert (config.max_grad_norm, config.lr_scheduler_type, config.max_completion_length) == (0.1, "cosine", 512)
    assert models.lora_config(get_profile("article")).lora_dropout == 0.05
