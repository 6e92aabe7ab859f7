"""Before training: which prompt has a signal, which questions have one, and what a length limit costs.

GRPO can only make likelier what is sampled at all. Everything here samples the untrained policy as training would and
counts, so that a run that cannot learn is seen before it is paid for.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .. import data
from ..evaluation import completion_tokens, generate_predictions, score
from ..profiles import Profile
from ..prompts import SYSTEM_PROMPT, Message, build_messages, gold_text, prompt_ids
from ..rewards import REWARD_FUNCS, TAGS, RewardFunc, reward_names, short_name
from ..statistics import wilson_interval
from .validation import ask

OUTCOMES = ("format", "strict", "flexible", "truncated")


class PromptVariant(NamedTuple):
    """One way to put a question: a system message (None: no message of ours) and worked examples."""

    system_prompt: str | None
    shots: tuple[tuple[str, str], ...] = ()


TAGS_NAMED = (
    "Solve the problem. Put your steps between <reasoning> and </reasoning>, "
    "then the bare number between <answer> and </answer>."
)
# What the source article's prompt asks for, in words of our own: the layout with dots in it, and nothing else.
ARTICLE_ENGLISH = "Your reply has this form:\n<reasoning>\n...\n</reasoning>\n<answer>\n...\n</answer>"
ARTICLE_CHINESE = "你的回复应采用如下形式：\n<reasoning>\n...\n</reasoning>\n<answer>\n...\n</answer>"


def variants() -> dict[str, PromptVariant]:
    """The prompts that are compared, from the barest to the longest; examples are word problems of the training set."""
    one, two, products = (tuple(data.example_shots(ops)) for ops in (("-",), ("-", "*"), ("*",)))
    return {
        "question only": PromptVariant(None),
        "tags named": PromptVariant(TAGS_NAMED),
        "layout shown": PromptVariant(SYSTEM_PROMPT),
        "article's, English": PromptVariant(ARTICLE_ENGLISH),
        "article's, Chinese": PromptVariant(ARTICLE_CHINESE),
        "one example, a product": PromptVariant(SYSTEM_PROMPT, products),
        "one example, a difference": PromptVariant(SYSTEM_PROMPT, one),
        "two examples": PromptVariant(SYSTEM_PROMPT, two),
    }


def with_prompt(questions: Dataset, variant: PromptVariant) -> Dataset:
    """The same questions, put to the policy in another way."""
    return Dataset.from_list([row | {"prompt": build_messages(row["question"], *variant)} for row in questions])


def prompt_lengths(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str | Sequence[Message]]) -> list[int]:
    """Tokens of each prompt as the policy reads it: chat template and generation prompt included."""
    return [len(ids) for ids in prompt_ids(tokenizer, prompts)]


def scored_replies(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Dataset,
    reward_funcs: Sequence[RewardFunc],
    max_new_tokens: int,
    **sampling: Any,
) -> pd.DataFrame:
    """Replies to every row, paid by reward functions that see all its columns, as in training.

    `rows` have a column `prompt`, and whatever the rewards read; `sampling` are keywords of
    `evaluation.generate_predictions`, without any there is one greedy reply to each row. Returned is a line for each
    reply, those to one row side by side: number (of the row), completion, truncated, each reward by its short name, and
    total (points). A reward function that raised, or returned no finite numbers, is a ValueError.
    """
    replies = generate_predictions(model, tokenizer, rows["prompt"], max_new_tokens, **sampling)
    lines = [(number, text, cut) for number, group in enumerate(replies) for text, cut in group]
    table = pd.DataFrame(lines, columns=["number", "completion", "truncated"])
    asked = [rows[number] for number in table["number"]]
    paid = {}
    for name, function in zip(reward_names(reward_funcs), reward_funcs, strict=True):
        paid[short_name(name)] = points = ask(function, table["completion"].tolist(), asked)
        if isinstance(points, tuple):
            raise ValueError(": ".join(points))
    points = pd.DataFrame(paid)
    return table.join(points.assign(total=points.sum(axis=1)))


def sample_replies(
    profile: Profile, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, questions: Dataset, **sampling: Any
) -> pd.DataFrame:
    """Completions sampled as in training (the profile's temperature and length) and scored: a row for each.

    `sampling` are further keywords of `evaluation.generate_predictions`: num_generations (1), seed (0).
    Columns: those of `scored_replies` for REWARD_FUNCS and of `evaluation.score`; a column for each tag (does it occur
    exactly once?); `tokens` and `prompt_tokens`.
    """
    list(map(gold_text, questions["answer"]))  # one that is no number is named before anything is sampled
    limit = profile.max_completion_length
    sampling = {"temperature": profile.temperature, "batch_size": profile.eval_batch} | sampling
    table = scored_replies(model, tokenizer, questions, REWARD_FUNCS, limit, **sampling)
    rows, asked, lengths = [], questions.to_list(), prompt_lengths(tokenizer, questions["prompt"])
    for number, text, truncated in table[["number", "completion", "truncated"]].itertuples(index=False):
        facts = score(asked[number]["question"], asked[number]["answer"], text, truncated)
        rows.append(facts | {tag: text.count(tag) == 1 for tag in TAGS} | {"prompt_tokens": lengths[number]})
    table = pd.DataFrame(rows).join(table.drop(columns=["completion", "truncated"]))
    return table.assign(tokens=completion_tokens(tokenizer, table, limit))


def ask_variants(
    profile: Profile,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    variants: Mapping[str, PromptVariant],
    n: int,
    seed: int = 0,
) -> pd.DataFrame:
    """One reply to the same `n` training questions under each variant: `sample_replies`' columns and `variant`.

    Of the training set, because what is chosen on test questions looks better on them than it is; none that serves as
    an example in any variant. If there are not `n` it is a ValueError.
    """
    shown = {question for v in variants.values() for question, _ in v.shots}
    if n < 1:
        raise ValueError(f"n={n}: at least one question is needed")
    rows = data.load_task(profile, "train", n + len(shown))
    questions = rows.select([i for i, q in enumerate(rows["question"]) if q not in shown][:n])
    if len(questions) < n:
        raise ValueError(f"n={n}, but only {len(questions)} training questions are at hand; ask for fewer")
    tables = {
        name: sample_replies(profile, model, tokenizer, with_prompt(questions, variant), seed=seed)
        for name, variant in variants.items()
    }
    return pd.concat(tables, names=["variant", "row"]).reset_index("variant").reset_index(drop=True)


def measure_prompts(replies: pd.DataFrame) -> pd.DataFrame:
    """What `ask_variants` found, a row for each variant.

    Columns: `n` replies; mean `prompt_tokens` and `completion_tokens`; the rate of each tag that occurs exactly once;
    and of each of OUTCOMES the rate and its 95 % Wilson interval (`strict_low` …).
    """
    asked = replies.rename(columns={"tokens": "completion_tokens"}).groupby("variant", sort=False)
    table = asked.size().to_frame("n").join(asked[["prompt_tokens", "completion_tokens", *TAGS]].mean())
    for outcome in OUTCOMES:
        table[outcome], hits = asked[outcome].mean(), asked[outcome].sum()
        table[[f"{outcome}_low", f"{outcome}_high"]] = [*map(wilson_interval, hits, table["n"])]
    return table


def tied_chance(rewards: Sequence[float], group_size: int) -> float:
    """The chance that `group_size` fresh completions of a question earn all the same, from k rewards seen.

    Where the value v has probability p_v, that chance is Σ p_v^G. Of c_v occurrences among k, the unbiased estimate of
    p_v^G is C(c_v, G) / C(k, G), the share of ways to pick G of the k seen that are all v. With k < G, no group, or a
    reward that is no number it is a ValueError.
    """
    k = len(rewards)
    if not 1 <= group_size <= k:
        raise ValueError(f"{k} rewards a question cannot tell about groups of {group_size}; sample at least as many")
    if not all(math.isfinite(r) for r in rewards):
        raise ValueError(f"{list(rewards)}: every completion needs a reward that is a number")
    counts = Counter(round(float(r), 6) for r in rewards).values()
    return sum(math.comb(c, group_size) for c in counts) / math.comb(k, group_size)


def predicted_tied_share(replies: pd.DataFrame, group_size: int, column: str = "total") -> float:
    """The share of groups that will be tied: `tied_chance` averaged over the questions of `replies`."""
    return float(replies.groupby("number")[column].apply(tied_chance, group_size).mean())
