"""The word problems on disk, and both sources of questions: good input, and bad input named with its place."""

import json
import os
import re
import subprocess
import sys
from collections import Counter, defaultdict
from decimal import Decimal
from pathlib import Path

import pytest
from datasets import Dataset

from grpo_helpers import data, rewards
from grpo_helpers.data import (
    asked_in_both,
    drop_long_prompts,
    example_shots,
    get_gsm8k_questions,
    load_task,
    read_jsonl,
    word_problem_rows,
    word_problems,
    worked_reply,
)
from grpo_helpers.profiles import DATA, PROFILES, SMALL, TINY
from grpo_helpers.prompts import SYSTEM_PROMPT, XML_COT_FORMAT, extract_hash_answer, last_number, parse_number

FOLDER = DATA / "word_problems"
SIZES = {"train": 2000, "test": 500, "new_families": 200}
NOTE = re.compile(r"<<([^<>]*)>>")
CALCULATION = re.compile(r"(-?[0-9.]+)([-+*/])(-?[0-9.]+)=(-?[0-9.]+)")
COLUMNS = ["question", "prompt", "answer"]
GOOD = {"question": "How many are 2 and 2?", "answer": "2 + 2 = <<2+2=4>>4\n#### 4"}


@pytest.fixture(scope="module")
def rows():
    return {split: word_problem_rows(split) for split in SIZES}


@pytest.fixture
def every_row(rows):
    return [row for split in rows.values() for row in split]


def gsm8k_like(folder, *answers):
    """A folder in GSM8K's form whose splits hold a question for each of `answers`."""
    lines = [json.dumps({"question": f"Question {i}?", "answer": answer}) for i, answer in enumerate(answers)]
    for split in ("train", "test"):
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


class WordTokenizer:
    """A word is a token; one more for the generation prompt."""

    def apply_chat_template(self, messages, tokenize, add_generation_prompt):
        assert (tokenize, add_generation_prompt) == (False, True)
        return " ".join([*(m["content"] for m in messages), "assistant:"])

    def __call__(self, texts, add_special_tokens):
        assert not add_special_tokens
        return {"input_ids": [text.split() for text in texts]}


# --- the word problems on disk ----------------------------------------------


