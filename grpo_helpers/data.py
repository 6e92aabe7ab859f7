"""Questions to train and to evaluate on, in the columns the trainer wants.

These are, of both sources, `question`, `prompt` (messages, ready for a chat template), `answer` (the number as text).
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, load_dataset

from .profiles import DATA, Profile
from .prompts import XML_COT_FORMAT, build_messages, extract_hash_answer, parse_number, prompt_ids

GSM8K = "openai/gsm8k"
GSM8K_REVISION = "e53f048856ff4f594e959d75785d2c2d37b678ee"

Row = dict[str, Any]


def read_jsonl(path: str | Path, columns: Sequence[str] = ("question", "answer")) -> list[Row]:
    """The rows of a JSONL file, one object a line; a ValueError names the file and a line that is none."""
    path, rows = Path(path), []
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; check the folder's name")
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:  # not JSON, or cut off inside a letter
                why = f"not valid JSON ({error}); was the file cut off? It reads {line[:60]!r}"
                raise ValueError(f"{path}, line {number}: {why}") from None
            if missing := [c for c in columns if not isinstance(row, dict) or not isinstance(row.get(c), str)]:
                why = f"no text in column {missing[0]!r}; every line needs {list(columns)}"
                raise ValueError(f"{path}, line {number}: {why}")
            rows.append(row)
    if not rows:
        raise ValueError(f"{path}: the file has no rows; make or download it again")
    return rows


def _to_dataset(rows: Sequence[Row], max_samples: int | None, where: str, **prompt: Any) -> Dataset:
    if max_samples is not None and max_samples < 1:
        raise ValueError(f"max_samples={max_samples}: at least 1 question is needed; None takes all")
    records = []
    for number, row in enumerate(rows[:max_samples], start=1):
        answer = extract_hash_answer(row["answer"])
        if parse_number(answer) is None:
            raise ValueError(f"{where}, row {number}: no number after '####' in the answer {row['answer'][-60:]!r}")
        messages = build_messages(row["question"], **prompt)
        records.append({"question": row["question"], "prompt": messages, "answer": answer})
    return Dataset.from_list(records)


def word_problem_rows(split: str = "train", steps: Sequence[int] = (1, 2, 3)) -> list[Row]:
    """The word problems of so many calculations as they are on disk: question, worked answer, family, steps.

    `split` is "train", "test", or "new_families" (kinds of problem that training never sees).
    """
    rows = [row for row in read_jsonl(DATA / "word_problems" / f"{split}.jsonl") if row["steps"] in steps]
    if not rows:
        raise ValueError(f"no word problem has a number of steps in {steps}; choose from 1, 2, 3")
    return rows


def word_problems(
    split: str = "train", max_samples: int | None = None, *, steps: Sequence[int] = (1, 2, 3), **prompt: Any
) -> Dataset:
    """The word problems of this repository, the first `max_samples` of those asked for.

    `prompt` are keywords of `prompts.build_messages`: system_prompt, shots.
    """
    return _to_dataset(word_problem_rows(split, steps), max_samples, f"word problems, {split}", **prompt)


def get_gsm8k_questions(
    split: str = "train", max_samples: int | None = None, source: str | Path | None = None, **prompt: Any
) -> Dataset:
    """GSM8K (Cobbe et al. 2021, arXiv 2110.14168), the first `max_samples` questions of `split`.

    `source` is a folder with its `train.jsonl` and `test.jsonl`; None takes openai/gsm8k from the hub, at a revision.
    `prompt` is as for `word_problems`.
    """
    if source is not None:
        rows = read_jsonl(Path(source).expanduser() / f"{split}.jsonl")
    else:
        try:
            rows = load_dataset(GSM8K, "main", split=split, revision=GSM8K_REVISION).to_list()
        except (ConnectionError, OSError) as error:
            remedy = "give a folder with its train.jsonl and test.jsonl as `source`, or take the profile tiny or small"
            why = f"cannot be loaded from the hub ({type(error).__name__})"
            raise ConnectionError(f"{GSM8K} {why}; {remedy}") from error
    return _to_dataset(rows, max_samples, f"GSM8K, {split}", **prompt)


def worked_reply(answer: str) -> str:
    """A worked answer of GSM8K's form as a reply in the requested layout."""
    steps = re.sub(r"<<.*?>>", "", answer.rpartition("####")[0]).strip()
    return XML_COT_FORMAT.format(reasoning=steps, answer=extract_hash_answer(answer))


def example_shots(operations: Sequence[str]) -> list[tuple[str, str]]:
    """A worked example of each kind, "+", "-", "*", "/" or "below 0" (a difference): the shortest one-step problem.

    Short, because every forward pass pays for the prompt. Two different numbers, because 37 - 37 does not show which of
    them is taken from which.
    """
    shortest: dict[str, Row] = {}
    for row in sorted(word_problem_rows("train", steps=[1]), key=lambda r: len(r["question"]) + len(r["answer"])):
        a, sign, b = row["answer"].split()[:3]
        if a != b:
            kind = "below 0" if "#### -" in row["answer"] else sign
            shortest.setdefault(kind, row)
    if unknown := [operation for operation in operations if operation not in shortest]:
        raise ValueError(f"no one-step problem with the operation {unknown[0]!r}; choose from {', '.join(shortest)}")
    return [(row["question"], worked_reply(row["answer"])) for row in map(shortest.__getitem__, operations)]


def load_task(
    profile: Profile, split: str, max_samples: int | None = None, source: str | Path | None = None
) -> Dataset:
    """The profile's questions, with the profile's prompt; `source` is of `get_gsm8k_questions`."""
    if source is not None and profile.task != "gsm8k":
        raise ValueError(f"profile {profile.name} asks {profile.task}, so {source} is of no use; leave out --gsm8k")
    prompt: dict[str, Any] = {"system_prompt": profile.system_prompt, "shots": example_shots(profile.shots)}
    if profile.task == "gsm8k":
        return get_gsm8k_questions(split, max_samples, source, **prompt)
    if profile.task == "word_problems":
        return word_problems(split, max_samples, steps=profile.problem_steps, **prompt)
    raise ValueError(f"unknown task {profile.task!r}; choose 'word_problems' or 'gsm8k'")


def asked_in_both(train: Dataset, test: Dataset) -> int:
    """How many questions of `test` are in `train` as well, but for white space: these measure memory."""
    known = {" ".join(question.split()) for question in train["question"]}
    return sum(" ".join(question.split()) in known for question in test["question"])


def drop_long_prompts(dataset: Dataset, tokenizer: Any, max_prompt_length: int) -> tuple[Dataset, int]:
    """Without the questions whose prompt has more than `max_prompt_length` tokens, and how many those were.

    TRL no longer truncates prompts, and a truncated question is a wrong one. If nothing is left it is a ValueError.
    """
    lengths = [len(ids) for ids in prompt_ids(tokenizer, dataset["prompt"])]
    keep = [i for i, n in enumerate(lengths) if n <= max_prompt_length]
    if lengths and not keep:
        what = f"all {len(lengths)} prompts are longer than max_prompt_length={max_prompt_length} tokens"
        raise ValueError(f"{what} (the shortest has {min(lengths)}); raise it")
    return dataset.select(keep), len(lengths) - len(keep)
