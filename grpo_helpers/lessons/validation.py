"""Try reward functions before training with them, on your own task."""

import asyncio
import functools
import math
import time
import timeit
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pandas as pd

from ..prompts import XML_COT_FORMAT
from ..rewards import REMEDY, RewardFunc, check_columns, is_async, is_model, reward_names, usable

Row = Mapping[str, Any]
Finding = tuple[str, str, int | None, str, str, str]  # the values of COLUMNS
COLUMNS = ["check", "reward", "row", "completion", "found", "remedy"]
EXAMPLES = 3  # findings of one kind that are listed one by one
SIZES = (1_000, 2_000, 4_000, 8_000, 16_000, 32_000)
ENOUGH = 0.2  # CPU seconds for one call: no need to try a longer input
TOO_SMALL = 0.002  # CPU seconds below which the clock says nothing about growth
STEEP = 1.5  # between linear (1) and quadratic (2)


def shorten(text: str, width: int = 60) -> str:
    """`text` on one line, its middle left out when it is longer than `width`."""
    if len(text) > 4 * width:
        text = f"{text[: 2 * width]} … {text[-2 * width :]}"
    line = text.replace("\r", "\\r").replace("\n", "\\n")
    return line if len(line) <= width else f"{line[: width - width // 3 - 3]} … {line[-(width // 3) :]}"


def ideal_reply(row: Row) -> str:
    """The gold answer in the layout of this series. For another layout, pass a `render` of your own."""
    if "answer" not in row:
        raise ValueError(f"a row has the columns {[*row]} and no answer; pass a `render` that writes its ideal reply")
    return XML_COT_FORMAT.format(reasoning="One step after the other.", answer=row["answer"])


