"""Before training: which prompt has a signal, which questions have one, and what a length limit costs.

GRPO can only make likelier what is sampled at all. Everything here samples the
untrained policy as training would and counts, so that a run that cannot learn
is seen before it is paid for.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pandas as pd
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .. import data
from ..evaluation import completion_tokens, generate_predictions, score
from ..files import read_json
from ..profiles import DATA, Profile
from ..prompts import SYSTEM_PROMPT, build_messages
from ..rewards import REWARD_FUNCS, TAGS, RewardFunc, short_name
from ..statistics import wilson_interval

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
    prompts = [build_messages(q, variant.system_prompt, variant.shots) for q in questions["question"]]
    return Dataset.from_list(
        [
            {"question": q, "prompt": p, "answer": a}
            for q, p, a in zip(questions["question"], prompts, questions["answer"], strict=True)
        ]
    )


def reward_table(
    completions: Sequence[str], answers: Sequence[str], reward_funcs: Sequence[RewardFunc] = REWARD_FUNCS
) -> pd.DataFrame:
    """Points of each completion from each reward function, and their sum in column `total`.

    Raises:
        ValueError: there is not exactly one gold answer for each completion.
    """
    if len(completions) != len(answers):
        raise ValueError(f"{len(completions)} completions and {len(answers)} gold answers; give one for each")
    names = [short_name(f.__name__) for f in reward_funcs]
    points = [f(completions=list(completions), answer=list(answers)) for f in reward_funcs]
    table = pd.DataFrame(dict(zip(names, points, strict=True)))
    return table.assign(total=table.sum(axis=1))


def prompt_lengths(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Sequence[dict[str, str]]]) -> list[int]:
    """Tokens of each prompt as the policy reads it: chat template and generation prompt included."""
    texts = [tokenizer.apply_chat_template(list(p), tokenize=False, add_generation_prompt=True) for p in prompts]
    return [len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]


def sample_replies(
    profile: Profile,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Dataset,
    num_generations: int = 1,
    seed: int = 0,
) -> pd.DataFrame:
    """Completions sampled as in training (the profile's temperature and length), scored: a row for each.

    Columns: `number` of the question in `questions`, everything of
    `evaluation.score`, a column for each tag (does it occur exactly once?),
    `tokens` of prompt and completion, each reward, and `total`. Completions of
    one question stand side by side.
    """
    replies = generate_predictions(
        model,
        tokenizer,
        questions["prompt"],
        profile.max_completion_length,
        temperature=profile.temperature,
        batch_size=profile.eval_batch,
        num_generations=num_generations,
        seed=seed,
    )
    lengths = prompt_lengths(tokenizer, questions["prompt"])
    rows = []
    for number, (question, gold) in enumerate(zip(questions["question"], questions["answer"], strict=True)):
        for text, truncated in replies[number]:
            once = {tag: text.count(tag) == 1 for tag in TAGS}
            found = score(question, gold, text, truncated)
            rows.append({"number": number, **found, **once, "prompt_tokens": lengths[number]})
    table = pd.DataFrame(rows)
    table["tokens"] = completion_tokens(tokenizer, table, profile.max_completion_length)
    return pd.concat([table, reward_table(table["completion"], table["gold"])], axis=1)


def ask_variants(
    profile: Profile,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    variants: Mapping[str, PromptVariant],
    n: int,
    seed: int = 0,
) -> pd.DataFrame:
    """One reply to the same `n` training questions under each variant: `sample_replies`' columns and `variant`.

    Questions of the training set, because a prompt is chosen by this, and
    whatever is chosen on the test questions looks better on them than it is.
    Questions that serve as an example in any variant are left out.

    Raises:
        ValueError: `n` is below 1, or there are not so many questions.
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

    Columns: `n` replies; mean `prompt_tokens` and `completion_tokens`; the rate of each tag that occurs
    exactly once; and of strict format, right answers (strict and flexible) and
    cut-off replies the rate and its 95 % Wilson interval (`strict_low` …).
    """
    rows = {}
    for name, table in replies.groupby("variant", sort=False):
        row: dict[str, float] = {"n": len(table), "prompt_tokens": table["prompt_tokens"].mean()}
        row["completion_tokens"] = table["tokens"].mean()
        row |= {tag: table[tag].mean() for tag in TAGS}
        for outcome in OUTCOMES:
            low, high = wilson_interval(int(table[outcome].sum()), len(table))
            row |= {outcome: table[outcome].mean(), f"{outcome}_low": low, f"{outcome}_high": high}
        rows[name] = row
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("variant").astype({"n": int})


def rates_as_text(rates: pd.DataFrame) -> pd.DataFrame:
    """`measure_prompts`' table for reading, in per cent: "31 (25-38)" is a rate with its interval."""
    shown = pd.DataFrame({"prompt tokens": rates["prompt_tokens"].round().astype(int)})
    for tag in TAGS:
        shown[tag] = (100 * rates[tag]).map("{:.0f}".format)
    for outcome, label in (("format", "strict format"), ("strict", "right, strict"), ("flexible", "right, flexible")):
        columns = (100 * rates[[outcome, f"{outcome}_low", f"{outcome}_high"]]).to_numpy()
        shown[label] = [f"{rate:.0f} ({low:.0f}-{high:.0f})" for rate, low, high in columns]
    return shown.assign(**{"cut off": (100 * rates["truncated"]).map("{:.0f}".format)})


def signal_per_token(rates: pd.DataFrame, group_size: int) -> pd.Series:
    """How much each prompt of `measure_prompts` buys: groups with a right answer for 1,000 tokens a completion.

    A group of G holds a strictly right answer with chance 1 - (1 - p)^G. For p
    the lower end of its interval is taken, so that one lucky reply buys little;
    a completion costs its own tokens and those of its prompt.
    """
    hits = 1 - (1 - rates["strict_low"]) ** group_size
    return (1000 * hits / (rates["prompt_tokens"] + rates["completion_tokens"])).rename("signal_per_1000_tokens")


def truncation_curve(
    tokenizer: PreTrainedTokenizerBase, completions: Sequence[str], answers: Sequence[str], limits: Sequence[int]
) -> pd.DataFrame:
    """The same completions cut at each limit (tokens) and scored again.

    Returns:
        A row for each limit: `limit`, the share `cut`, the mean of each reward and of `total`.
    """
    ids = tokenizer(list(completions), add_special_tokens=False)["input_ids"]
    rows = []
    for limit in limits:
        if limit < 1:
            raise ValueError(f"a limit of {limit} tokens leaves nothing; limits start at 1")
        texts = tokenizer.batch_decode([row[:limit] for row in ids], skip_special_tokens=True)
        cut = sum(len(row) > limit for row in ids) / len(ids)
        rows.append({"limit": limit, "cut": cut, **reward_table(texts, answers).mean().to_dict()})
    return pd.DataFrame(rows)


def silent_chance(rewards: Sequence[float], group_size: int, unbiased: bool = True) -> float:
    """The chance that `group_size` fresh completions of a question earn all the same, from k rewards seen.

    Where the value v has probability p_v, that chance is Σ p_v^G. Of c_v
    occurrences among k, the unbiased estimate of p_v^G is C(c_v, G) / C(k, G),
    the share of ways to pick G of the k seen that are all v; it needs k ≥ G.
    With `unbiased=False` it is (c_v / k)^G, which needs no k but is too high on
    average (x^G is convex), the more so the smaller k.

    Raises:
        ValueError: too few rewards, or no group.
    """
    k = len(rewards)
    if group_size < 1 or k < 1:
        raise ValueError(f"{k} rewards and groups of {group_size}: at least one of each is needed")
    if unbiased and k < group_size:
        raise ValueError(
            f"{k} rewards a question cannot tell about groups of {group_size} without bias; "
            f"sample at least {group_size}, or accept the bias with unbiased=False"
        )
    counts = Counter(round(float(r), 6) for r in rewards).values()
    if unbiased:
        return sum(math.comb(c, group_size) for c in counts) / math.comb(k, group_size)
    return sum((c / k) ** group_size for c in counts)


def predicted_silent_share(
    replies: pd.DataFrame, group_size: int, column: str = "total", unbiased: bool = True
) -> float:
    """The share of groups that will have no signal: `silent_chance` averaged over the questions of `replies`."""
    return float(replies.groupby("number")[column].apply(lambda r: silent_chance(r, group_size, unbiased)).mean())


def silent_groups(replies: pd.DataFrame, group_size: int, column: str = "total") -> tuple[int, int]:
    """How many groups are tied, and how many there are: the first `group_size` completions of each question.

    Raises:
        ValueError: a question has fewer completions.
    """
    by_question = replies.groupby("number")[column]
    if by_question.size().min() < group_size:
        raise ValueError(f"a question has {by_question.size().min()} completions, fewer than a group of {group_size}")
    tied = by_question.apply(lambda r: r.head(group_size).round(6).nunique() == 1)
    return int(tied.sum()), len(tied)


def questions_with_signal(
    replies: pd.DataFrame, group_size: int, column: str = "total", at_most: float = 0.3
) -> list[int]:
    """The numbers of the questions whose `silent_chance` is `at_most` so much: the filter before training."""
    chance = replies.groupby("number")[column].apply(lambda r: silent_chance(r, group_size))
    return [int(number) for number in chance.index[chance <= at_most]]


# Two runs that agree in these sample the same first groups, up to chance.
SAMPLING_FIELDS = (
    "model",
    "task",
    "problem_steps",
    "system_prompt",
    "shots",
    "temperature",
    "num_generations",
    "max_completion_length",
)


def recorded_silent_share(profile: Profile, steps: int = 5, last: bool = False) -> pd.DataFrame:
    """Groups without a signal in the first (or `last`) `steps` of the recorded training runs of this recipe.

    Returns:
        A row for each run in `data/runs`: `run`, `groups`, `silent`; no row where none is recorded.
    """
    wanted = {f: profile.as_dict()[f] for f in SAMPLING_FIELDS}
    wanted = {f: list(v) if isinstance(v, tuple) else v for f, v in wanted.items()}
    wanted["model"] = wanted["model"].removeprefix(f"{DATA.parent}/")
    rows = []
    for path in sorted((DATA / "runs").glob(f"{profile.name}-*/history.csv")):
        recipe = read_json(path.with_name("run.json"))["profile"]
        if any(recipe.get(field) != value for field, value in wanted.items()):
            continue
        column = pd.read_csv(path, comment="#")["frac_reward_zero_std"]
        share = column.tail(steps) if last else column.head(steps)
        groups = recipe["batch"] * recipe["accumulation"] // recipe["num_generations"] * len(share)
        rows.append({"run": path.parent.name, "groups": groups, "silent": round(share.mean() * groups)})
    return pd.DataFrame(rows, columns=["run", "groups", "silent"])
