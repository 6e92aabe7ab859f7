"""Evaluation on held-out questions: predictions, what they are worth, before beside after, and during training.

*Strict* means right and in the requested format, what a program that reads the answer block would see. *Flexible* takes
the last number anywhere, what a forgiving human would see. *Worked* means that the reply states a calculation.
"""

import functools
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from datasets import Dataset
from scipy.stats import fisher_exact
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

from .files import write_text
from .mistakes import has_calculation
from .models import causal_lm, end_ids, eval_mode
from .profiles import Profile
from .prompts import Message, extract_xml_answer, gold_text, last_number, prompt_ids, same_number
from .rewards import has_strict_format, is_correct
from .statistics import bootstrap_interval, gain_interval, paired_test, wilson_interval

tell = functools.cache(print)  # once
THINKS = """replies hold <think> blocks, which no format reward pays; a template may leave them out, as Qwen3's does:
load the policy of profile.with_(chat_template_kwargs={"enable_thinking": False})"""
SAMPLED = ("step", "question", "gold", "completion", "strict", "flexible")
QUESTIONS, PARTS, APART = 6, 10, 5  # so many questions, asked after every tenth of the steps, five steps apart at least
FEW = 20  # replies from which a share says next to nothing
RATES = {
    "strict": "strict accuracy (right, in format)",
    "flexible": "flexible accuracy (last number anywhere)",
    "format": "strict format",
    "worked": "works it out (states a calculation)",
    "truncated": "truncated",
}


