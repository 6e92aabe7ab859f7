"""Countdown, the worked example of notebook 10: make the target from the given numbers, each used exactly once.

A game of numbers known from television. With every number used it is the task of Gandhi et al. 2024 (arXiv 2404.03683)
and of TinyZero. Several answers can be right, so that a reply is calculated, not compared with a gold one.
Notebook 10 writes these functions out; a test keeps the two equal.
"""

from __future__ import annotations

import ast
import itertools
import operator
import random
import re
import tempfile
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import pandas as pd
from datasets import Dataset

from ..profiles import Profile
from ..prompts import XML_COT_FORMAT, build_messages, extract_xml_answer
from ..records import history
from ..rewards import Completion, completion_text, has_strict_format

PROMPT = """\
Make the target with + - * / from the numbers, each used once, in exactly this layout:
<reasoning>
the calculation
</reasoning>
<answer>
the expression only
</answer>"""

OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}
LONGEST = 100  # characters of an expression; what is longer is not even parsed


def calculate(expression: str) -> tuple[Fraction, list[int]]:
    """The value of an expression of whole numbers, + - * / and parentheses, and the numbers in it; nothing is run.

    Raises:
        ValueError: it is anything else, too long, or divides by zero.

    >>> calculate("(2 + 4) / 3")
    (Fraction(2, 1), [2, 4, 3])
    """
    if len(expression) > LONGEST or not re.fullmatch(r"[0-9+\-*/() ]+", expression):
        raise ValueError(f"{expression[:LONGEST]!r} is no expression of whole numbers and + - * /")
    used = []

    def value(node: ast.expr) -> Fraction:
        if isinstance(node, ast.Constant):
            used.append(node.value)
            return Fraction(node.value)
        if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
            return OPERATORS[type(node.op)](value(node.left), value(node.right))
        raise ValueError(f"{expression!r} has something else in it than numbers and + - * /")

    try:
        return value(ast.parse(expression.strip(), mode="eval").body), used
    except SyntaxError as error:
        raise ValueError(f"{expression!r} is no whole expression: {error.msg}") from None
    except ZeroDivisionError:
        raise ValueError(f"{expression!r} divides by zero") from None


def expressions(numbers: Sequence[int]) -> dict[int, list[str]]:
    """Every target from 1 to 999 that the numbers reach without parentheses: target → the expressions that do."""
    found: dict[int, list[str]] = {}
    for order in itertools.permutations(numbers):
        for symbols in itertools.product("+-*/", repeat=len(numbers) - 1):
            text = str(order[0]) + "".join(f" {s} {n}" for s, n in zip(symbols, order[1:], strict=True))
            value, _ = calculate(text)
            if value.denominator == 1 and 0 < value < 1000:
                found.setdefault(int(value), []).append(text)
    return found


def game(numbers: Sequence[int], target: int, solution: str) -> dict[str, Any]:
    """One row of the dataset; `solution` is one of the right expressions."""
    question = f"Numbers: {', '.join(map(str, numbers))}. Target: {target}."
    row = {"question": question, "prompt": build_messages(question, PROMPT), "answer": str(target)}
    return row | {"numbers": list(numbers), "solution": solution}


def games(count: int, held_out: float = 0.25, seed: int = 0) -> tuple[Dataset, Dataset]:
    """Training and held-out games of `count` numbers: no set of numbers is in both."""
    rng, largest = random.Random(seed), 25 if count == 2 else 12
    sets = list(itertools.combinations(range(2, largest + 1), count))
    rng.shuffle(sets)
    cut, splits = round(len(sets) * held_out), []
    for part in (sets[cut:], sets[:cut]):
        reached = [(numbers, *pair) for numbers in part for pair in expressions(numbers).items()]
        rows = [game(rng.sample(n, count), target, rng.choice(found)) for n, target, found in reached]
        splits.append(Dataset.from_list(rng.sample(rows, len(rows))))
    return splits[0], splits[1]


