"""The shipped policy: small, honest about what it is, and with something left to learn."""

import json
import runpy
import subprocess
import sys

import pytest
from safetensors.torch import load_file

from grpo_helpers import data, evaluation
from grpo_helpers.profiles import DATA, TINY
from grpo_helpers.prompts import SYSTEM_PROMPT

FOLDER = DATA / "tiny_policy"


def test_is_small_and_of_qwen2s_architecture(policy):
    model, _ = policy
    assert model.config.model_type == "qwen2"
    assert model.num_parameters() <= 2.5e6
    assert sum(p.stat().st_size for p in FOLDER.iterdir() if p.is_file()) <= 6e6
    assert "model.embed_tokens.weight" in load_file(FOLDER / "model.safetensors")


def test_every_digit_is_one_token_and_the_chat_template_is_chatml_and_reads_back(policy):
    _, tokenizer = policy
    tokens = tokenizer.convert_ids_to_tokens(tokenizer("72 is 1,234 or 3.50")["input_ids"])
    assert all(len(t.strip("Ġ")) == 1 for t in tokens if any(c.isdigit() for c in t))
    messages = [{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": "1 + 1?"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == (
        f"<|im_start|>system\n{SYSTEM_PROMPT}<|im_end|>\n<|im_start|>user\n1 + 1?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


@pytest.mark.trains
def test_by_habit_it_answers_from_the_gut_and_without_the_layout_and_it_can_work_a_problem_out(policy):
    questions = data.load_task(TINY, "test", TINY.eval_questions)
    longest, batch = TINY.max_completion_length, TINY.eval_batch
    replies = evaluation.evaluate(*policy, questions, longest, temperature=1.0, batch_size=batch)
    assert 0.1 <= replies["format"].mean() <= 0.5, "the layout must be there to be found, and be seen to rise"
    assert 0.05 <= replies["worked"].mean() <= 0.3
    worked, gut = (replies.loc[replies["worked"] == held, "flexible"] for held in (True, False))
    assert worked.mean() >= 0.3 and gut.mean() <= 0.1


@pytest.mark.trains
def test_pretraining_script_runs_and_the_habit_can_be_learned_anew(tmp_path, monkeypatch):
    script = [str(FOLDER / "pretrain.py"), "--skill", "64", "--habit", "64", "--batch", "16", "--output"]
    command = [sys.executable, *script, str(tmp_path / "whole")]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    assert json.loads((tmp_path / "whole" / "config.json").read_text())["model_type"] == "qwen2"
    assert (tmp_path / "whole" / "tokenizer.json").read_bytes() == (FOLDER / "tokenizer.json").read_bytes()
    again = [*script, str(tmp_path / "again"), "--skilled", str(tmp_path / "whole" / "skill")]
    monkeypatch.setattr(sys, "argv", again)
    runpy.run_path(again[0], run_name="__main__")
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "again", "whole/skill")]
    assert weights[0] == weights[1] != weights[2]
