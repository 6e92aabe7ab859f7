"""More than one process: step arithmetic, memory, configuration files, and two processes that do what one does; and a
sampler that differs from the trainer."""

import os
import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import nbformat
import pandas as pd
import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from datasets import load_dataset
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from trl import GRPOTrainer
from trl.scripts.grpo import make_parser

from grpo_helpers import data, evaluation, models, rewards, training
from grpo_helpers.lessons import memory, scaling
from grpo_helpers.lessons.grids import run_cell
from grpo_helpers.profiles import DATA, ROOT, T4, TINY
from record import mismatch

from .cells import definitions
from .test_objective import batch, trained, with_gradient

CONFIGS = sorted((DATA / "configs").glob("*.yaml"))
RUNS = [path for path in CONFIGS if path.stem != "two_machines"]
taught = definitions("09_scaling_out", "Step", "SLICED", "per_process", "QWEN25_7B", "read_config", "correction")
FULL = memory.plan(T4.with_(dtype="bfloat16"), memory.QWEN25_15B, trainable="full", on_gpu=True)

small = st.integers(1, 12)


# --- the arithmetic of a step ---


@given(small, small, small, st.integers(2, 12))
def test_a_step_is_whole_groups_or_an_error_whose_remedies_work(processes, batch, accumulation, group):
    try:
        step = taught.Step(processes, batch, accumulation, group)
    except ValueError as error:
        assert processes * batch * accumulation % group
        fits = [int(n) for n in re.search(r"take \[(.*?)\]", str(error))[1].split(",") if n]
        for other in fits:
            assert taught.Step(processes, batch, accumulation, other).num_generations == other
    else:
        assert step.prompts * group == step.completions == processes * batch * accumulation


# --- memory ---


@pytest.mark.parametrize("engine", taught.SLICED)
def test_one_process_keeps_everything_and_slices_of_all_are_the_whole(engine):
    expected = FULL.table.drop(columns="evaluation")
    pd.testing.assert_frame_equal(taught.per_process(FULL, engine, 1), expected)
    table = taught.per_process(FULL, engine, 8)
    for part in ("weights", "gradients", "optimizer"):
        share = 8 if part in taught.SLICED[engine] else 1
        assert share * table.loc[part, "optimizer step"] == pytest.approx(FULL.table.loc[part, "optimizer step"])
    others = [name for name in table.index if name not in taught.SLICED["ZeRO-3"]]
    pd.testing.assert_frame_equal(table.loc[others], expected.loc[others])


def test_zero_3_puts_all_weights_together_to_generate_and_fsdp_a_layer():
    together = taught.per_process(FULL, "ZeRO-3", 8) - taught.per_process(FULL, "FSDP", 8)
    assert together.loc["weights", "generation"] > 1.9 * FULL.shape.parameters / 1e9  # 2 bytes, less one layer
    assert together.drop(columns="generation").abs().max().max() == 0


def test_the_larger_model_is_the_published_one():
    assert taught.QWEN25_7B.parameters == 7_615_616_512  # Qwen/Qwen2.5-7B, "num_params" of its safetensors


# --- configuration files ---


def parsed(*args):
    """The dataclasses of `trl grpo`, and what it hands on to `accelerate launch`; no GPU is needed to parse."""
    parser = make_parser(prog="trl grpo")
    *classes, from_file, from_line = parser.parse_args_and_config(
        [*args, "--use_cpu", "true"], return_remaining_strings=True, separate_remaining_strings=True
    )
    return classes, from_file + from_line


def launched(remaining):
    """`accelerate launch` reads the rest, or exits: its own parser refuses what it does not know."""
    rest = ["--config_file" if word == "--accelerate_config" else word for word in remaining]
    return launch_command_parser().parse_args([*rest, "script.py"])


