"""The T4 path, rehearsed without a T4: the main job with the profile's own settings, notebooks, planted mistakes."""

import contextlib
import io
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import warnings
from concurrent.futures import ProcessPoolExecutor
from unittest import mock

import nbformat
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from grpo_helpers import models, profiles, records, run, training
from grpo_helpers.fast import sampling
from grpo_helpers.ledger import Ledger
from grpo_helpers.profiles import ALL_LINEAR, ATTENTION, T4, T4_FULL, TINY

from .pretended_t4 import pretended
from .tools import gpu_check

# The profile's settings on the tiny policy and its task, with fewer and shorter completions.
SMALLER = {name: getattr(TINY, name) for name in ("model", "revision", "task", "problem_steps", "shots")}
SMALLER |= {"batch": T4.num_generations // T4.accumulation, "max_completion_length": 24, "max_samples": 32}
REHEARSED = T4.with_(**SMALLER, steps=2, save_steps=1, eval_questions=2)

# Libraries remember what machine they found, so a rehearsal has a process of its own, forked after the imports.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([__name__])


def in_its_own_process(function, *args):
    with ProcessPoolExecutor(1, mp_context=PROCESSES) as pool:
        return pool.submit(function, *args).result()


class Watch(TrainerCallback):
    """After each step: what the policy's numbers are and where, and the loss scale."""

    def __init__(self):
        self.numbers, self.scales = set(), []

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.numbers |= {(p.requires_grad, str(p.dtype), str(p.device)) for p in model.parameters()}
        scaler = self.trainer.accelerator.scaler
        self.scales.append(scaler.get_scale() if scaler else None)


def main_job(output, profile, resume=False):
    """`run.run`, watched."""
    watch, make = Watch(), training.make_trainer

    def make_trainer(*args, **kwargs):
        watch.trainer = make(*args, **kwargs)
        watch.trainer.add_callback(watch)
        return watch.trainer

    with (
        mock.patch.object(training, "make_trainer", make_trainer),
        contextlib.redirect_stdout(io.StringIO()) as printed,
        warnings.catch_warnings(record=True) as warned,
    ):
        run.run(profile, output=output, resume=resume)
    loaded = models.load_policy(profile)[0].state_dict()
    after = models.causal_lm(watch.trainer.model).state_dict()
    after = {name.replace("base_layer.", ""): value for name, value in after.items() if "lora_" not in name}
    return {
        "printed": printed.getvalue(),
        "warned": {str(w.message) for w in warned if w.category is FutureWarning},
        "numbers": watch.numbers, "scales": watch.scales,
        "checkpointing": watch.trainer.args.activation_checkpointing,
        "weights as before": after.keys() == loaded.keys() and all(torch.equal(after[k], loaded[k]) for k in loaded),
    }  # fmt: skip


def on_a_t4(output):
    """A run; its newest checkpoint damaged and the run resumed; that one, whole, resumed for a step more."""
    with pretended():
        jobs = [main_job(output, REHEARSED)]
        shutil.copytree(output, output.with_name("straight"))
        scaler = output / "checkpoints" / "checkpoint-2" / "scaler.pt"
        scaler.write_bytes(scaler.read_bytes()[:100])
        jobs.append(main_job(output, REHEARSED, resume=True))
        jobs.append(main_job(output, REHEARSED.with_(steps=3), resume=True))
    return jobs


def checked():
    """gpu-check's steps, the first lost to overflow: its loss is scaled by more than float16 can bear."""
    attach = Ledger.attach

    def overflowing(ledger, trainer):
        attach(ledger, trainer)
        trainer.accelerator.scaler._init_scale = 2.0**40

    with pretended(), mock.patch.object(Ledger, "attach", overflowing):
        return gpu_check.check(REHEARSED.with_(eval_batch=2), random=False, steps=1, tokens=4)


@pytest.fixture(scope="module")
def t4(tmp_path_factory):
    """The folder of the resumed runs, beside that of the straight one, and what each did."""
    output = tmp_path_factory.mktemp("t4") / "run"
    return output, in_its_own_process(on_a_t4, output)


@pytest.mark.trains
def test_on_a_t4_weights_are_float16_adapters_float32_the_loss_is_scaled_and_no_step_warns(t4):
    for job in t4[1]:
        assert job["numbers"] == {(False, "torch.float16", "cuda:0"), (True, "torch.float32", "cuda:0")}
        assert job["checkpointing"] and job["weights as before"] and job["warned"] == set()
        assert all(1 <= scale <= 2.0**16 for scale in job["scales"])
    assert [len(job["scales"]) for job in t4[1]] == [2, 1, 1]


@pytest.mark.trains
def test_a_run_records_what_it_took_of_the_gpu_for_the_steps_that_it_took_itself(t4):
    for folder, steps, scales in ((t4[0].with_name("straight"), 2, t4[1][0]["scales"]), (t4[0], 1, t4[1][2]["scales"])):
        facts = json.loads((folder / "run.json").read_text())
        gpu = facts["gpu"]
        assert facts["hardware"].startswith("Tesla T4") and gpu["card"] == "Tesla T4" and gpu["memory_gb"] == 15.8
        assert gpu["driver"] and 0 < gpu["largest_activation"] < 65504
        assert (gpu["steps"], gpu["loss_scale"], gpu["steps_lost_to_overflow"]) == (steps, scales[-1], 0)
        batches = steps * REHEARSED.accumulation
        calls = {"generation": steps, "scoring": batches, "backward": batches, "optimizer step": steps}
        assert {name: phase["calls"] for name, phase in gpu["phases"].items()} == calls
        assert gpu["seconds_a_step"].keys() == calls.keys() and all(s > 0 for s in gpu["seconds_a_step"].values())


@pytest.mark.trains
def test_gpu_check_measures_every_phase_and_sets_the_plan_beside_it():
    found = in_its_own_process(checked)
    assert found["loss_scale"] == 2.0**39 and found["steps"] == found["steps_lost_to_overflow"] == 1
    assert 0 < found["largest_activation"] < 65504
    table = gpu_check.shown(found)
    assert set(table.index) == {"evaluation", "generation", "scoring", "backward", "optimizer step"}
    assert (table[["seconds", "planned_gb"]] > 0).all(axis=None)


@pytest.mark.trains
def test_the_adapter_moves_in_every_step_that_is_not_tied(t4):
    history = pd.read_csv(t4[0] / "history.csv")
    assert list(history["step"]) == [1, 2, 3]
    assert (history["learning_rate"] == T4.learning_rate).all()  # no step is spent on a warm-up
    assert (history["grad_norm"] > 0).equals(history["frac_reward_zero_std"] < 1) and (history["grad_norm"] > 0).any()
    adapter = load_file(t4[0] / "adapter" / "adapter_model.safetensors")
    assert all(value.isfinite().all() for value in adapter.values())
    assert all(value.any() for name, value in adapter.items() if "lora_B" in name)  # where it began at 0


@pytest.mark.trains
def test_a_damaged_scaler_is_passed_over_and_the_resumed_run_is_the_straight_one(t4):
    output, (_, damaged, whole) = t4
    straight = output.with_name("straight")
    assert "checkpoint-2 is not whole (scaler.pt" in damaged["printed"]
    assert "resuming from checkpoint-1" in damaged["printed"] and "resuming from checkpoint-2" in whole["printed"]
    resumed_log, log = (pd.read_csv(run / "history.csv").drop(columns="step_time") for run in (output, straight))
    pd.testing.assert_frame_equal(resumed_log.head(2), log, check_like=True)
    folders = [run / "checkpoints" / "checkpoint-2" for run in (output, straight)]
    resumed_scaler, scaler = (torch.load(folder / "scaler.pt") for folder in folders)
    assert resumed_scaler == scaler and scaler["scale"] == damaged["scales"][-1]
    resumed_weights, weights = ((folder / "adapter_model.safetensors").read_bytes() for folder in folders)
    assert resumed_weights == weights


def test_on_an_l4_it_is_bfloat16_and_nothing_is_scaled():
    with pretended("NVIDIA L4", (8, 9)):
        config = training.grpo_config(REHEARSED, "unused")
        assert models.load_policy(REHEARSED)[0].dtype == torch.bfloat16 and config.bf16 and not config.fp16


@pytest.mark.parametrize("profile", [T4, T4_FULL])
def test_the_rate_of_t4_learned_the_layout_in_half_of_its_steps_on_the_ladder(profile):
    targets = {ALL_LINEAR: "all linear", ATTENTION: "attention"}[profile.lora_targets]
    climb = records.load("ladder", "t4", 1)["curves"].groupby(["setting", "step"])["format"].mean()
    learned = climb[f"{targets}, {profile.learning_rate}"] > 0.95
    assert learned[learned].index[0] <= profile.steps / 2


# Mistakes that a GPU would refuse, planted into this package's and the libraries' code as it runs on the GPU.


def sample(model, tokenizer):
    ids = [tokenizer("At the market hats cost $12 a piece.")["input_ids"]]
    return sampling.sample_policy(model, tokenizer, ids, 3, num_generations=2, temperature=1.0)


def mask_left_on_the_cpu(model, tokenizer, monkeypatch):
    pad = sampling.pad_left
    monkeypatch.setattr(sampling, "pad_left", lambda *args: (pad(*args)[0], pad(*args)[1].cpu()))
    sample(model, tokenizer)


def float16_trained(*_):
    weight = torch.nn.Parameter(torch.ones(2, device="cuda", dtype=torch.float16))
    scaler, optimizer = torch.amp.GradScaler("cuda"), torch.optim.AdamW([weight])
    scaler.scale(weight.sum()).backward()
    scaler.step(optimizer)


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (mask_left_on_the_cpu, "cuda:0 and cpu"),
        (lambda model, tokenizer, _: model(**tokenizer("At the market", return_tensors="pt")), "cuda:0 and cpu"),
        (lambda model, *_: model.lm_head.weight.detach().float().numpy(), "can't convert cuda:0 device type tensor"),
        (float16_trained, "Attempting to unscale FP16 gradients"),
    ],
)
def test_a_planted_mistake_is_caught(mistake, message, monkeypatch):
    with pretended():
        model, tokenizer = models.load_policy(REHEARSED)
        sample(model, tokenizer)
        with pytest.raises((RuntimeError, TypeError, ValueError), match=message):
            mistake(model, tokenizer, monkeypatch)


