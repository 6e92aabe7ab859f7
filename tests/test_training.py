"""Training: configuration, rewards that misbehave, crashes at bad moments, and resuming as if nothing happened."""

import contextlib
import copy
import json
import math
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import Qwen2Config, Qwen2ForSequenceClassification

from grpo_helpers import checkpoints, data, models, records, training
from grpo_helpers.evaluation import SampleReplies
from grpo_helpers.files import disk_is_full, write_json
from grpo_helpers.profiles import ARTICLE, TINY

from .cells import definitions
from .test_rewards import Judge, SlowJudge, mine, slow

pytestmark = pytest.mark.trains

QUICK = TINY.with_(
    batch=8, num_generations=4, max_completion_length=12, steps=6, save_steps=2, minutes=0.1, eval_questions=8
)
CLOCKS = {"step_time", "train_runtime", "train_samples_per_second", "train_steps_per_second"}  # all else must be equal

# A server that has imported this module and is forked for each run.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([__name__])


def quick_trainer(output, profile=QUICK, **kwargs):
    model, tokenizer = models.load_policy(profile)
    return training.make_trainer(profile, model, tokenizer, data.load_task(profile, "train", 64), output, **kwargs)


def job(output, resume, die_in, full_in):
    """Train into `output` and note what came out; be killed, or meet a full disk, while a file like that is saved."""
    printed = os.open(output.with_suffix(".printed"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(printed, 1)
    os.dup2(printed, 2)
    save = torch.save

    def save_or_die(value, file, *args, **kwargs):
        if die_in and die_in in str(file):
            Path(file).write_bytes(b"PK\x03\x04 cut off here")
            os.kill(os.getpid(), signal.SIGKILL)
        if full_in and full_in in str(file):
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        return save(value, file, *args, **kwargs)

    torch.save = save_or_die
    _, tokenizer = models.load_policy(QUICK)
    samples = SampleReplies(QUICK, tokenizer, data.load_task(QUICK, "test", 8), output / "samples.jsonl")
    trainer = quick_trainer(output, callbacks=[samples])
    outcome = training.train(trainer, resume)
    write_json(output / "result.json", {"how": outcome.how, "history": trainer.state.log_history})


def start(output, resume=False, die_in="", full_in=""):
    process = PROCESSES.Process(target=job, args=(output, resume, die_in, full_in))
    process.start()
    return process


def end(process, output):
    """Exit code (negative: the signal) and what was printed."""
    process.join(300)
    assert process.exitcode is not None, "the run hangs"
    printed = output.with_suffix(".printed")
    return process.exitcode, printed.read_text() if printed.exists() else ""


def log(output):
    """The history without its clocks."""
    rows = json.loads((output / "result.json").read_text())["history"]
    return [{k: v for k, v in row.items() if k not in CLOCKS} for row in rows if "reward" in row]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    output = tmp_path_factory.mktemp("uninterrupted")
    begin = time.monotonic()
    code, printed = end(start(output), output)
    assert code == 0, printed
    write_json(output / "seconds.json", time.monotonic() - begin)
    return output


def resume_and_compare(output, uninterrupted):
    """The resumed run ends with the very history, replies and weights of one that was never interrupted."""
    code, printed = end(start(output, resume=True), output)
    assert code == 0, printed
    assert [row["step"] for row in log(output)] == [1, 2, 3, 4, 5, 6]
    assert log(output) == log(uninterrupted)
    for name in ("samples.jsonl", "checkpoint-6/adapter_model.safetensors"):
        assert (output / name).read_bytes() == (uninterrupted / name).read_bytes()
    return printed


@pytest.mark.parametrize("seed", range(10 if os.environ.get("WEEKLY") else 3))
def test_killed_at_a_random_moment_ends_as_if_nothing_had_happened(seed, tmp_path, uninterrupted):
    run = start(tmp_path)
    time.sleep(random.Random(seed).uniform(0, json.loads((uninterrupted / "seconds.json").read_text())))
    run.kill()
    end(run, tmp_path)
    resume_and_compare(tmp_path, uninterrupted)


@pytest.mark.parametrize("file", ["optimizer.pt", "rng_state.pth"])
def test_killed_during_a_save_goes_on_from_the_last_whole_checkpoint(file, tmp_path, uninterrupted):
    shutil.copytree(uninterrupted / "checkpoint-4", tmp_path / "checkpoint-4")
    shutil.copy(uninterrupted / "samples.jsonl", tmp_path)
    code, _ = end(start(tmp_path, True, die_in=f"checkpoint-6/{file}"), tmp_path)
    assert code == -signal.SIGKILL and checkpoints.damage(tmp_path / "checkpoint-6")
    printed = resume_and_compare(tmp_path, uninterrupted)
    assert "checkpoint-6 is not whole" in printed and "resuming from checkpoint-4" in printed


def test_full_disk_is_named_and_the_run_goes_on_once_there_is_room(tmp_path, uninterrupted):
    code, printed = end(start(tmp_path, full_in="checkpoint-4"), tmp_path)
    assert code == 1 and not (tmp_path / "result.json").exists()
    assert "step 4 could not be saved" in printed and "make room, then resume" in printed
    assert "resuming from checkpoint-2" in resume_and_compare(tmp_path, uninterrupted)
    assert disk_is_full(OSError(28, "No space left on device"))
    assert not disk_is_full(RuntimeError("shapes do not match")) and not disk_is_full(PermissionError(13, "denied"))


def test_ctrl_c_finishes_the_step_saves_and_can_go_on(tmp_path, uninterrupted):
    run = start(tmp_path)
    while not (tmp_path / "checkpoint-2" / "trainer_state.json").exists() and run.is_alive():
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.kill(run.pid, signal.SIGINT)
    code, printed = end(run, tmp_path)
    assert code == 0, printed
    if json.loads((tmp_path / "result.json").read_text())["how"] != training.FINISHED:
        assert "stopping after this step" in printed
        assert checkpoints.latest(tmp_path).name == f"checkpoint-{log(tmp_path)[-1]['step']}"
    resume_and_compare(tmp_path, uninterrupted)


def test_finished_run_that_is_resumed_takes_no_step_too_many(tmp_path, uninterrupted):
    shutil.copytree(uninterrupted, tmp_path / "again")
    (tmp_path / "again" / "result.json").unlink()
    resume_and_compare(tmp_path / "again", uninterrupted)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("trainer_state.json", b'{"global_step": 4, "log_his'), ("trainer_state.json", b"[]"),
        ("trainer_state.json", b'{"global_step": 6, "log_history": 3}'), ("adapter_model.safetensors", b"\x00\x01"),
        ("trainer_state.json", b'{"global_step": 6, "log_history": [{}]}'), ("optimizer.pt", b""),
        ("scheduler.pt", None), ("scaler.pt", b"PK\x03\x04 cut off"),  # the last only a run in float16 writes
    ],
)  # fmt: skip
def test_damaged_newest_checkpoint_is_passed_over(file, content, tmp_path, uninterrupted, capsys):
    for name in ("checkpoint-4", "checkpoint-6"):
        shutil.copytree(uninterrupted / name, tmp_path / name)
    assert checkpoints.latest(tmp_path).name == "checkpoint-6"
    damaged = tmp_path / "checkpoint-6" / file
    damaged.write_bytes(content) if content is not None else damaged.unlink()
    assert checkpoints.latest(tmp_path).name == "checkpoint-4"
    assert f"checkpoint-6 is not whole ({file}" in capsys.readouterr().out
    assert checkpoints.latest(tmp_path / "nowhere") is None