def generate_predictions(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str | Sequence[Message]],
    max_new_tokens: int,
    *,
    temperature: float = 0.0,
    batch_size: int = 64,
    num_generations: int = 1,
    seed: int = 0,
) -> list[list[tuple[str, bool]]]:
    """For each prompt, in the order given, `num_generations` replies as (text, truncated); batched by length.

    A ValueError for fewer than one prompt, token or reply, or a temperature below 0.
    """
    counts = {"prompts": len(prompts), "max_new_tokens": max_new_tokens, "num_generations": num_generations}
    if min(counts.values()) < 1:
        raise ValueError(f"{counts}: at least 1 of each is needed")
    if not 0 <= temperature < math.inf:
        raise ValueError(f"temperature={temperature}: 0 takes the likeliest token, above 0 is sampled")
    ids, ends = prompt_ids(tokenizer, prompts), end_ids(model, tokenizer)
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    replies: list[list[tuple[str, bool]]] = [[] for _ in ids]
    step = max(1, batch_size // num_generations)
    with eval_mode(model), torch.random.fork_rng():
        torch.manual_seed(seed)
        for start in range(0, len(order), step):
            batch = order[start : start + step]
            asked = [ids[i] for i in batch]
            completions = _generate(model, tokenizer, asked, max_new_tokens, num_generations, temperature)
            decoded = tokenizer.batch_decode(completions, skip_special_tokens=True)
            for k, (text, tokens) in enumerate(zip(decoded, completions, strict=True)):
                replies[batch[k // num_generations]].append((text, tokens[-1] not in ends))
    return replies


def _generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    max_new_tokens: int,
    num_generations: int,
    temperature: float,
) -> list[list[int]]:
    from .fast import sampling as engine  # here, so that who only reads scores does not load it

    if engine.supports_sharing(causal_lm(model)):
        return engine.sample_policy(model, tokenizer, prompts, max_new_tokens, num_generations, temperature)
    ends = end_ids(model, tokenizer)
    several = [prompt for prompt in prompts for _ in range(num_generations)]
    ids, mask = engine.pad_left(several, tokenizer.pad_token_id, model.device)
    options = {"max_new_tokens": max_new_tokens, "eos_token_id": ends}
    sampling: dict[str, Any] = {"do_sample": False, "repetition_penalty": 1.0}
    if temperature:
        sampling |= {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    output = model.generate(input_ids=ids, attention_mask=mask, **options, **sampling)
    rows = output[:, ids.shape[1] :].tolist()
    return [row[: next((i for i, token in enumerate(row, start=1) if token in ends), len(row))] for row in rows]


def score(question: str, gold: Any, completion: str, truncated: bool) -> dict[str, Any]:
    """One row of an evaluation; `gold` is a number, as text or of any library."""
    gold = gold_text(gold)
    laid_out = has_strict_format(completion)
    strict = laid_out and is_correct(completion, gold)
    return {
        "question": question,
        "gold": gold,
        "completion": completion,
        "extracted": extract_xml_answer(completion),
        "strict": strict,
        "flexible": strict or same_number(last_number(completion), gold),  # "- 5" in a block is no "3 - 5" in a text
        "format": laid_out,
        "worked": has_calculation(completion),
        "truncated": truncated,
    }


def evaluate(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, dataset: Dataset, max_new_tokens: int, **sampling: Any
) -> pd.DataFrame:
    """Replies to every question of `dataset`, scored: a row for each reply, those to one question side by side.

    Columns: question, gold, completion, extracted; the outcomes strict, flexible, format, worked, truncated (bool);
    tokens, the length. `sampling` are keywords of `generate_predictions`; without any there is one greedy reply to each
    question. A gold answer that is no number is a ValueError.
    """
    questions, golds = dataset["question"], list(map(gold_text, dataset["answer"]))
    replies = generate_predictions(model, tokenizer, dataset["prompt"], max_new_tokens, **sampling)
    rows = zip(questions, golds, replies, strict=True)
    table = pd.DataFrame([score(question, gold, *reply) for question, gold, group in rows for reply in group])
    if table["completion"].str.contains("</?think>").mean() >= 0.1:
        tell(THINKS)
    return table.assign(tokens=completion_tokens(tokenizer, table, max_new_tokens))


def completion_tokens(tokenizer: PreTrainedTokenizerBase, table: pd.DataFrame, max_new_tokens: int) -> pd.Series:
    """Tokens of each completion of a scored table, end of turn included; read back, so perhaps not those sampled."""
    ids = tokenizer(table["completion"].tolist(), add_special_tokens=False)["input_ids"]
    lengths = pd.Series([len(tokens) + 1 for tokens in ids], index=table.index)
    return lengths.where(~table["truncated"], max_new_tokens)


class SampleReplies(TrainerCallback):
    """Asks the policy the same questions greedily: before the first step, and PARTS times or less along the run.

    The replies are kept in `path` as JSON lines with the columns SAMPLED, a row for each question and step. The file is
    always whole: what follows the checkpoint that a run resumes from is dropped there and asked again. Nothing random
    is drawn, so that the training is the same with and without it.

    Of `asked` (prompt, question and answer) the first QUESTIONS are taken. `show` is called with None when training
    begins, then with the table of the latest replies.
    """

    def __init__(
        self,
        profile: Profile,
        tokenizer: PreTrainedTokenizerBase,
        asked: Dataset,
        path: Path,
        show: Callable[[pd.DataFrame | None], None] = lambda table: None,
    ) -> None:
        self.questions = asked.select(range(min(QUESTIONS, len(asked))))
        self.tokenizer, self.path, self.longest = tokenizer, path, profile.max_completion_length
        self.rows, self.show = [], show

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        old = self.path.read_text(encoding="utf-8").splitlines() if state.global_step and self.path.exists() else []
        self.rows = [row for row in map(json.loads, old) if row["step"] <= state.global_step]
        self.show(None)
        parts = min(PARTS, max(1, state.max_steps // APART))
        self.due = {round(i * state.max_steps / parts) for i in range(parts + 1)}
        self.on_step_end(args, state, control, model)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        step = state.global_step
        if not state.is_world_process_zero or step not in self.due or any(r["step"] == step for r in self.rows):
            return
        table = evaluate(model, self.tokenizer, self.questions, self.longest, batch_size=QUESTIONS)
        table = table.assign(step=step)[list(SAMPLED)]
        self.show(table)
        self.rows += table.to_dict("records")
        write_text(self.path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in self.rows))


def compare(before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """Before and after on the same questions, a row for each outcome.

    Columns: n; `before` and `after` (rates) and `gain`, their difference, with intervals (`_low`, `_high`); the test.
    """
    if list(before["question"]) != list(after["question"]):
        raise ValueError("the questions before and after differ; evaluate both on the same dataset")
    if again := before["question"].duplicated().sum():
        tell(f"{again} rows repeat a question, so intervals and p are too good: keep one row of each question")
    rows = []
    for column, label in RATES.items():
        test = paired_test(before[column], after[column])  # which refuses what is no verdict
        row: dict[str, Any] = {"rate": label, "n": len(before)}
        for when, table in (("before", before), ("after", after)):
            hits = int(table[column].sum())
            low, high = wilson_interval(hits, len(table))
            row |= {when: hits / len(table), f"{when}_low": low, f"{when}_high": high}
        low, high = gain_interval(test["gained"], test["lost"], len(before))
        rows.append(row | {"gain": row["after"] - row["before"], "gain_low": low, "gain_high": high} | test)
    return pd.DataFrame(rows).set_index("rate")


def points(value: float, low: float, high: float) -> str:
    """A difference of two rates and its interval in percentage points: "+6.5 (-0.1 to +13.0)"."""
    return f"{100 * value:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def per_cent(rate: float, low: float, high: float) -> str:
    """A rate and its interval in per cent: "31.0 % (25.0-37.7)"."""
    return f"{100 * rate:.1f} % ({100 * low:.1f}-{100 * high:.1f})"


def as_percentages(comparison: pd.DataFrame) -> pd.DataFrame:
    """`compare`'s table for reading: rates by `per_cent`, the gain in percentage points."""
    rows = [
        {
            "before (95 % interval)": per_cent(row.before, row.before_low, row.before_high),
            "after (95 % interval)": per_cent(row.after, row.after_low, row.after_high),
            "gain (points)": points(row.gain, row.gain_low, row.gain_high),
            "gained": int(row.gained),
            "lost": int(row.lost),
            "p": f"{row.p_value:.2g}",
        }
        for row in comparison.itertuples()
    ]
    return pd.DataFrame(rows, index=comparison.index)


def before_after(before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """`compare` for reading, with a last row for the mean length of a reply in tokens."""
    shown = as_percentages(compare(before, after)).rename_axis(None).astype(object)  # room for text among the counts
    forms = ("{:.1f} ({:.1f}-{:.1f})", "{:.1f} ({:.1f}-{:.1f})", "{:+.1f} ({:+.1f} to {:+.1f})")
    then, now = (table["tokens"].to_numpy() for table in (before, after))  # paired by place, as the rates are
    lengths = (then, now, now - then)
    cells = [form.format(x.mean(), *bootstrap_interval(x)) for form, x in zip(forms, lengths, strict=True)]
    shown.loc["mean length (tokens)"] = [*cells, "", "", ""]
    return shown


def what_was_learned(before: pd.DataFrame, after: pd.DataFrame) -> str:
    """One line: which of layout, working out and arithmetic rose beyond doubt, and by how much.

    Layout and working out are judged by the paired test. Arithmetic is how often a reply that states a calculation
    ends with the right number; before and after these are not the same questions, so that Fisher's exact test judges.
    From fewer than FEW such replies nothing is said of it.
    """
    said, unsaid = {}, ""
    for name, column in (("layout", "format"), ("working out", "worked")):
        then, now = before[column], after[column]
        said[name] = then.mean(), now.mean(), paired_test(then, now)["p_value"]
    then, now = (t["flexible"].astype(bool)[t["worked"].astype(bool)] for t in (before, after))
    if min(len(then), len(now)) < FEW:
        unsaid = f"; arithmetic cannot be compared ({len(then)} → {len(now)} replies with a calculation)"
    else:
        counts = [[int(right.sum()), int((~right).sum())] for right in (then, now)]
        said["arithmetic"] = then.mean(), now.mean(), fisher_exact(counts).pvalue
    groups: dict[str, list[str]] = {"learned": [], "lost": [], "no change seen": []}
    for name, (then, now, p) in said.items():
        group = "no change seen" if p >= 0.05 else "learned" if now > then else "lost"
        groups[group].append(f"{name} {100 * then:.3g} → {100 * now:.3g} %")
    return "; ".join(f"{group}: {', '.join(changes)}" for group, changes in groups.items() if changes) + unsaid
