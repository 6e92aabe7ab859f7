"""Evaluation on held-out questions: predictions, rates with intervals, a paired test.

*Strict* means right and in the requested format, what a program that reads the
answer block would see. *Flexible* takes the last number anywhere, what a
forgiving human would see.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from scipy.stats import binomtest
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .prompts import Message, build_messages, extract_xml_answer, last_number, same_number
from .rewards import has_strict_format, is_correct
from .sampling import pad_left, supports_sharing
from .trainer import causal_lm, sample_policy

RATES = {
    "strict": "strict accuracy (right, in format)",
    "flexible": "flexible accuracy (last number anywhere)",
    "format": "strict format",
    "truncated": "truncated",
}


def generate_prediction(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str | Sequence[Message],
    max_new_tokens: int = 512,
) -> str:
    """One greedy reply to one question: the article's way, simple and slow. See `generate_predictions`."""
    messages = build_messages(prompt) if isinstance(prompt, str) else list(prompt)
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    inputs = tokenizer(text, return_tensors="pt", add_special_tokens=False).to(model.device)
    model.eval()
    with torch.no_grad():
        output = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False, repetition_penalty=1.0)
    return tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def generate_predictions(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[Message]],
    max_new_tokens: int,
    *,
    temperature: float = 0.0,
    batch_size: int = 64,
    num_generations: int = 1,
    seed: int = 0,
) -> list[list[tuple[str, bool]]]:
    """`num_generations` replies to each prompt, batched by length.

    Returns:
        For each prompt, in the order given, its replies as (text, truncated).
    """
    texts = [tokenizer.apply_chat_template(list(p), tokenize=False, add_generation_prompt=True) for p in prompts]
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    replies: list[list[tuple[str, bool]]] = [[] for _ in ids]
    model.eval()
    step = max(1, batch_size // num_generations)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for start in range(0, len(order), step):
            batch = order[start : start + step]
            completions = _generate(
                model, tokenizer, [ids[i] for i in batch], max_new_tokens, num_generations, temperature
            )
            decoded = tokenizer.batch_decode(completions, skip_special_tokens=True)
            for k, (text, tokens) in enumerate(zip(decoded, completions, strict=True)):
                replies[batch[k // num_generations]].append((text, tokens[-1] != tokenizer.eos_token_id))
    return replies


def _generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    max_new_tokens: int,
    num_generations: int,
    temperature: float,
) -> list[list[int]]:
    if supports_sharing(causal_lm(model)):
        return sample_policy(model, tokenizer, prompts, max_new_tokens, num_generations, temperature)
    eos_id, pad_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    ids, mask = pad_left(prompts, pad_id, model.device)
    sampling: dict[str, Any] = {"do_sample": False, "repetition_penalty": 1.0}
    if temperature:
        sampling |= {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    output = model.generate(
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=max_new_tokens,
        num_return_sequences=num_generations,
        **sampling,
    )
    rows = output[:, ids.shape[1] :].tolist()
    return [row[: row.index(eos_id) + 1] if eos_id in row else row for row in rows]


def score(question: str, gold: str, completion: str, truncated: bool) -> dict[str, Any]:
    """One row of an evaluation."""
    return {
        "question": question,
        "gold": gold,
        "completion": completion,
        "extracted": extract_xml_answer(completion),
        "strict": has_strict_format(completion) and is_correct(completion, gold),
        "flexible": same_number(last_number(completion), gold),
        "format": has_strict_format(completion),
        "truncated": truncated,
    }


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Dataset,
    max_new_tokens: int,
    *,
    temperature: float = 0.0,
    batch_size: int = 64,
    seed: int = 0,
) -> pd.DataFrame:
    """One reply to every question of `dataset`, scored: a row for each question.

    Columns: question, gold, completion, extracted, and the four outcomes
    strict, flexible, format, truncated (bool).
    """
    replies = generate_predictions(
        model, tokenizer, dataset["prompt"], max_new_tokens, temperature=temperature, batch_size=batch_size, seed=seed
    )
    rows = zip(dataset["question"], dataset["answer"], replies, strict=True)
    return pd.DataFrame([score(question, gold, *reply[0]) for question, gold, reply in rows])


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval for a rate (Wilson 1927), by scipy.

    >>> [round(x, 2) for x in wilson_interval(7, 30)]
    [0.12, 0.41]
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"{successes} of {n} is no rate; an interval needs 0 ≤ successes ≤ n and n ≥ 1")
    interval = binomtest(int(successes), int(n)).proportion_ci(confidence, method="wilson")
    return interval.low, interval.high


def paired_test(before: Sequence[bool], after: Sequence[bool]) -> dict[str, float]:
    """Exact McNemar test: did the same questions change more one way than the other?

    Returns:
        gained and lost (counts of questions) and p_value, two-sided; 1.0 when nothing changed.
    """
    if len(before) != len(after):
        raise ValueError(f"{len(before)} questions before, {len(after)} after; a paired test needs the same ones")
    gained = sum(not b and a for b, a in zip(before, after, strict=True))
    lost = sum(b and not a for b, a in zip(before, after, strict=True))
    p_value = float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
    return {"gained": gained, "lost": lost, "p_value": p_value}


def compare(before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """Before and after on the same questions: rates, Wilson intervals, and the paired test, a row for each outcome."""
    if list(before["question"]) != list(after["question"]):
        raise ValueError("the questions before and after differ; evaluate both on the same dataset")
    rows = []
    for column, label in RATES.items():
        row: dict[str, Any] = {"rate": label, "n": len(before)}
        for when, table in (("before", before), ("after", after)):
            hits = int(table[column].sum())
            low, high = wilson_interval(hits, len(table))
            row |= {when: hits / len(table), f"{when}_low": low, f"{when}_high": high}
        rows.append(row | paired_test(before[column], after[column]))
    return pd.DataFrame(rows).set_index("rate")


def decompose(before: pd.DataFrame, after: pd.DataFrame) -> dict[str, int]:
    """Where a change in strict accuracy comes from, in questions.

    `format` questions were right before but not in the requested format;
    `arithmetic` ones were wrong by any reading. `lost` ones were strictly right.
    """
    gained = ~before["strict"] & after["strict"]
    return {
        "format": int((gained & before["flexible"]).sum()),
        "arithmetic": int((gained & ~before["flexible"]).sum()),
        "lost": int((before["strict"] & ~after["strict"]).sum()),
    }


def as_percentages(comparison: pd.DataFrame) -> pd.DataFrame:
    """`compare`'s table for reading: "31.0 % (25.0-37.7)"."""

    def cell(row: pd.Series, when: str) -> str:
        return f"{100 * row[when]:.1f} % ({100 * row[f'{when}_low']:.1f}-{100 * row[f'{when}_high']:.1f})"

    rows = [
        {
            "rate": rate,
            "before (95 % interval)": cell(row, "before"),
            "after (95 % interval)": cell(row, "after"),
            "gained": int(row["gained"]),
            "lost": int(row["lost"]),
            "p": f"{row['p_value']:.2g}",
        }
        for rate, row in comparison.iterrows()
    ]
    return pd.DataFrame(rows).set_index("rate")


def pass_at_k(n: Any, c: Any, k: Any) -> Any:
    """The chance that at least one of k completions is right, when c of n sampled ones were (unbiased).

    1 - C(n - c, k) / C(n, k): the share of ways to pick k of the n that hold a
    right one (Chen et al. 2021, arXiv 2107.03374). The plug-in 1 - (1 - c/n)^k
    is too low on average.

    Args:
        n, c, k: whole numbers, or arrays of them that broadcast.

    Returns:
        A float for three numbers, else an array of the broadcast shape.

    Raises:
        ValueError: a value is no whole number, or not 0 ≤ c ≤ n and 1 ≤ k ≤ n.

    >>> pass_at_k(4, 1, 2)
    0.5
    """
    values = {"n": np.asarray(n), "c": np.asarray(c), "k": np.asarray(k)}
    for name, value in values.items():
        if value.size and not np.issubdtype(value.dtype, np.integer):
            raise ValueError(f"{name}={value.tolist()!r} is no whole number; pass counts as int, not as rates")
    ns, cs, ks = np.broadcast_arrays(*values.values())
    wrong = (cs < 0) | (cs > ns) | (ks < 1) | (ks > ns)
    if wrong.any():
        first = tuple(np.argwhere(wrong)[0])
        raise ValueError(
            f"n={ns[first]}, c={cs[first]}, k={ks[first]}: pass@k needs 0 ≤ c ≤ n and 1 ≤ k ≤ n; "
            "sample at least k completions of each question"
        )
    chances = np.vectorize(_chance_of_a_pass, otypes=[float])(ns, cs, ks)
    return float(chances) if chances.ndim == 0 else chances


def _chance_of_a_pass(n: int, c: int, k: int) -> float:
    # Whole numbers of any size divide exactly, where factorials as floats overflow.
    picks = math.comb(int(n), int(k))
    return (picks - math.comb(int(n - c), int(k))) / picks
