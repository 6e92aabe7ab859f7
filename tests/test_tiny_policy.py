"""The shipped policy: small, honest about what it is, and with something left to learn."""

import json
import subprocess
import sys

import pytest
from safetensors import safe_open

from grpo_helpers import data, evaluation, models
from grpo_helpers.profiles import DATA, TINY
from grpo_helpers.prompts import SYSTEM_PROMPT

FOLDER = DATA / "tiny_policy"


@pytest.fixture(scope="module")
def policy():
    return models.load_policy(TINY)


def test_is_small_and_of_qwen2s_architecture(policy):
    model, _ = policy
    assert model.config.model_type == "qwen2"
    assert model.num_parameters() <= 2.5e6
    assert sum(p.stat().st_size for p in FOLDER.iterdir() if p.is_file()) <= 6e6
    with safe_open(FOLDER / "model.safetensors", framework="pt") as weights:
        assert "model.embed_tokens.weight" in weights.keys()  # noqa: SIM118 (a safetensors file is no dict)


@pytest.mark.parametrize("number", ["7", "72", "1000", "3.50", "-45", "1,234"])
def test_every_digit_is_one_token(number, policy):
    _, tokenizer = policy
    tokens = tokenizer.convert_ids_to_tokens(tokenizer(f" {number}")["input_ids"])
    assert all(len(t.strip("Ġ")) == 1 for t in tokens if any(c.isdigit() for c in t))


def test_chat_template_is_chatml_and_reads_back(policy):
    _, tokenizer = policy
    messages = [{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": "1 + 1?"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == (
        f"<|im_start|>system\n{SYSTEM_PROMPT}<|im_end|>\n<|im_start|>user\n1 + 1?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_rarely_does_what_is_asked_although_it_can(policy):
    model, tokenizer = policy
    questions = data.load_task(TINY, "test")
    sampled = evaluation.evaluate(model, tokenizer, questions, TINY.max_completion_length, temperature=1.0)
    greedy = evaluation.evaluate(model, tokenizer, questions, TINY.max_completion_length)
    assert 0.10 <= sampled["strict"].mean() <= 0.25
    assert greedy["strict"].mean() <= 0.35
    assert greedy["flexible"].mean() >= 0.85


def test_pretraining_script_runs(tmp_path):
    script = [sys.executable, str(FOLDER / "pretrain.py"), "--examples", "256", "--output", str(tmp_path)]
    subprocess.run(script, check=True, capture_output=True, timeout=300)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "qwen2"
    assert (tmp_path / "tokenizer.json").read_bytes() == (FOLDER / "tokenizer.json").read_bytes()