def attacks(row: Row, rows: Iterable[Row], render: Callable[[Row], str]) -> dict[str, str]:
    """Completions for `row` that must not earn full marks, by name, made from ideal ones; `rows` give wrong answers."""
    ideal = render(row)
    wrong = [text for text in map(render, rows) if text != ideal][:20]
    found = {"nothing": "", "white space": " \n" * 20, "one character": "x"}
    found |= {"the ideal reply twice": f"{ideal}\n{ideal}", "the ideal reply backwards": ideal[::-1]}
    found |= {"the ideal reply, then more": f"{ideal}\nBut I may be wrong.", "the first half": ideal[: len(ideal) // 2]}
    found |= {"control characters": "\0\x1b[0m\ufeff\u202e" * 8, "broken characters": "\ufffd\U0001f600\u0301" * 8}
    if pd.api.types.is_scalar(row.get("answer", [])):
        found["the answer without the layout"] = f"The answer is {row['answer']}."
    if wrong:
        found |= {"a wrong answer": wrong[0], "a wrong answer, then the right one": f"{wrong[0]}\n{ideal}"}
        found["the right answer, then a wrong one"] = f"{ideal}\n{wrong[0]}"
        found["a bet on many answers"] = "\n".join([*wrong, ideal, *wrong])
    return {name: text for name, text in found.items() if text.strip() != ideal.strip()}


def ask(reward_func: RewardFunc, completions: Sequence[str], rows: Sequence[Row]) -> list[float] | tuple[str, str]:
    """The rewards of `completions` (one for each row), asked for as TRL's trainer does; None counts as 0.

    Completions are conversations where the row's `prompt` is one, as in training. When the function raises, or
    returns something that is no list of finite numbers: what it did, and what to do. (TRL catches no exception.)
    Rows with a column that TRL takes for itself are a ValueError.
    """
    (name,), prompts = reward_names([reward_func]), [row.get("prompt", "") for row in rows]
    chats = [not isinstance(prompt, str) for prompt in prompts]
    said = [[{"role": "assistant", "content": c}] if chat else c for c, chat in zip(completions, chats, strict=True)]
    keywords = {k: [r.get(k) for r in rows] for k in rows[0] if k not in ("prompt", "completion")}
    check_columns(keywords)
    keywords |= {"completion_ids": [[0]] * len(said), "trainer_state": None, "log_extra": None, "log_metric": None}
    try:
        got = reward_func(prompts=prompts, completions=said, **keywords)
        if is_async(reward_func):  # in a thread, because a notebook has a loop of its own
            with ThreadPoolExecutor(1) as thread:
                got = thread.submit(asyncio.run, got).result()
    except Exception as error:
        return f"{name} raised {type(error).__name__}: {error}", REMEDY
    try:
        return [reward or 0.0 for reward in usable(got, name, said)]
    except ValueError as error:
        return str(error).removesuffix(f"; {REMEDY}"), REMEDY


def validate_rewards(
    reward_funcs: Sequence[RewardFunc],
    rows: Iterable[Row],
    render: Callable[[Row], str] = ideal_reply,
    hostile: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """What is wrong with a set of reward functions, found before training with them.

    1. every ideal completion earns full marks (the highest sum of any), and every function pays for some;
    2. no empty or adversarial completion earns full marks, or more;
    3. every reward is a finite number, one for each completion;
    4. the time for a completion is linear in its length.

    The functions have TRL's signature, and their sum is judged; a few hundred rows, with the columns they read, do.
    `render` writes a row's ideal completion; `hostile`: more, by name, that must not earn full marks on the first row.
    Returns a row for each finding: COLUMNS, the completion shortened; an empty table is the good news. Without rows or
    reward functions, or with a reward model, which only TRL can ask, it is a ValueError.
    """
    rows = rows.to_dict("records") if isinstance(rows, pd.DataFrame) else [dict(r) for r in rows]
    reward_funcs = [reward_funcs] if callable(reward_funcs) or is_model(reward_funcs) else list(reward_funcs)
    if not rows or not reward_funcs:
        raise ValueError(f"{len(reward_funcs)} reward functions and {len(rows)} rows: at least one of each is needed")
    if models := [f for f in reward_funcs if is_model(f)]:
        raise ValueError(f"{models[0]!r:.80} is a reward model, which TRL asks with a tokenizer; leave it out here")
    reward_funcs = dict(zip(reward_names(reward_funcs), reward_funcs, strict=True))
    ideal = [render(row) for row in rows]
    asked = {name: ask(f, ideal, rows) for name, f in reward_funcs.items()}
    scores = {name: got for name, got in asked.items() if isinstance(got, list)}
    found = [("usable rewards", name, None, ideal[0], *got) for name, got in asked.items() if isinstance(got, tuple)]
    working = {name: reward_funcs[name] for name in scores}
    if working:
        totals = [round(sum(s), 9) for s in zip(*scores.values(), strict=True)]
        most = max(totals)
        tried = [(i, *pair) for i, row in enumerate(rows[:EXAMPLES]) for pair in attacks(row, rows, render).items()]
        tried += [(0, *pair) for pair in (hostile or {}).items()]
        found += [*_ideal(scores, totals, ideal, most), *_adversarial(working, rows, tried, most)]
        found += [finding for named in working.items() for finding in _cost(*named, rows[0], ideal[0])]
    return pd.DataFrame([(*f[:3], shorten(f[3], 70), *f[4:]) for f in found], columns=COLUMNS)


def _ideal(scores: dict[str, list[float]], totals: list[float], texts: list[str], most: float) -> Iterator[Finding]:
    """Check 1: the most that each function pays, and what each ideal completion earns."""
    best = {name: max(paid) for name, paid in scores.items()}
    for name in (name for name in best if best[name] <= 0):
        what = f"pays none of the {len(texts)} ideal completions (most: {best[name]:g})"
        yield "can it fire?", name, 0, texts[0], what, "print what it extracts from this, and what it compares"
    low = [i for i, total in enumerate(totals) if total < most]
    for i in low[:EXAMPLES]:
        names = [name for name, paid in scores.items() if paid[i] < best[name]]
        what = f"earns {totals[i]:g} of {most:g}" + (f"; {len(low)} rows in all" if i == low[0] else "")
        remedy = "make the gold answer readable, or the reward tolerant of how it is written"
        yield "ideal replies", ", ".join(names), i, texts[i], what, remedy


def _adversarial(funcs: dict[str, RewardFunc], rows: list[Row], tried: list[tuple], most: float) -> Iterator[Finding]:
    """Checks 2 and 3 on `tried`, (row, name, text); each attack that succeeds once, with the first row it did on."""
    paid, broken = {}, {}
    for i, name, text in tried:
        answers = {func: ask(f, [text], [rows[i]]) for func, f in funcs.items()}
        for func, got in answers.items():
            if isinstance(got, tuple):
                broken.setdefault((name, func), ("usable rewards", func, i, text, f"{name}: {got[0]}", got[1]))
        total = round(sum(got[0] for got in answers.values() if isinstance(got, list)), 9)
        if total >= most:
            paid.setdefault(name, []).append((i, text, total))
    yield from broken.values()
    for name, hits in paid.items():
        i, text, total = hits[0]
        what = f"{name} earns {total:g}; full marks are {most:g} ({len(hits)} of {min(EXAMPLES, len(rows))} rows tried)"
        remedy = "find the reward that pays for it, and write this completion into its tests"
        yield "adversarial replies", "all", i, text, what, remedy


class Growth(NamedTuple):
    """Seconds for the longest input tried, its size in characters, and the exponent p of time ~ size^p."""

    seconds: float
    size: int
    exponent: float

    def predict(self, size: int) -> float:
        """Seconds to expect for an input of `size` characters."""
        return self.seconds * (size / self.size) ** max(1.0, self.exponent)


def growth(function: Callable[[str], Any], text: str) -> Growth:
    """Time `function` on longer and longer beginnings of `text`, up to 32,000 characters.

    CPU time of this process, the best of three calls, for busy machines. A function too fast to be timed is linear.
    """
    timed: list[tuple[int, float]] = []
    for size in (s for s in SIZES if s <= max(len(text), SIZES[0])):
        call = functools.partial(function, text[:size])
        timed.append((size, min(timeit.repeat(call, timer=time.process_time, repeat=3, number=1))))
        if timed[-1][1] > ENOUGH:
            break
    (size, seconds), points = timed[-1], [(s, t) for s, t in timed if t > TOO_SMALL]
    if len(points) < 2:
        return Growth(seconds, size, 1.0)
    (small, start), (large, end) = points[max(0, len(points) - 3)], points[-1]
    return Growth(seconds, size, math.log(end / start) / math.log(large / small))


def _cost(name: str, function: RewardFunc, row: Row, ideal: str) -> Iterator[Finding]:
    """Check 4: the ideal completion, white space, a digit, and what looks like markup, each over and over."""
    pieces = dict.fromkeys([ideal, "\n", " ", "9", *[w for w in dict.fromkeys(ideal.split()) if not w.isalnum()][:12]])
    said, steep = [], []
    for text in (head + p * (SIZES[-1] // len(p) + 1) for p in pieces if p for head in ("", ideal + "\n")):
        measured = growth(lambda t: said.append((t, ask(function, [t], [row]))), text)
        if measured.exponent > STEEP:
            steep.append((measured, text))
    broken = [(text, *got) for text, got in said if isinstance(got, tuple)]
    if broken:
        yield "usable rewards", name, 0, *broken[0]
    elif steep:
        worst, text = max(steep)
        # rounded first, so that whoever reckons with what is shown gets what is shown
        worst = worst._replace(seconds=float(f"{worst.seconds:.2g}"), exponent=round(worst.exponent, 1))
        what = f"time grows like length^{worst.exponent}: {worst.seconds:g} s for {worst.size:,} characters, "
        what += f"about {worst.predict(1_000_000):,.0f} s for a million"
        yield "cost", name, 0, text, what, "count or find the tags first, and match a pattern only then"