def ideal_reply(row: Mapping[str, Any]) -> str:
    """A solved game in the layout asked for."""
    return XML_COT_FORMAT.format(reasoning=f"{row['solution']} = {row['answer']}", answer=row["solution"])


VERDICTS = ("solved", "another value", "other numbers", "no expression", "no layout")


def verdict(text: str, numbers: Sequence[int], target: str) -> str:
    """What a reply is, one of VERDICTS."""
    if not has_strict_format(text):
        return "no layout"
    try:
        value, used = calculate(extract_xml_answer(text))
    except ValueError:
        return "no expression"
    if sorted(used) != sorted(numbers):
        return "other numbers"
    return "solved" if value == int(target) else "another value"


def legal_reward_func(completions: Sequence[Completion], numbers: Any, answer: Any, **kwargs: Any) -> list[float]:
    """0.5 for an expression of exactly the given numbers in the layout, whatever its value."""
    texts = [completion_text(c) for c in completions]
    found = [verdict(t, n, a) for t, n, a in zip(texts, numbers, answer, strict=True)]
    return [0.5 if v in ("solved", "another value") else 0.0 for v in found]


def solved_reward_func(completions: Sequence[Completion], numbers: Any, answer: Any, **kwargs: Any) -> list[float]:
    """2.0 if, besides, it makes the target."""
    texts = [completion_text(c) for c in completions]
    found = [verdict(t, n, a) for t, n, a in zip(texts, numbers, answer, strict=True)]
    return [2.0 if v == "solved" else 0.0 for v in found]


REWARD_FUNCS = (legal_reward_func, solved_reward_func)

# The recipe of notebook 10: games shown in the warm-up, and how often, to all weights or to an adapter, which learns
# faster; for GRPO the most steps, and a step's size in the profile's batches.
DEMONSTRATIONS, EPOCHS, ADAPTER_EPOCHS, STEPS, BATCHES = 200, 4, 3, 60, 2


def countdown(profile: Profile, seed: int) -> dict[str, pd.DataFrame]:
    """Warm-up, then GRPO, on games split by `seed`: the experiment that notebook 10 shows for several seeds.

    Returns:
        history; rates, a row for each policy: held-out games, their share of each verdict, greedy.
    """
    from .. import models, training
    from ..lessons import own_task
    from ..lessons.warm_up import warm_up

    train, held_out = games(3 if profile.max_completion_length > 128 else 2, seed=seed)
    held_out = held_out.select(range(min(len(held_out), profile.eval_questions)))
    model, tokenizer = models.load_policy(profile)
    rows = []

    def note(policy: str, trained: Any) -> None:
        limit, batch = profile.max_completion_length, profile.eval_batch
        said = own_task.scored_replies(trained, tokenizer, held_out, REWARD_FUNCS, limit, batch_size=batch)
        found = [
            verdict(t, n, a)
            for t, n, a in zip(said["completion"], held_out["numbers"], held_out["answer"], strict=True)
        ]
        rows.append({"policy": policy, "games": len(found)} | {v: found.count(v) / len(found) for v in VERDICTS})

    note("as shipped", model)
    shown = own_task.demonstrations(train.select(range(DEMONSTRATIONS)), ideal_reply)
    if model.dtype.itemsize == 4:  # float32
        gentle = {"epochs": EPOCHS, "learning_rate": profile.learning_rate / 2, "lora": None}
    else:
        lora = models.lora_config(profile)
        gentle = {"epochs": ADAPTER_EPOCHS, "learning_rate": profile.learning_rate * 2, "lora": lora}
    warm_up(model, tokenizer, shown, seed=seed, **gentle)
    note("after warm-up", model)
    recipe = profile.with_(steps=min(STEPS, profile.steps), accumulation=BATCHES * profile.accumulation)
    with tempfile.TemporaryDirectory() as folder:
        trainer = training.make_trainer(
            recipe, model, tokenizer, train, folder, REWARD_FUNCS, seed, doctor=False, save_strategy="no"
        )
        training.train_to_end(trainer)
    note("after GRPO", trainer.model)
    return {"history": history(trainer), "rates": pd.DataFrame(rows)}
