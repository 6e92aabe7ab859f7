"""Notebook 00 as a reader uses it: its seven script cells, read from the notebook, as a file of their own."""

import json
import os
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import nbformat
import pytest

from grpo_helpers import data, profiles, prompts
from grpo_helpers.lessons.adversarial import SUITE
from grpo_helpers.profiles import DATA, ROOT

CONFIG = 5  # the cell of GRPOConfig
NOTEBOOK = nbformat.read(ROOT / "notebooks" / "00_first_run.ipynb", as_version=4)
CODE = [c.source for c in NOTEBOOK.cells if c.cell_type == "code" and c.id != "setup"]
PROSE = "\n".join(c.source for c in NOTEBOOK.cells if c.cell_type == "markdown")
SCRIPT = [source for source in CODE if source.startswith("# script")]

pytestmark = pytest.mark.filterwarnings("ignore")


def chosen(name: str) -> list[str]:
    """The script's cells with another name at the top, nothing else changed."""
    cells = [source.replace('NAME = "tiny"', f'NAME = "{name}"') for source in SCRIPT]
    assert sum(a != b for a, b in zip(cells, SCRIPT, strict=True)) == (name != "tiny")
    return cells


def run_cells(*cells: str, **names) -> SimpleNamespace:
    """What the cells define."""
    namespace = {"root": ROOT, **names}
    for cell in cells:
        exec(compile(cell, "00_first_run.ipynb", "exec"), namespace)
    return SimpleNamespace(**namespace)


def without_model(name: str) -> SimpleNamespace:
    """Recipe, chats and rewards, with the two lines that load questions and model left out."""
    cells = "\n".join(chosen(name)[:5]).splitlines()
    lines = [line for line in cells if not line.startswith(("questions =", "model ="))]
    assert len(lines) == len(cells) - 2
    return run_cells("\n".join(lines))


@pytest.fixture(scope="module")
def taught() -> SimpleNamespace:
    return without_model("tiny")


def as_completions(*texts: str) -> list[list[dict[str, str]]]:
    return [[{"role": "assistant", "content": text}] for text in texts]


def test_the_script_is_short_and_plain():
    assert [re.match(r"# script (\d): ", source)[1] for source in SCRIPT] == list("1234567")
    lines = [line.strip() for source in SCRIPT for line in source.splitlines()]
    assert len([line for line in lines if line and not line.startswith("#")]) <= 60
    for word in ("AutoModelForCausalLM", "load_dataset", "LoraConfig(", "GRPOConfig(", "GRPOTrainer(", ".train()"):
        assert any(word in source for source in SCRIPT), word
    assert not any(name in source for source in CODE for name in ("grpo_helpers", "hosted", "sys.path"))


