"""The word problems on disk, and both sources of questions: good input, and bad input named with its place."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from decimal import Decimal
from pathlib import Path
from unittest.mock import Mock

import pytest
from datasets import Dataset

from grpo_helpers import data, rewards
from grpo_helpers.profiles import DATA, PROFILES, TINY
from grpo_helpers.prompts import (
    SYSTEM_PROMPT,
    XML_COT_FORMAT,
    extract_hash_answer,
    last_number,
    parse_number,
    prompt_ids,
)

FOLDER = DATA / "word_problems"
SIZES = {"train": 2000, "test": 500, "new_families": 200}
NOTE = re.compile(r"<<([^<>]*)>>")
CALCULATION = re.compile(r"(-?[0-9.]+)([-+*/])(-?[0-9.]+)=(-?[0-9.]+)")
COLUMNS = ["question", "prompt", "answer"]
GOOD = {"question": "How many are 2 and 2?", "answer": "2 + 2 = <<2+2=4>>4\n#### 4"}


@pytest.fixture(scope="module")
def rows():
    return {split: data.word_problem_rows(split) for split in SIZES}


def gsm8k_like(folder, *answers):
    """A folder in GSM8K's form whose splits hold a question for each of `answers`."""
    lines = [json.dumps({"question": f"Question {i}?", "answer": answer}) for i, answer in enumerate(answers)]
    for split in ("train", "test"):
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def test_script_writes_the_committed_bytes_again(tmp_path):
    script = FOLDER / "make_word_problems.py"
    env = os.environ | {"PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, script, "--output", tmp_path], check=True, capture_output=True, env=env)
    for split in SIZES:
        assert (tmp_path / f"{split}.jsonl").read_bytes() == (FOLDER / f"{split}.jsonl").read_bytes(), split


def test_splits_have_their_sizes_no_question_twice_and_the_new_families_in_none_of_the_others(rows):
    every_row = sum(rows.values(), [])
    assert {split: len(found) for split, found in rows.items()} == SIZES
    assert len({row["question"] for row in every_row}) == len(every_row)
    families = {split: Counter(row["family"] for row in rows[split]) for split in rows}
    assert families["train"].keys() == families["test"].keys()
    assert families["new_families"].keys().isdisjoint(families["train"])
    assert len(families["train"]) >= 10 and min(families["train"].values()) >= 50
    for family in {row["family"] for row in every_row}:
        assert {row["steps"] for row in every_row if row["family"] == family} == {1, 2, 3}, family


def test_some_answers_are_hard_to_read_back(rows):
    for split in ("train", "test"):
        answers = [Decimal(extract_hash_answer(row["answer"])) for row in rows[split]]
        for hard in (lambda x: x >= 1000, lambda x: x < 0, lambda x: x != x.to_integral_value()):
            assert sum(map(hard, answers)) >= len(answers) / 50


def test_rows_have_gsm8k_form_and_every_line_is_true_and_uses_numbers_of_the_question_or_results(rows):
    operations = {"+": Decimal.__add__, "-": Decimal.__sub__, "*": Decimal.__mul__, "/": Decimal.__truediv__}
    for row in sum(rows.values(), []):
        assert {k: type(v) for k, v in row.items()} == {"question": str, "answer": str, "family": str, "steps": int}
        assert re.search(r"\n#### -?[0-9]+(\.[0-9]+)?\Z", row["answer"]) and row["answer"].count("####") == 1, row
        assert len(NOTE.findall(row["answer"])) == row["steps"], row
        known = {Decimal(n.replace(",", "")) for n in re.findall(r"[0-9][0-9,]*(?:\.[0-9]+)?", row["question"])}
        known.add(Decimal(2))  # "twice as old", the two sides of a rectangle
        for line in row["answer"].splitlines()[:-1]:
            a, sign, b, value = CALCULATION.fullmatch(NOTE.search(line)[1]).groups()
            assert re.fullmatch(rf"{re.escape(f'{a} {sign} {b} = ')}<<.*>>{re.escape(value)}( [a-z ]+)?", line), line
            assert operations[sign](Decimal(a), Decimal(b)) == Decimal(value), row
            assert {Decimal(a), Decimal(b)} <= known, row
            known.add(Decimal(value))
        assert value == extract_hash_answer(row["answer"]), row


def test_both_sources_give_question_prompt_and_answer_of_the_first_rows_or_of_all(tmp_path):
    ours, row = data.word_problems("train", 2), data.word_problem_rows("train")[0]
    assert ours[0] == {
        "question": row["question"],
        "prompt": [{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": row["question"]}],
        "answer": extract_hash_answer(row["answer"]),
    }
    assert ours["question"] == data.word_problems("train")["question"][:2]
    source = gsm8k_like(tmp_path, "#### 1", "1 + 1 = <<1+1=2>>2\n#### $1,002", "#### 3")
    theirs = data.get_gsm8k_questions("train", 2, source)
    assert theirs.features == ours.features and theirs.column_names == ours.column_names == COLUMNS
    assert theirs["answer"] == ["1", "1,002"]
    assert len(data.get_gsm8k_questions("test", None, source)) == len(data.get_gsm8k_questions("test", 99, source)) == 3


@pytest.mark.parametrize("load", [data.word_problems, data.get_gsm8k_questions])
def test_prompt_carries_system_prompt_and_shots_as_asked_and_no_questions_are_refused(tmp_path, load):
    source = {"source": gsm8k_like(tmp_path, "#### 1")} if load is data.get_gsm8k_questions else {}
    (messages,) = load("train", 1, **source, system_prompt=None, shots=[("1 + 1?", "2")])["prompt"]
    assert [m["role"] for m in messages] == ["user", "assistant", "user"]
    assert [m["content"] for m in messages[:2]] == ["1 + 1?", "2"]
    for count in (0, -1):  # not all but the last
        with pytest.raises(ValueError, match=f"max_samples={count}: at least 1"):
            load("train", count, **source)


@pytest.mark.parametrize(
    ("train", "test", "both"), [("abc", "def", 0), ("abc", "aad", 2), (["a  b\n"], [" a b", "ab"], 1)]
)
def test_questions_that_are_in_both_sets_are_counted(train, test, both):
    sets = [Dataset.from_dict({"question": list(questions)}) for questions in (train, test)]
    assert data.asked_in_both(*sets) == both


@pytest.mark.skipif(not os.environ.get("GSM8K_DIR"), reason="set GSM8K_DIR to a folder with both files")
@pytest.mark.parametrize(("split", "size"), [("train", 7473), ("test", 1319)])
def test_all_of_gsm8k_is_read_its_gold_answers_earn_full_marks_and_changed_ones_no_correctness(split, size):
    source = Path(os.environ["GSM8K_DIR"])
    dataset = data.get_gsm8k_questions(split, source=source)
    assert len(dataset) == size and dataset.features == data.word_problems("train", 1).features
    assert [p[-1]["content"] for p in dataset["prompt"]] == dataset["question"]
    golds, rows = dataset["answer"], data.read_jsonl(source / f"{split}.jsonl")
    for gold, row in zip(golds, rows, strict=True):
        assert last_number(row["answer"]) == last_number(f"It is {gold}.") == parse_number(gold) is not None, row

    def paid(func, answers):
        replies = [XML_COT_FORMAT.format(reasoning="worked out", answer=answer) for answer in answers]
        return set(func(completions=replies, answer=golds))

    for func in rewards.REWARD_FUNCS:
        assert paid(func, golds) == {rewards.MOST[func.__name__]}
    for change in (Decimal(1), Decimal(-1), Decimal("0.5")):
        others = [f"{parse_number(gold) + change:f}" for gold in golds]
        assert (paid(rewards.correctness_reward_func, others), paid(rewards.int_reward_func, others)) == ({0.0}, {0.5})


def test_hub_is_asked_for_gsm8k_at_a_pinned_commit_and_out_of_reach_both_ways_out_are_named(monkeypatch):
    load_dataset = Mock(return_value=Dataset.from_list([GOOD]))
    monkeypatch.setattr(data, "load_dataset", load_dataset)
    assert data.get_gsm8k_questions("train")["answer"] == ["4"]
    assert re.fullmatch("[0-9a-f]{40}", load_dataset.call_args.kwargs["revision"])
    load_dataset.side_effect = TimeoutError("no route to host")
    with pytest.raises(ConnectionError, match="(?s)openai/gsm8k.*source.*tiny"):
        data.get_gsm8k_questions("train")


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_loads_its_task(monkeypatch, tmp_path, name):
    profile = PROFILES[name]
    source = gsm8k_like(tmp_path, "#### 1", "#### 2") if profile.task == "gsm8k" else None
    dataset = data.load_task(profile, "train", 2, source)
    assert dataset.column_names == COLUMNS
    assert {len(p) for p in dataset["prompt"]} == {2 + 2 * len(profile.shots)}
    assert (dataset["answer"] == ["1", "2"]) == (profile.task == "gsm8k")


@pytest.mark.parametrize("operations", [(), ("-", "*"), ("+", "-", "*", "/", "below 0")])
def test_example_shots_are_right_in_format_and_of_the_operations_asked_for(operations):
    shots = data.example_shots(operations)
    found = {row["question"]: row for row in data.word_problem_rows("train", steps=[1])}
    calculations = [found[question]["answer"].split()[:3] for question, _ in shots]
    below = [extract_hash_answer(found[question]["answer"]).startswith("-") for question, _ in shots]
    assert ["below 0" if low else c[1] for low, c in zip(below, calculations, strict=True)] == list(operations)
    assert all(a != b for a, _, b in calculations), "two equal numbers do not show which one goes where"
    for question, reply in shots:
        assert rewards.has_strict_format(reply)
        assert rewards.is_correct(reply, extract_hash_answer(found[question]["answer"]))


def test_worked_reply_shows_the_steps_without_calculator_notes():
    text = data.worked_reply("6 * 2 = <<6*2=12>>12 eggs\n12 - 4 = <<12-4=8>>8 eggs\n#### 8")
    assert text == "<reasoning>\n6 * 2 = 12 eggs\n12 - 4 = 8 eggs\n</reasoning>\n<answer>\n8\n</answer>"


@pytest.mark.parametrize(
    "line",
    [
        b'{"question": "q", "answer": "a #### 1"',
        b'{"question": "q", "answer": "caf\xc3',  # cut off in a letter of two bytes
        b'{"question": "q", "answer": "#### 1"}{"question": "q"}',
        b'["q", "#### 1"]', b'{"question": "q", "answer": 4}', b'{"answer": "#### 1"}',
    ],
)  # fmt: skip
def test_broken_line_is_named_with_file_and_line(tmp_path, line):
    good = json.dumps(GOOD).encode() + b"\n"
    for number, before in {1: b"", 4: good + b"\n  \n", 6: good * 5}.items():
        (tmp_path / "train.jsonl").write_bytes(before + line)
        with pytest.raises(ValueError, match=re.escape(f"{tmp_path / 'train.jsonl'}, line {number}:")):
            data.get_gsm8k_questions("train", source=tmp_path)


@pytest.mark.parametrize("answer", ["no hashes 4", "####", "#### 4 eggs", "#### 1,00", "#### ²"])
def test_answer_without_a_number_is_named_with_its_row(tmp_path, answer):
    source = gsm8k_like(tmp_path, "#### 1", answer, "#### 3")
    with pytest.raises(ValueError, match=rf"row 2: .*{re.escape(repr(answer))}"):
        data.get_gsm8k_questions("train", source=source)


def test_a_file_that_is_missing_or_without_rows_is_named(tmp_path):
    (tmp_path / "test.jsonl").write_text(" \n\n\t\n", encoding="utf-8")
    for split, error in {"test": ValueError, "train": FileNotFoundError}.items():
        with pytest.raises(error, match=re.escape(str(tmp_path / f"{split}.jsonl"))):
            data.get_gsm8k_questions(split, source=tmp_path)


def test_line_endings_and_unicode_inside_texts_do_not_split_rows(tmp_path):
    rows = [GOOD, GOOD | {"question": "a\u2028b\u0085c \u2014 π?"}]
    for ending in ("\r\n", "\n\n"):
        text = "".join(json.dumps(row, ensure_ascii=False) + ending for row in rows)
        (tmp_path / "x.jsonl").write_bytes(text.encode())
        assert data.read_jsonl(tmp_path / "x.jsonl") == rows


def test_word_problems_have_the_steps_asked_for_and_what_is_unknown_is_named():
    rows = data.word_problem_rows("train", steps=(1, 2))
    assert {row["steps"] for row in rows} == {1, 2}
    assert data.word_problems("train", steps=(1, 2))["question"] == [r["question"] for r in rows]
    with pytest.raises(ValueError, match=re.escape("(4,)")):
        data.word_problems("train", steps=(4,))
    with pytest.raises(ValueError, match="operation '%'"):
        data.example_shots(["%"])
    with pytest.raises(ValueError, match="'poems'.*word_problems.*gsm8k"):
        data.load_task(TINY.with_(task="poems"), "train")


def test_prompts_over_the_limit_are_dropped_and_counted(policy):
    """At the limit itself test_models.py asks."""
    _, tokenizer = policy
    questions = [row["question"] for row in data.word_problem_rows("test")[:9]]
    prompts = [[{"role": "user", "content": question}] for question in questions]
    rows = Dataset.from_dict({"question": questions, "prompt": prompts, "answer": ["1"] * 9})
    lengths = list(map(len, prompt_ids(tokenizer, prompts)))
    limit = sorted(lengths)[4]
    kept, dropped = data.drop_long_prompts(rows, tokenizer, limit)
    assert kept["question"] == [q for q, n in zip(questions, lengths, strict=True) if n <= limit] and len(kept) < 9
    assert dropped == 9 - len(kept) and kept.column_names == COLUMNS