@pytest.fixture
def in_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("path", RUNS, ids=lambda p: p.stem)
def test_a_configuration_is_understood_and_the_numbers_in_its_comment_are_its_own_and_the_planners(path, in_root):
    (script, training, model, _), remaining = parsed("--config", str(path))
    arguments = launched(remaining)
    assert set(remaining[::2]) <= {"--num_processes", "--accelerate_config"}
    assert script.reward_funcs == [f"grpo_helpers.rewards.{f.__name__}" for f in rewards.REWARD_FUNCS]
    assert script.dataset_name.startswith("outputs/prepared/")
    text = path.read_text(encoding="utf-8")
    config = yaml.safe_load(text)
    assert training.num_generations == config["num_generations"]
    assert training.learning_rate == config["learning_rate"] and isinstance(config["learning_rate"], float)
    assert model.use_peft is config.get("use_peft", False)

    comment = r"(\d+) process(?:es)? × batch (\d+) × accumulation (\d+) / (\d+) in a group = (\d+) prom"
    *numbers, prompts = map(int, re.search(comment, text).groups())
    if path.stem == "cpu":
        processes = int(arguments.num_processes)
    else:
        step, _, table = taught.read_config(path)
        processes, said = step.processes, re.search(r"memory of each GPU by the planner: ([\d.]+) GB", text)
        assert float(said[1]) == pytest.approx(table.sum().max(), abs=0.051)
    batch, accumulation = training.per_device_train_batch_size, training.gradient_accumulation_steps
    assert numbers == [processes, batch, accumulation, training.num_generations]
    assert taught.Step(*numbers).prompts == prompts


def test_eight_gpus_take_the_step_of_one():
    texts = [(DATA / "configs" / name).read_text(encoding="utf-8") for name in ("1_gpu.yaml", "8_gpus.yaml")]
    first, second = map(yaml.safe_load, texts)
    assert first.keys() == second.keys()
    differ = {name for name in first if first[name] != second[name]}
    assert differ == {"gradient_accumulation_steps", "accelerate_config", "output_dir"}


@pytest.mark.parametrize(
    ("name", "engine", "processes"),
    [("single_gpu", "DDP", 1), ("multi_gpu", "DDP", 8), ("zero2", "ZeRO-2", 8), ("fsdp1", "FSDP", 8)],
)
def test_engine_and_processes_are_those_of_the_file_it_names(name, engine, processes, tmp_path):
    config = yaml.safe_load((DATA / "configs" / "8_gpus.yaml").read_text(encoding="utf-8"))
    (tmp_path / "new.yaml").write_text(yaml.safe_dump(config | {"accelerate_config": name}), encoding="utf-8")
    step, found, _ = taught.read_config(tmp_path / "new.yaml")
    assert (found, step.processes) == (engine, processes)


def test_the_file_for_two_machines_is_trls_own_for_more_machines(in_root):
    ours = DATA / "configs" / "two_machines.yaml"
    load_config_from_file(str(ours))
    shipped = files("trl.accelerate_configs") / "fsdp2.yaml"
    expected = yaml.safe_load(shipped.read_text()) | {"num_machines": 2, "num_processes": 16}
    assert yaml.safe_load(ours.read_text(encoding="utf-8")) == expected
    comments = (DATA / "configs" / "16_gpus.yaml").read_text(encoding="utf-8")
    arguments = launched(parsed(*re.search(r"trl grpo (--config .*)", comments)[1].split())[1])
    assert (arguments.machine_rank, arguments.main_process_ip, arguments.main_process_port) == (0, "10.0.0.1", 29500)
    assert Path(arguments.config_file).resolve() == ours


def test_the_commands_in_the_notebook_are_understood(in_root):
    notebook = nbformat.read(ROOT / "notebooks" / "09_scaling_out.ipynb", as_version=4)
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown").replace("\\\n", " ")
    commands = re.findall(r"^(?:CUDA_VISIBLE_DEVICES=\S+ )?trl grpo (.*)$", text, re.MULTILINE)
    read = [parsed(*command.split()) for command in commands]
    launches = [launched(remaining) for _, remaining in read]
    assert [(a.machine_rank, a.num_processes) for a in launches] == [(0, None), (1, None), (None, 7)]
    (_, training, *_), _ = read[-1]
    assert training.use_vllm and training.vllm_mode == "server"


# --- questions on disk ---