def test_a_ledger_refuses_a_policy_that_overflows_and_claims_nothing_of_steps_it_did_not_see():
    with pretended():
        model, tokenizer = models.load_policy(REHEARSED)
        prompt = [{"role": "user", "content": "At the market hats cost $12 a piece."}]
        seen = Ledger(model, tokenizer, prompt).facts()["gpu"]
        assert seen["steps"] == 0 and not {"loss_scale", "steps_lost_to_overflow", "seconds_a_step"} & seen.keys()
        model.model.layers[1].mlp.down_proj.weight.data.mul_(1e5)
        with pytest.raises(ValueError, match="not finite in float16.*bfloat16"):
            Ledger(model, tokenizer, prompt)
    assert Ledger(model, tokenizer, prompt).facts() == {}


# Notebooks as code, in one process with one output folder: 06 takes the adapter that 05 leaves.

NOTEBOOKS = ("04", "05", "06") if os.environ.get("WEEKLY") else ("05",)
SHORT = {"max_completion_length": 12, "eval_questions": 8, "eval_batch": 8}
QUICK_T4 = REHEARSED.with_(**SHORT)
LONGER = {"max_completion_length": 24, "eval_questions": 16, "eval_batch": 16}
TINIES = {"04": TINY, "05": TINY.with_(**SHORT), "06": TINY.with_(**LONGER, steps=8)}  # 04: as it was recorded