@pytest.mark.trains
def test_as_a_file_it_trains_without_this_repository(tmp_path):
    for folder in ("tiny_policy", "word_problems"):
        shutil.copytree(DATA / folder, tmp_path / "data" / folder, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    no_helpers = 'import sys\nsys.modules["grpo_helpers"] = None  # an error to whoever imports it'
    script = "\n\n".join([no_helpers, 'root = "."', *SCRIPT])
    small = script.replace(" 64, 1, 80, 2e-3, 30)", " 8, 1, 16, 2e-3, 2)")  # one group a step, two steps
    (tmp_path / "first_run.py").write_text(small, encoding="utf-8")
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache"), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "first_run.py"]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | offline, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    left = tmp_path / "outputs" / "first_run" / "checkpoint-2"
    assert (left / "adapter_model.safetensors").is_file()
    assert json.loads((left / "trainer_state.json").read_text())["global_step"] == 2


@pytest.mark.parametrize("name", ["tiny", "small", "t4"])
def test_one_name_changes_the_whole_recipe_and_the_chat_is_the_one_of_the_series(name):
    shorter = {"shots": ("-", "*"), "num_generations": 8, "batch": 16, "learning_rate": 1.5e-4}
    fields, profile = {}, profiles.get_profile(name).with_(**(shorter if name == "small" else {}))
    recipe = run_cells(*chosen(name)[:2])
    run_cells(chosen(name)[CONFIG], **vars(recipe) | {"GRPOConfig": lambda **given: fields.update(given)})
    completions = fields["per_device_train_batch_size"] * fields["gradient_accumulation_steps"]
    assert completions == profile.batch * profile.accumulation and recipe.shots == len(profile.shots)
    assert completions % fields["num_generations"] == 0 and fields["num_generations"] == 8
    assert (fields["learning_rate"], recipe.dtype) == (profile.learning_rate, profile.dtype)
    assert (fields["fp16"], fields["bf16"]) == (recipe.dtype == "float16", recipe.dtype == "bfloat16")
    row, as_chat = data.word_problem_rows("train")[1], without_model(name).as_chat
    messages = prompts.build_messages(row["question"], prompts.SYSTEM_PROMPT, data.example_shots(profile.shots))
    made = as_chat(row)
    assert (made["prompt"], made["answer"]) == (messages, prompts.extract_hash_answer(row["answer"]))
    assert as_chat({"question": "How many?", "answer": "2 * 500 = 1000\n#### 1,000"})["answer"] == "1000"  # GSM8K's


# Right, and refused: the number is compared as text. Spelled otherwise than the gold answer it earns nothing.
SPELLED_OTHERWISE = {"answer with commas", "dollar sign", "decimal zeros", "whole as decimal", "typographic minus"}
SPELLED_OTHERWISE |= {"full stop", "percent sign"}


@pytest.mark.parametrize("case", SUITE, ids=lambda case: case.name)
def test_rewards_never_pay_for_a_cheat(taught, case):
    gold = taught.as_chat({"question": "", "answer": f"#### {case.gold}"})["answer"]
    (right,) = taught.correctness(as_completions(case.completion), [gold], prompts=[[]], step=1)
    (laid_out,) = taught.layout(as_completions(case.completion), answer=[gold], prompts=[[]])
    assert right == (case.correct and case.name not in SPELLED_OTHERWISE)
    assert laid_out == 0.5 * (case.strict and case.name != "markup inside reasoning")  # its < is taken for a tag


def test_each_completion_is_judged_by_its_own_answer_which_must_be_text(taught):
    replies = as_completions(*(prompts.XML_COT_FORMAT.format(reasoning="?", answer=n) for n in (-5, 5, "9.50")))
    assert taught.correctness(replies, answer=["-5", "-5", "9.50"]) == [1.0, 0.0, 1.0]
    assert taught.correctness(replies[:2], answer=[-5, 5]) == [0.0, 0.0], "as notebook 00 says of numbers"


def test_every_worked_answer_of_the_data_earns_all(taught):
    rows = [row for split in ("train", "test", "new_families") for row in data.word_problem_rows(split)]
    replies = as_completions(*(data.worked_reply(row["answer"]) for row in rows))
    gold = [taught.as_chat(row)["answer"] for row in rows]
    assert set(taught.correctness(replies, gold)) == {1.0} and set(taught.layout(replies)) == {0.5}


def test_a_batch_that_does_not_divide_fails_in_the_words_quoted():
    with pytest.raises(ValueError) as error:
        run_cells(*SCRIPT[:2], SCRIPT[CONFIG].replace("num_generations=8", "num_generations=6"))
    assert f"`{error.value}`" in PROSE


def shortened(tmp_path, *changes: tuple[str, str]) -> str:
    """The script with four tokens, one step and some other changes."""
    changes = [(" 80, 2e-3, 30)", " 4, 2e-3, 1)"), ('f"{root}/outputs/first_run"', repr(str(tmp_path))), *changes]
    script = "\n".join(SCRIPT)
    for old, new in changes:
        assert old in script
        script = script.replace(old, new)
    return script


@pytest.mark.trains
def test_a_wrong_reward_fails_in_the_words_quoted(tmp_path):
    for reward, quoted in (
        ("lambda completions, **kwargs: 1.0", "'float' object"),
        ("lambda completions: [1.0] * len(completions)", "unexpected keyword argument 'prompts'"),
    ):
        with pytest.raises(TypeError, match=quoted) as error:
            run_cells(shortened(tmp_path, ("[correctness, layout]", reward)))
        assert f"`{error.value}`" in PROSE or f"`{quoted}`" in PROSE


@pytest.mark.trains
def test_too_few_questions_train_nothing_and_say_nothing(tmp_path):
    few = ('train_dataset=questions["train"]', 'train_dataset=questions["train"].select(range(3))')
    assert run_cells(shortened(tmp_path, few)).trainer.state.global_step == 0
    assert "no error: `train()` returns at once, after 0 steps" in PROSE