def test_prepared_questions_are_what_trl_loads(tmp_path):
    for longest in (256, 65):
        profile = TINY.with_(max_samples=20, max_prompt_length=longest)
        folder = scaling.prepare(profile, tmp_path / "new" / str(longest))
        dataset = load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
        assert len(dataset) == 20 if longest == 256 else 0 < len(dataset) < 20, "long prompts are left out"
        assert {"prompt", "answer"} <= set(dataset.column_names)
        assert [message["role"] for message in dataset[0]["prompt"]] == ["system", "user"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "new", "--batch", "3"], "batch=3"), (["train", "new", "--batch", "0"], "batch=0"),
        (["train", "new", "--steps", "0"], "steps=0"), (["train", "new", "--loss_type", "odd"], "odd"),
        (["train", "a file"], "a file"), (["prepare", "a file"], "a file"),
    ],
)  # fmt: skip
def test_mistakes_on_the_command_line_are_named(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a file").write_text("mine")
    monkeypatch.setattr(sys, "argv", ["scaling", *arguments])
    assert scaling.main() == 2
    assert message in capsys.readouterr().err and (tmp_path / "a file").read_text() == "mine"


# --- completions that do not depend on the process ---


@pytest.fixture(scope="module")
def policy():
    model, tokenizer = models.load_policy(TINY)
    return model.to("cpu", torch.float64), tokenizer


def rollout(policy, prompts, rank=0, seed=42, step=0, temperature=1.0, length=24):
    model, tokenizer = policy
    trainer = SimpleNamespace(
        processing_class=tokenizer,
        model=model,
        max_completion_length=length,
        temperature=temperature,
        accelerator=SimpleNamespace(process_index=rank),
        args=SimpleNamespace(seed=seed),
        state=SimpleNamespace(global_step=step),
    )
    return scaling.rank_free_rollout(prompts, trainer)["completion_ids"]


@pytest.fixture(scope="module")
def prompts():
    return [prompt for prompt in data.load_task(TINY, "train", 3)["prompt"] for _ in range(4)]


def test_two_halves_are_the_whole_and_another_place_seed_or_step_draws_anew(policy, prompts):
    whole = rollout(policy, prompts)
    assert whole == rollout(policy, prompts)
    assert whole == rollout(policy, prompts[:6]) + rollout(policy, prompts[6:], rank=1)
    assert len({tuple(row) for row in whole[:4]}) > 1, "the group's completions are all alike"
    for change in ({"rank": 1}, {"seed": 43}, {"step": 1}):
        assert rollout(policy, prompts, **change) != whole, change


def test_cold_draws_are_greedy(policy, prompts):
    model, tokenizer = policy
    greedy = evaluation.generate_predictions(model, tokenizer, prompts[::4], 24)
    rows = rollout(policy, prompts[::4], temperature=1e-4)
    assert all(row.count(tokenizer.eos_token_id) == (row[-1] == tokenizer.eos_token_id) for row in rows)
    texts = tokenizer.batch_decode(rows, skip_special_tokens=True)
    assert texts == [text for ((text, _),) in greedy]


def test_draws_follow_the_policys_probabilities(policy, prompts):
    model, tokenizer = policy
    ids = tokenizer.apply_chat_template([prompts[0]], add_generation_prompt=True, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        p = (model(input_ids=ids).logits[0, -1] / 1.5).softmax(dim=-1)
    n = 200
    drawn = torch.tensor([row[0] for row in rollout(policy, prompts[:1] * n, temperature=1.5, length=1)])
    share = torch.bincount(drawn, minlength=len(p)) / n
    assert (p > 0.05).sum() >= 2, "this prompt does not test sampling"
    assert ((share - p).abs() < 5 * (p * (1 - p) / n).sqrt() + 2 / n).all()


# --- two processes ---


@pytest.mark.parametrize(("processes", "expected"), [("1", "SharedPromptTrainer"), ("2", "GRPOTrainer")])
def test_prompts_are_shared_within_one_process_only(processes, expected, policy, tmp_path, monkeypatch):
    """The shortcut goes round DDP's forward pass: with several processes gradients would silently not be averaged."""
    trainers = {name: MagicMock() for name in ("SharedPromptTrainer", "GRPOTrainer")}
    for name, trainer in trainers.items():
        monkeypatch.setattr(training, name, trainer)
    monkeypatch.setattr(training, "grpo_config", lambda *args, **kwargs: None)
    monkeypatch.setenv("WORLD_SIZE", processes)
    training.make_trainer(TINY, *policy, data.load_task(TINY, "train", 8), tmp_path)
    assert [name for name, trainer in trainers.items() if trainer.called] == [expected]


@pytest.mark.trains
def test_two_processes_do_what_one_does(tmp_path):
    """The same rewards; the same weights within 1e-5, where training moved them by more than 1e-3."""
    scaling.train(tmp_path / "one", batch=32, steps=2)
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    command += ["-m", "grpo_helpers.lessons.scaling", "train", str(tmp_path / "two"), "--batch", "16", "--steps", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr[-3000:]

    first, second = (load_file(tmp_path / "two" / f"rank-{rank}.safetensors") for rank in (0, 1))
    alone = load_file(tmp_path / "one" / "rank-0.safetensors")
    assert alone.keys() == first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first), "the processes went apart"
    assert max((alone[name] - first[name]).abs().max() for name in alone) < 1e-5
    assert max(value.abs().max() for name, value in alone.items() if "lora_B" in name) > 1e-3

    logs = [pd.read_csv(tmp_path / name) for name in ("one/history-0.csv", "two/history-0.csv", "two/history-1.csv")]
    same = [c for c in logs[0] if c.startswith(("reward", "completions/", "num_tokens", "frac_reward"))]
    assert len(logs[0]) == 2 and len(same) > 10
    for other in logs[1:]:
        pd.testing.assert_frame_equal(logs[0][same], other[same], rtol=1e-6)
        assert (logs[0]["grad_norm"] - other["grad_norm"]).abs().max() < 1e-6


# --- a sampler that differs from the trainer ---


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("low", "high"), [(None, 3.0), (0.7, 1.4), (0.7, None)])
@pytest.mark.parametrize("mode", ["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"])
def test_the_correction_by_hand_is_trls_and_weights_the_loss(mode, low, high, monkeypatch):
    """TRL computes it for completions that come with log-probabilities, as if vLLM had written them."""
    names = ("mode", "clip_min", "clip_max")
    options = {f"vllm_importance_sampling_{name}": x for name, x in zip(names, (mode, low, high), strict=True)}
    trainer, b = trained(GRPOTrainer, tuple(options.items())), batch()
    lengths = b["completion_mask"].sum(dim=1).clamp(min=1).tolist()
    ids, logps = (b[name].tolist() for name in ("completion_ids", "old_per_token_logps"))
    ids, logps = ([row[:n] for row, n in zip(rows, lengths, strict=True)] for rows in (ids, logps))
    generated = b["prompt_ids"].tolist(), ids, None, [""] * len(ids), logps, {}, None, []
    monkeypatch.setattr(trainer, "use_vllm", True)
    monkeypatch.setattr(trainer, "_generate", lambda prompts: generated)
    found = trainer._generate_and_score_completions([{"prompt": "one"}] * len(ids))
    old, mask = found["old_per_token_logps"], found["completion_mask"]
    weights = taught.correction(old, found["sampling_per_token_logps"], mask, mode, low or 0.0, high or float("inf"))
    torch.testing.assert_close(found["importance_sampling_ratio"], weights)
    assert (weights == 0).any() == ("mask" in mode) and weights.unique().numel() > 2

    found["advantages"] = b["advantages"]
    whole = (torch.cat([found[f"prompt_{part}"], found[f"completion_{part}"]], dim=1) for part in ("ids", "mask"))
    now, *_ = trainer._get_per_token_logps_and_entropies(trainer.model, *whole, mask.shape[1])
    value = (now - old).exp() * b["advantages"][:, None] * weights * mask
    by_hand = with_gradient(-value.sum() / mask.sum(), trainer.model)
    torch.testing.assert_close(with_gradient(trainer._compute_loss(trainer.model, found), trainer.model), by_hand)


@pytest.mark.trains
@pytest.mark.parametrize("label", ["float32", "3 bits", "3 bits, completions masked"])
def test_a_rounded_copy_samples_and_trl_corrects_what_it_is_asked_to(label):
    trls = ["sampling/sampling_logp_difference/mean", "sampling/importance_sampling_ratio/max"]
    setting = mismatch.SETTINGS[label]._replace(logged=(*mismatch.DRIFT, *trls))
    profile = TINY.with_(batch=16, max_completion_length=12, steps=2, eval_questions=4)
    history = pd.DataFrame(run_cell(profile, setting, seed=3, points=1)["history"])
    token, completion, beyond = history[[*mismatch.DRIFT]].to_numpy().T
    if label == "float32":
        assert (completion < 1e-4).all() and (beyond == 0).all()
    else:
        assert (token > 0.01).all() and (completion > 3 * token).all()
    if "masked" in label:
        assert history[trls[0]].tolist() == pytest.approx(token.tolist(), rel=0.01)
        assert (history[trls[1]] <= mismatch.CAP).all()
    else:
        assert history[trls].isna().all(axis=None)