def test_history_is_one_row_a_step_and_reads_back_and_where_there_is_none_that_is_said(uninterrupted, tmp_path):
    table = records.history(uninterrupted / "checkpoint-6" / "trainer_state.json")
    assert list(table["step"]) == [1, 2, 3, 4, 5, 6]
    assert {"reward", "rewards/correctness_reward_func/mean", "entropy", "completions/clipped_ratio"} <= set(table)
    table.to_csv(tmp_path / "history.csv", index=False)
    assert list(records.history(tmp_path / "history.csv")["reward"]) == pytest.approx(list(table["reward"]))
    with pytest.raises(ValueError, match="train first"):
        records.history([{"train_runtime": 1.0}])
    for text in ("[]", '{"log_history": 3}', "{"):
        (tmp_path / "trainer_state.json").write_text(text)
        with pytest.raises(ValueError, match="trainer_state.json"):
            records.history(tmp_path / "trainer_state.json")


def test_reward_that_returns_nonsense_stops_the_run_with_its_name(tmp_path):
    with pytest.raises(ValueError, match="mine returned nan"):
        training.train(quick_trainer(tmp_path, reward_funcs=[partial(mine, pays=math.nan)]))


def test_rewards_of_every_kind_that_trl_takes_are_logged_under_their_names(tmp_path):
    torch.manual_seed(0)
    folder = tmp_path / "reward-model"
    sizes = {"vocab_size": 1024, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "pad_token_id": 0}
    heads = {"num_attention_heads": 1, "num_key_value_heads": 1, "num_labels": 1}
    Qwen2ForSequenceClassification(Qwen2Config(**sizes, **heads)).save_pretrained(folder)
    models.load_policy(QUICK)[1].save_pretrained(folder)
    paid = [partial(mine, pays=points) for points in (0.5, 3, None)]
    reward_funcs = [str(folder), slow, Judge(), SlowJudge(), *paid]
    trainer = quick_trainer(tmp_path, QUICK.with_(steps=1), reward_funcs=reward_funcs)
    assert training.train(trainer).finished
    row = trainer.state.log_history[0]
    names = ("slow", "Judge", "SlowJudge", "mine", "mine_2", "mine_3", "reward-model")
    *means, silent, model = (row[f"rewards/{name}/mean"] for name in names)
    assert means == [1.0, 1.0, 1.0, 0.5, 3.0] and isinstance(model, float)
    assert silent is None or math.isnan(silent)
    assert row["reward"] == pytest.approx(6.5 + model) and 0 <= row[training.WORKED] <= 1