def test_script_writes_the_committed_bytes_again(tmp_path):
    script = FOLDER / "make_word_problems.py"
    env = os.environ | {"PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, script, "--output", tmp_path], check=True, capture_output=True, env=env)
    for split in SIZES:
        assert (tmp_path / f"{split}.jsonl").read_bytes() == (FOLDER / f"{split}.jsonl").read_bytes(), split


def test_splits_have_their_sizes_and_no_question_twice(rows, every_row):
    assert {split: len(found) for split, found in rows.items()} == SIZES
    assert len({row["question"] for row in every_row}) == len(every_row)


def test_families_are_many_and_the_new_ones_not_in_training_or_test(rows):
    families = {split: Counter(row["family"] for row in rows[split]) for split in rows}
    assert families["train"].keys() == families["test"].keys()
    assert families["new_families"].keys().isdisjoint(families["train"])
    assert len(families["train"]) >= 10 and min(families["train"].values()) >= 50


def test_training_families_vary_in_wording_not_only_in_names_and_numbers(rows):
    questions = defaultdict(list)
    for row in rows["train"]:
        if row["steps"] == 1:
            questions[row["family"]].append(re.findall(r"[A-Za-z']+", row["question"]))
    for family, worded in questions.items():
        seen = Counter(word for words in worded for word in set(words))
        # Names and things come from pools of five or more, so what is left are the fixed words.
        wordings = {tuple(w for w in words if seen[w] > len(worded) / 4) for words in worded}
        assert len(wordings) >= 2, family


def test_one_two_and_three_steps_occur_in_every_family(every_row):
    steps = defaultdict(set)
    for row in every_row:
        steps[row["family"]].add(row["steps"])
    assert set(map(frozenset, steps.values())) == {frozenset({1, 2, 3})}


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize(
    "kind",
    [lambda x: x >= 1000, lambda x: x < 0, lambda x: x != x.to_integral_value()],
    ids=["≥ 1,000", "negative", "decimal"],
)
def test_some_answers_are_hard_to_read_back(rows, split, kind):
    answers = [Decimal(extract_hash_answer(row["answer"])) for row in rows[split]]
    assert sum(map(kind, answers)) >= len(answers) / 50


def test_rows_have_gsm8k_columns_and_form(every_row):
    for row in every_row:
        assert {k: type(v) for k, v in row.items()} == {"question": str, "answer": str, "family": str, "steps": int}
        assert re.search(r"\n#### -?[0-9]+(\.[0-9]+)?\Z", row["answer"]) and row["answer"].count("####") == 1, row
        assert len(NOTE.findall(row["answer"])) == row["steps"], row


def test_every_line_is_true_says_what_its_note_says_and_uses_numbers_of_the_question_or_results(every_row):
    operations = {"+": Decimal.__add__, "-": Decimal.__sub__, "*": Decimal.__mul__, "/": Decimal.__truediv__}
    for row in every_row:
        known = {Decimal(n.replace(",", "")) for n in re.findall(r"[0-9][0-9,]*(?:\.[0-9]+)?", row["question"])}
        known.add(Decimal(2))  # "twice as old", the two sides of a rectangle
        for line in row["answer"].splitlines()[:-1]:
            a, sign, b, value = CALCULATION.fullmatch(NOTE.search(line)[1]).groups()
            assert re.fullmatch(rf"{re.escape(f'{a} {sign} {b} = ')}<<.*>>{re.escape(value)}( [a-z ]+)?", line), line
            assert operations[sign](Decimal(a), Decimal(b)) == Decimal(value), row
            assert {Decimal(a), Decimal(b)} <= known, row
            known.add(Decimal(value))
        assert value == extract_hash_answer(row["answer"]), row


# --- both sources -----------------------------------------------------------


def test_both_sources_give_question_prompt_and_answer(tmp_path):
    ours, row = word_problems("train", 2), word_problem_rows("train")[0]
    assert ours[0] == {
        "question": row["question"],
        "prompt": [{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": row["question"]}],
        "answer": extract_hash_answer(row["answer"]),
    }
    theirs = get_gsm8k_questions("train", source=gsm8k_like(tmp_path, "#### 1", "1 + 1 = <<1+1=2>>2\n#### $1,002"))
    assert theirs.features == ours.features and theirs.column_names == ours.column_names == COLUMNS
    assert theirs["answer"] == ["1", "1,002"]


@pytest.mark.parametrize("load", [word_problems, get_gsm8k_questions])
def test_prompt_carries_system_prompt_and_shots_as_asked(tmp_path, load):
    source = {"source": gsm8k_like(tmp_path, "#### 1")} if load is get_gsm8k_questions else {}
    (messages,) = load("train", 1, **source, system_prompt=None, shots=[("1 + 1?", "2")])["prompt"]
    assert [m["role"] for m in messages] == ["user", "assistant", "user"]
    assert [m["content"] for m in messages[:2]] == ["1 + 1?", "2"]


def test_max_samples_takes_the_first_and_none_takes_all(tmp_path):
    source = gsm8k_like(tmp_path, "#### 1", "#### 2", "#### 3")
    assert get_gsm8k_questions("test", 2, source)["answer"] == ["1", "2"]
    assert len(get_gsm8k_questions("test", None, source)) == len(get_gsm8k_questions("test", 99, source)) == 3
    assert word_problems("test", 5)["question"] == word_problems("test")["question"][:5]


@pytest.mark.parametrize("count", [0, -1, -5])
@pytest.mark.parametrize("load", [word_problems, get_gsm8k_questions])
def test_no_questions_are_refused_and_not_all_but_a_few_taken(tmp_path, load, count):
    source = {"source": gsm8k_like(tmp_path, *["#### 1"] * 9)} if load is get_gsm8k_questions else {}
    with pytest.raises(ValueError, match=f"max_samples={count}: at least 1"):
        load("train", count, **source)


@pytest.mark.parametrize(
    ("train", "test", "both"),
    [("abc", "def", 0), ("abc", "cab", 3), ("abc", "aad", 2), ("", "a", 0), (["a  b\n"], [" a b", "ab"], 1)],
)  # fmt: skip
def test_questions_that_are_in_both_sets_are_counted(train, test, both):
    sets = [Dataset.from_dict({"question": list(questions)}) for questions in (train, test)]
    assert asked_in_both(*sets) == both


def test_word_problems_of_given_steps_only():
    rows = word_problem_rows("train", steps=(1, 2))
    assert {row["steps"] for row in rows} == {1, 2}
    assert word_problems("train", steps=(1, 2))["question"] == [r["question"] for r in rows]
    with pytest.raises(ValueError, match=re.escape("(4,)")):
        word_problems("train", steps=(4,))


@pytest.mark.skipif(not os.environ.get("GSM8K_DIR"), reason="set GSM8K_DIR to a folder with both files")
@pytest.mark.parametrize(("split", "size"), [("train", 7473), ("test", 1319)])
def test_all_of_gsm8k_is_read_its_gold_answers_earn_full_marks_and_changed_ones_no_correctness(split, size):
    source = Path(os.environ["GSM8K_DIR"])
    dataset = get_gsm8k_questions(split, source=source)
    assert len(dataset) == size and dataset.features == word_problems("train", 1).features
    assert [p[-1]["content"] for p in dataset["prompt"]] == dataset["question"]
    golds, rows = dataset["answer"], read_jsonl(source / f"{split}.jsonl")
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


def test_hub_is_asked_for_gsm8k_at_a_pinned_commit(monkeypatch):
    asked = {}

    def load_dataset(*args, **kwargs):
        asked.update(kwargs, args=args)
        return Dataset.from_list([GOOD])

    monkeypatch.setattr(data, "load_dataset", load_dataset)
    assert get_gsm8k_questions("train")["answer"] == ["4"]
    assert asked["args"][0] == "openai/gsm8k"
    assert re.fullmatch("[0-9a-f]{40}", asked["revision"])


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_loads_its_task(monkeypatch, tmp_path, name):
    profile = PROFILES[name]
    source = gsm8k_like(tmp_path, "#### 1", "#### 2") if profile.task == "gsm8k" else None
    dataset = load_task(profile, "train", 2, source)
    assert dataset.column_names == COLUMNS
    assert {len(p) for p in dataset["prompt"]} == {2 + 2 * len(profile.shots)}
    assert (dataset["answer"] == ["1", "2"]) == (profile.task == "gsm8k")


@pytest.mark.parametrize("operations", [(), ("+",), ("-", "*"), ("+", "-", "*", "/")])
def test_example_shots_are_right_in_format_and_of_the_operations_asked_for(operations):
    shots = example_shots(operations)
    found = {row["question"]: row for row in word_problem_rows("train", steps=[1])}
    calculations = [found[question]["answer"].split()[:3] for question, _ in shots]
    assert [sign for _, sign, _ in calculations] == list(operations)
    assert all(a != b for a, _, b in calculations), "two equal numbers do not show which one goes where"
    for question, reply in shots:
        assert rewards.has_strict_format(reply)
        assert rewards.is_correct(reply, extract_hash_answer(found[question]["answer"]))


def test_example_shots_of_an_unknown_operation_are_refused():
    with pytest.raises(ValueError, match="operation '%'"):
        example_shots(["%"])


def test_worked_reply_shows_the_steps_without_calculator_notes():
    text = worked_reply("6 * 2 = <<6*2=12>>12 eggs\n12 - 4 = <<12-4=8>>8 eggs\n#### 8")
    assert text == "<reasoning>\n6 * 2 = 12 eggs\n12 - 4 = 8 eggs\n</reasoning>\n<answer>\n8\n</answer>"


# --- bad input is named -----------------------------------------------------


@pytest.mark.parametrize("where", ["alone", "after blank lines", "at the end"])
@pytest.mark.parametrize(
    "line",
    [
        b'{"question": "q", "answer": "a #### 1"',
        b'{"question": "q", "answer": "caf\xc3',  # cut off in a letter of two bytes
        b"question,answer",
        b"{'question': 'q', 'answer': '#### 1'}",
        b'{"question": "q", "answer": "#### 1"}{"question": "q"}',
        b'["q", "#### 1"]',
        b"null",
        b'"question answer"',
        b'{"question": "q", "answer": null}',
        b'{"question": "q", "answer": 4}',
        b'{"answer": "#### 1"}',
    ],
)
def test_broken_line_is_named_with_file_and_line(tmp_path, line, where):
    good = json.dumps(GOOD).encode() + b"\n"
    before = {"alone": b"", "after blank lines": good + b"\n  \n", "at the end": good * 5}[where]
    (tmp_path / "train.jsonl").write_bytes(before + line)
    number = len(before.splitlines()) + 1
    place = re.escape(f"{tmp_path / 'train.jsonl'}, line {number}:")
    with pytest.raises(ValueError, match=place):
        get_gsm8k_questions("train", source=tmp_path)


def test_a_file_that_is_missing_or_without_rows_is_named(tmp_path):
    (tmp_path / "train.jsonl").mkdir()  # a folder is no file either
    (tmp_path / "test.jsonl").write_text(" \n\n\t\n", encoding="utf-8")
    for split, error in {"test": ValueError, "train": FileNotFoundError, "new_families": FileNotFoundError}.items():
        with pytest.raises(error, match=re.escape(str(tmp_path / f"{split}.jsonl"))):
            get_gsm8k_questions(split, source=tmp_path)


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\n\n"])
def test_line_endings_and_unicode_inside_texts_do_not_split_rows(tmp_path, ending):
    rows = [GOOD, GOOD | {"question": "a\u2028b\u0085c \u2014 π?"}]
    text = "".join(json.dumps(row, ensure_ascii=False) + ending for row in rows)
    (tmp_path / "x.jsonl").write_bytes(text.encode())
    assert read_jsonl(tmp_path / "x.jsonl") == rows


@pytest.mark.parametrize(
    "answer", ["", "no hashes 4", "####", "#### four", "#### 4 eggs", "#### 1,00", "#### ²", "### 4"]
)
def test_answer_without_a_number_is_named_with_its_row(tmp_path, answer):
    source = gsm8k_like(tmp_path, "#### 1", answer, "#### 3")
    with pytest.raises(ValueError, match=rf"row 2: .*{re.escape(repr(answer))}"):
        get_gsm8k_questions("train", source=source)


@pytest.mark.parametrize("error", [ConnectionError, FileNotFoundError, TimeoutError])
def test_unreachable_hub_names_data_set_and_both_ways_out(monkeypatch, error):
    def load_dataset(*args, **kwargs):
        raise error("no route to host")

    monkeypatch.setattr(data, "load_dataset", load_dataset)
    with pytest.raises(ConnectionError, match="(?s)openai/gsm8k.*source.*tiny"):
        get_gsm8k_questions("train")


def test_unknown_task_is_named_and_the_known_ones_listed():
    with pytest.raises(ValueError, match="'poems'.*word_problems.*gsm8k"):
        load_task(TINY.with_(task="poems"), "train")


# --- prompts over the limit -------------------------------------------------


def prompts_of(*lengths):
    """A dataset whose prompts have so many tokens for WordTokenizer."""
    rows = [
        {"question": str(n), "prompt": [{"role": "user", "content": "w " * (n - 1)}], "answer": "1"} for n in lengths
    ]
    return Dataset.from_list(rows)


def test_prompts_over_the_limit_are_dropped_and_counted():
    kept, dropped = drop_long_prompts(prompts_of(5, 12, 10, 11, 3), WordTokenizer(), 10)
    assert (kept["question"], dropped) == (["5", "10", "3"], 2)
    assert kept.column_names == COLUMNS
    assert drop_long_prompts(prompts_of(3).select([]), WordTokenizer(), 10)[1] == 0, "none is too long"


def test_all_prompts_over_the_limit_is_an_error_that_says_what_would_do():
    with pytest.raises(ValueError, match="all 2 .*max_prompt_length=10 .*the shortest has 12.*raise it"):
        drop_long_prompts(prompts_of(12, 20), WordTokenizer(), 10)


def test_shots_count_towards_the_limit():
    dataset = load_task(SMALL, "train", 20)
    with pytest.raises(ValueError, match="all 20 prompts"):
        drop_long_prompts(dataset, WordTokenizer(), 40)
    assert drop_long_prompts(load_task(SMALL.with_(shots=()), "train", 20), WordTokenizer(), 100)[1] == 0