def code_cells(number):
    (file,) = (profiles.ROOT / "notebooks").glob(f"{number}_*.ipynb")
    return [cell for cell in nbformat.read(file, as_version=4).cells if cell.cell_type == "code"]


def test_06_without_a_run_of_t4_names_the_folder_of_05_or_the_way_to_a_run(tmp_path, monkeypatch):
    monkeypatch.setenv("GRPO_OUTPUT", str(tmp_path))
    on_drive = '# os.environ["GRPO_OUTPUT"] = "/content/drive/MyDrive/grpo"\n'
    assert any(on_drive in cell.source for cell in code_cells("05"))
    (cell,) = (cell.source for cell in code_cells("06") if on_drive in cell.source)
    with pytest.raises(FileNotFoundError, match="'t4'.*run notebook 05"):
        exec(cell, {"profile": T4, "models": models})


def run_script(script, arguments, given):
    sys.argv, sys.stdin = ["-c", *arguments], io.StringIO(given)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(script, {"__name__": "__main__"})
    return printed.getvalue()


def run_notebooks(output, names):
    os.environ |= {"GRPO_PROFILE": "t4", "GRPO_OUTPUT": str(output), "MPLBACKEND": "Agg"}
    torch.set_num_threads(1)  # a fork of a process whose threads have worked can wait for them for ever
    start = subprocess.run

    def start_on_a_t4(command, input=None, **kwargs):
        """Python with a script: a fork of this process, which has a T4, and need not import anything."""
        if command[:2] != [sys.executable, "-c"]:
            return start(command, input=input, **kwargs)
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
            printed = pool.submit(run_script, command[2], command[3:], input).result()
        return subprocess.CompletedProcess(command, 0, printed, "")

    for name in names:
        soon_done = mock.patch.dict(profiles.PROFILES, {"t4": QUICK_T4, "tiny": TINIES[name]})
        with pretended(), soon_done, mock.patch("subprocess.run", start_on_a_t4):
            space = {"__name__": "__main__"}
            for cell in code_cells(name):
                exec(compile(cell.source, f"notebook {name}, cell {cell.id}", "exec"), space)


@pytest.mark.trains
def test_notebooks_run_on_a_t4(tmp_path):
    in_its_own_process(run_notebooks, tmp_path, NOTEBOOKS)
    facts = json.loads((tmp_path / "notebooks" / "t4-42" / "run.json").read_text())
    assert facts["outcome"] == "finished" and facts["hardware"].startswith("Tesla T4")