def test_a_step_in_which_no_reward_has_an_opinion_is_no_crash(tmp_path):
    live = definitions("05_grpo_training", "LiveHistory").LiveHistory(print)
    silent = {"reward_funcs": partial(mine, pays=None), "callbacks": [live]}
    assert training.train(quick_trainer(tmp_path, QUICK.with_(steps=2), **silent)).finished


def test_end_tokens_and_template_are_those_of_the_model_in_training_too(tmp_path):
    model, tokenizer = models.load_policy(QUICK)
    model.generation_config.eos_token_id = ends = [tokenizer.eos_token_id, tokenizer("12 + 3")["input_ids"][1]]
    questions, seen = data.load_task(QUICK, "train", 64), []

    def look(completions, completion_ids, **kwargs):
        seen.extend(completion_ids)
        return [1.0] * len(completions)

    for sharing in (True, False):
        seen.clear()
        profile = QUICK.with_(steps=1, shared_prompts=sharing, max_completion_length=40)
        trainer = training.make_trainer(profile, copy.deepcopy(model), tokenizer, questions, tmp_path, [look])
        training.train(trainer)
        assert trainer.eos_token_ids == models.end_ids(model, tokenizer) == ends
        assert len(seen) == 8 and any(ids[-1] == ends[1] for ids in seen)
        assert not any(set(ids[:-1]) & set(ends) for ids in seen)


QUESTION = {"question": "?", "prompt": [{"role": "user", "content": "?"}], "answer": "1"}


@pytest.mark.parametrize(
    ("change", "options", "said"),
    [
        ({"completions": "x"}, {}, "dataset has a column 'completions'"), ({"prompt": None}, {}, "no column 'prompt'"),
        ({"answer": None}, {}, "no column 'answer'"), ({"answer": "Paris"}, {}, "gold answer 'Paris'"),
        ({"answer": "Paris"}, {"reward_funcs": mine}, None),  # for a reward that reads words
        ({}, {"reward_funcs": []}, "no reward"), ({}, {"temperature": 0.0}, "temperature=0.0"),
        ({}, {"chat_template_kwargs": {"enable_thinking": False}}, "chat_template_kwargs"),
        ({}, {"gradient_checkpointing_kwargs": True}, "gradient_checkpointing_kwargs=True: it is called activation_"),
        ({}, {"profile": QUICK.with_(lora_targets=("q_proj", "query"))}, "'query'"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_is_refused_before_it_begins(change, options, said, tmp_path):
    columns = {name: [value] * 16 for name, value in (QUESTION | change).items() if value is not None}
    questions = Dataset.from_dict(columns)
    policy, profile = models.load_policy(QUICK), options.pop("profile", QUICK)
    with pytest.raises(ValueError, match=re.escape(said)) if said else contextlib.nullcontext():
        training.make_trainer(profile, *policy, questions, tmp_path, **options)


@pytest.mark.parametrize("templated", [True, False])
def test_plain_strings_for_prompts_train_and_a_missing_template_is_told(templated, tmp_path, capsys):
    (model, tokenizer), questions = models.load_policy(QUICK), data.load_task(QUICK, "train", 16)
    texts = tokenizer.apply_chat_template(list(questions["prompt"]), tokenize=False, add_generation_prompt=True)
    texts = texts if templated else list(questions["question"])
    questions = questions.remove_columns("prompt").add_column("prompt", texts)
    training.train(training.make_trainer(QUICK.with_(steps=1), model, tokenizer, questions, tmp_path))
    assert ("never end its turn" in capsys.readouterr().out) != templated


def test_the_share_of_worked_replies_is_logged_beside_the_first_reward():
    logged = []
    first, second = training.watched_and_checked([mine, slow])
    texts = ["6 * 12 = 72", "Easy. 72", "1 + 1 = 2", "no"]
    assert first(completions=texts, log_metric=lambda *metric: logged.append(metric)) == [1.0] * 4
    assert logged == [("completions/worked", 0.5)]
    assert first(completions=texts) == [1.0] * 4 and len(logged) == 1
    assert (first.__name__, second.__name__) == ("mine", "slow")


def test_what_is_no_prompt_is_refused_with_its_row_and_questions_of_another_type_with_the_way_to_make_them(tmp_path):
    ask = [{"role": "user", "content": "6 * 12?"}]
    for good, bad in (("6 * 12?", ""), (ask, []), (ask, [{"role": "user", "content": None}])):
        with pytest.raises(ValueError, match="prompt in row 1 is .*role and content"):
            training.check_questions(QUICK, Dataset.from_list([{"prompt": good}, {"prompt": bad}]))
    for kind in (list, Dataset.to_iterable_dataset):
        questions = kind(data.load_task(QUICK, "train", 64))
        with pytest.raises(ValueError, match=f"type {type(questions).__name__}: make a Dataset"):
            training.make_trainer(QUICK, None, None, questions, tmp_path)


def test_the_same_training_twice_is_the_same_to_the_last_bit_and_leaves_the_policy_ready_to_generate(tmp_path):
    runs, handler = [], signal.getsignal(signal.SIGINT)
    for name in ("once", "again"):
        trainer = quick_trainer(tmp_path / name, QUICK.with_(batch=32, steps=4))
        training.train(trainer)
        state = {k: v.clone() for k, v in trainer.model.state_dict().items() if "lora" in k}
        runs.append(([row.get("grad_norm") for row in trainer.state.log_history], state))
    assert runs[0][0] == runs[1][0]
    assert all(torch.equal(runs[1][1][k], v) for k, v in runs[0][1].items())
    assert not torch.are_deterministic_algorithms_enabled() and signal.getsignal(signal.SIGINT) is handler
    assert not trainer.model.training and trainer.model.config.use_cache


def test_the_article_profile_is_the_articles_configuration():
    config = training.grpo_config(ARTICLE, "unused")
    assert (config.learning_rate, config.adam_beta2, config.weight_decay) == (5e-6, 0.99, 0.1)
    assert (config.per_device_train_batch_size, config.gradient_accumulation_steps, config.num_generations) == (4, 2, 4)
    assert (config.max_grad_norm, config.lr_scheduler_type, config.max_completion_length) == (0.1, "cosine", 512)
    assert models.lora_config(ARTICLE).lora_dropout == 0.05
