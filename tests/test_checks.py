"""The exercises' checks: nothing breaks run-all, near misses are told from solutions (these: test_notebooks.py)."""

import json
import math
import re
from functools import partial
from importlib import import_module
from itertools import takewhile
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from grpo_helpers import records
from grpo_helpers.checks.notebook_06 import LEARNED
from grpo_helpers.checks.notebook_09 import SPLITS
from grpo_helpers.evaluation import RATES
from grpo_helpers.profiles import ROOT
from grpo_helpers.prompts import extract_xml_answer, same_number
from grpo_helpers.rewards import completion_text, final_answer

from .cells import definitions

NAMES = sorted(path.stem for path in (ROOT / "grpo_helpers" / "checks").glob("notebook_*.py"))
MODULES = [import_module(f"grpo_helpers.checks.{name}") for name in NAMES]
EXERCISES = {
    name: f
    for m in MODULES
    for name, f in vars(m).items()
    if getattr(f, "__module__", "") == m.__name__ and hasattr(f, "__wrapped__")  # others help a check
}
checks = SimpleNamespace(**EXERCISES)
SOLVED = "Solved.\n"
RIGHT, CUT = "rewards/correctness_reward_func/mean", "completions/clipped_ratio"
# these look at a value, the others at a function
OF_VALUES = [checks.name_the_patients, checks.keeps_options, checks.is_shown]
CHECKS = [check for check in vars(checks).values() if check not in OF_VALUES]
paired_power = definitions("06_evaluation", "paired_power").paired_power


def said(check, solution, capsys) -> str:
    assert check(solution, *RUNS.get(check, ())) is None
    output = capsys.readouterr()
    assert not output.err
    return output.out


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_an_unsolved_or_broken_exercise_is_reported(check, capsys):
    def broken(*args, **kwargs):
        raise KeyError("prompt")

    assert said(check, lambda *args, **kwargs: None, capsys).startswith("Not yet: for ")
    assert said(check, broken, capsys).startswith("Not yet: broken raised KeyError: 'prompt' with {'args': (")
    assert "raised TypeError" in said(check, lambda: None, capsys)
    assert said(check, partial(broken), capsys) == "Not yet: your answer raised KeyError: 'prompt'\n"


def claims(*shown):
    return dict(zip("ABCDE", shown, strict=False))


def cache(gb, layers, kv, dim, tokens, size):
    return gb * 1e9 / (2 * layers * kv * dim * size * tokens)


def mean_curve(curves):
    return curves.groupby("completions")["flexible"].mean()


def removed_as_used(used, numbers):
    for n in used:
        if n not in numbers:
            return False
        numbers.remove(n)
    return True


def strictly(text, target, block=final_answer, number="([1-9][0-9]{0,8})", comma=", ?"):
    found = re.fullmatch(f"{number}{comma}{number}{comma}{number}", block(text))
    said = found.groups() if found else ()
    return float(len(set(said)) == 3 and sum(map(int, said)) == int(target))


def shows(text):
    """Whether the reasoning block holds an equals sign, and whether it is closed."""
    inside, closed, _ = text.partition("<reasoning>")[2].partition("</reasoning>")
    return "=" in inside, closed != ""


def in_order(checkpoints):
    return sorted(checkpoints, key=lambda name: int(name[11:]))


def some_sure(table):
    fails, sure = table[table["head"] <= 0.1 * table["n"]], table[table["head"] >= 0.9 * table["n"]]
    enough = fails["called"].sum() >= 0.9 * fails["n"].sum()
    return bool(len(fails) and enough and (sure["called"] <= 0.2 * sure["n"]).any())


def four_tags(text, gold):
    steps = sum("=" in line for line in text.splitlines())
    right = text.count("<") == 4 and same_number(extract_xml_answer(text), gold)
    return (1.0 + 0.2 * (1 <= steps <= 3)) * right


def booking(text, also=dict):
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict | also) or set(found) != {"nights", "breakfast"}:
        return None
    fits = type(found["nights"]) is int and 1 <= found["nights"] <= 30 and type(found["breakfast"]) is bool
    return (found["nights"], found["breakfast"]) if fits else None


def one_by_one(pays, read=completion_text):
    """A reward that pays each completion on its own, as `read` reads it."""
    return lambda completions, answer, **kwargs: [pays(read(c), a) for c, a in zip(completions, answer, strict=True)]


ENDS = {"as it is": 0.1, "right in the layout": 0.9, "all five": 0.4}
LATE = {24: (0.06, 0.04), 32: (0.2, 0.1), 48: (0.02, 0.4), 80: (0.0, 0.4)}  # cut off, and right
MENDED = {"learning_rate": 0.002}


def history_of(name):
    return pd.DataFrame({RIGHT: [0.1, ENDS[name]] * 5, "reward": [name == "all five"] * 10})


def history_at(max_completion_length):
    cut, right = LATE[max_completion_length]
    return pd.DataFrame({CUT: [cut] * 9, RIGHT: [right] * 9})


def average_at(name, seed):  # as recorded
    lab = import_module("grpo_helpers.checks.notebook_08")
    return lab.averages(records.load(lab.LAB[name][0], "tiny")["curves"])[name, seed]


def compared(letter):  # the layout, and right answers
    index = [RATES["format"], RATES["flexible"]]
    gains = {"A": (-0.1, 0.1), "B": (0.8, 0.1), "C": (0.8, 0.7)}[letter]
    return pd.DataFrame({"gain": gains, "p_value": (0.01, 0.02 if letter == "C" else 0.06)}, index)


def split(batch, accumulation, steps):
    other = batch * accumulation != 64
    return pd.DataFrame({"reward": [0.5, 0.5 + other], "grad_norm": [1.0, 1.0 + accumulation / 1000]})


MADE_UP = {
    "notebook_02.short_run": history_at,
    "notebook_03.history_of": history_of,
    "notebook_04.short_run": lambda learning_rate: pd.DataFrame({"reward": [-abs(math.log(learning_rate / 3e-3))]}),
    "_exercise.short_run": lambda learning_rate, **_: pd.DataFrame(
        {"reward": [0] * 5 + [math.nan if learning_rate > 1 else int(learning_rate == 2e-3)] * 5}
    ),
    "notebook_06.compared": compared,
    "notebook_09.short_run": split,
    "notebook_08.average_at": average_at,
}


def four_runs(train):
    ends = {rate: train(rate) for rate in (2e-4, 2e-3, 2e-2)}
    ends[6e-3] = train(6e-3)
    return max(ends, key=ends.get)


def by_the_rule(train, best):
    names = {"groups of 32": (43, 44), "temperature 0.7": (43, 44)}
    above = {name: all(train(name, seed) > best for seed in seeds) for name, seeds in names.items()}
    return {name: "better" if yes else "no difference we can see" for name, yes in above.items()}


def hidden_tests(hidden):
    general = (0.0, 0.4, 0.5, 0.5)[hidden]
    return pd.Series({"paid": 0.9 - general, "general": general, "only the shown test": 0.9 - 2 * general})


def gains(count):
    new = {8: [100, 92, 400, 1.9], 300: [105, 45, 400, 1.4]}[count]
    return pd.DataFrame([new], index=["new"], columns=["gained", "lost", "n", "paid"])


def calls(price=0.2, easy=2, **settings):
    right = 0 if price > 0 and easy > 1 else 50
    return pd.DataFrame({"n": 60, "right": [60, right], "called": right, "reward": 0.7}, ["1 × 1", "3 × 2"])


# those that train in the notebook
RUNS = {checks.fewest_tests: [hidden_tests], checks.judge_gains: [gains], checks.mend_the_mix: [calls]}
RUNS[checks.cheat] = [definitions("03_reward_design", "naive_reward_func").naive_reward_func]
# check → solutions, and words of what those are told that miss something
ANSWERS = {
    checks.name_the_patients: [
        ("truncated", "give a dictionary"),
        (dict.fromkeys("ABCDEFG", ...), "patient A: Ellipsis is none of the doctor's words"),
        ({"A": "truncated"}, "patient B"),
    ],
    checks.keeps_options: [
        *((..., "a number above 0"), (0, "a number above 0"), (1, "left with"), (2, "only 2.37")),
        *((1.58, SOLVED), (1.92, SOLVED)),
    ],
    checks.is_shown: [
        ("A", "give a dictionary"),
        (claims(True, True), "claim B: 7 gained, 1 lost, p = 0.07"),
        (claims(False), "claim A: 78 gained, 5 lost"),
        (claims(True, False, True, True), "claim D: 8 gained, 0 lost, p = 0.0078 (strict"),
        (claims(True, False, True, False), "claim E: None is neither"),
    ],
    checks.learns_from: [(lambda r, a, e, up: (r < 1 + up if a > 0 else r > 0.8) and a != 0, "inside a wider clip")],
    checks.choose_replies: [(lambda t, ok, n: [x for x, r in zip(t, ok, strict=True) if r and "=" in x], "lucky")],
    checks.tied_chance: [(lambda p, group_size: (1 - p) ** group_size, "for p=0.5")],
    checks.cheat: [
        (lambda longest: "<answer>170, 2, 345</answer>", "for the gold answer 6 it earns nothing, nor for 88 others"),
        (lambda longest: ",".join(map(str, range(100))), "returned 289 characters"),
    ],
    checks.disputed_group: [
        (lambda n: [(0.5, 2)] + [(0, 0)] * (n - 1), "both ways prefer"),
        (lambda n: [(0.5, 2), (0, 0)], "expected 4 pairs"),
        (lambda n: [(0.25, 2)] * n, "there is a pair (0.25, 2"),
    ],
    checks.steps_shown: [
        (lambda completions, **kwargs: [0.25 * ("=" in c) for c in completions], "outside the reasoning block"),
        (one_by_one(lambda text, _: 0.25 * bool(re.search("<reasoning>.*=.*</reasoning>", text, re.DOTALL))), "stray"),
        (one_by_one(lambda text, _: 0.25 * (shows(text)[0] and "</reasoning>" in text)), "closed before it is opened"),
        (one_by_one(lambda text, _: 0.25 * shows(text.split("</reasoning>")[0])[0]), "never closed"),
        (one_by_one(lambda text, _: 0.25 * (all(shows(text)) and "=" not in text.partition("<")[0])), "block as well"),
    ],
    checks.go_on_from: [
        (lambda c: max([0, *(int(n[11:]) for n in takewhile(c.get, in_order(c)))]), "-20': False, 'checkpoint-40"),
        (lambda c: max([0, *(int(n[11:]) for n in in_order(c)[-2:] if c[n])]), "'checkpoint-60': False}"),
    ],
    checks.selective: [(some_sure, "one of two sure sizes called in")],
    checks.gate: [(one_by_one(four_tags), "right, and more behind it")],
    checks.reads_a_booking: [
        (lambda text: booking(text) if text.count('"nights"') < 2 else None, '"breakfast": true, "breakfast": false}'),
        (lambda text: booking(text, list) if max(map(text.count, ('"nights"', '"breakfast"'))) < 2 else None, "raised"),
    ],
    checks.three_numbers: [
        (one_by_one(partial(strictly, number=r"((?!0)\d{1,9})")), "the answer '٣, 4, 5'"),
        (one_by_one(partial(strictly, comma=r",\s?")), "the answer '3,\\n4,\\n5'"),
        (one_by_one(partial(strictly, number="(0?[1-9][0-9]{0,8})")), "the answer '3, 03, 6'"),
        (one_by_one(partial(strictly, number="([1-9][0-9]{0,8}|0_3)")), "the answer '0_3, 4, 5'"),
        (one_by_one(partial(strictly, block=extract_xml_answer)), "a wrong answer, then a right one"),
        (one_by_one(strictly, lambda said: said if isinstance(said, str) else ""), "conversations"),
        (
            lambda completions, answer, **kwargs: [strictly(c, answer[0]) for c in map(completion_text, completions)],
            "other targets",
        ),
    ],
    checks.merged_weight: [
        (lambda w, a, b, alpha: w + alpha * b @ a, "rank 2, alpha 8"),
        (lambda w, a, b, alpha: w.add_(alpha / a.shape[0] * b @ a), "changed W itself"),
    ],
    checks.most_completions: [
        (lambda *args: int(2 * cache(*args)), "768 tokens each"),  # the keys alone
        (lambda gb, *args: int(cache(int(gb), *args)), "768 tokens each"),
        (lambda *args: math.ceil(cache(*args)) - 1, "exactly a hundred fit"),
        (lambda *args: max(1, int(cache(*args))), "not even one fits"),
    ],
    checks.next_scale: [
        (lambda scale, good, over: (scale / 2, 0) if over else (scale, good + 1), "the 2000th good step"),
        (lambda scale, good, over: (scale / 2, good) if over else (scale, good + 1), "an overflow"),
        (lambda scale, good, over: (32768.0, 0) if over else (scale, good + 1), "an overflow"),
    ],
    checks.chance_to_notice: [
        (lambda n, gained, lost: paired_power(n, gained, 0.0), "expected 0.55"),
        (lambda *case: np.float32(paired_power(*case) + 0.05), SOLVED),
        (lambda n, *rates: paired_power(50, *rates), "for n=100"),
    ],
    checks.chance_of_luck: [(lambda n, m: 1 / math.comb(n + m, n), "for n=1, m=1")],  # one side alone
    checks.reached_at: [
        (lambda c, a: next(iter(c[c["flexible"] >= a]["completions"]), None), "accuracy 0.04"),  # of one seed
        (lambda c, a: max((int(x) for x, v in mean_curve(c).items() if v >= a), default=None), "accuracy 0.04"),
        (lambda c, a: next((int(x) for x, v in mean_curve(c).items() if v > a), None), "accuracy 0.375"),
        (lambda c, a: mean_curve(c).index[np.searchsorted(mean_curve(c), a)], "accuracy 0.375"),  # for what only rises
    ],
    checks.local_loss: [(lambda losses, tokens, processes: sum(losses) / tokens, "returned 1.5, expected 3.0")],
    checks.uses_at_most: [
        (lambda used, numbers: set(used) <= set(numbers), "used twice"),
        (removed_as_used, "work on copies"),
    ],
    checks.judge_gains: [
        (lambda train: {n: "real" if train(count=n)["gained"]["new"] > 104 else "overfit" for n in (8, 300)}, SOLVED),
        (lambda train: {n: "real" if len(train(n)) else "" for n in (8, 300)}, "for 8 questions 1.90 of 2 is paid"),
        (lambda train: {n: "overfit" if len(train(n)) else "" for n in (8, 300)}, "105 gained and 45 lost, +9"),
        (lambda train: {8: "hacked" if len(train(8)) else ""}, "something other than right answers"),
        (lambda train: {8: "overfit"}, "not yet tried: [8]"),
        (lambda train: {8: "overfit" if len(train(8)) else ""}, "'nothing for 300'; return one of real, overfit"),
    ],
    checks.mend_the_mix: [
        (lambda train: [train(), train(beta=0.4), train(easy=0)] and {"easy": 0}, SOLVED),
        (lambda train: len(train(price=0)) and {"price": 0}, SOLVED),
        (lambda train: len(train(beta=0.4)) and {"beta": 0.4}, "0 of 60 hard questions are right and 0 called"),
        (lambda train: [train(easy=n) for n in (4, 3, 1, 0)] and {"easy": 0}, "for 4 runs there is no time"),
        (lambda train: {"easy": 0}, "no run was made; you have tried nothing"),
    ],
    checks.fewest_tests: [
        (lambda train: min((3, 2, 1), key=lambda n: (train(n)["general"] < 0.45, n)), SOLVED),
        (lambda train: max((0, 1, 2, 3), key=lambda n: train(n)["paid"]), "for 0 0.90 is paid, and 90% of the replies"),
        (lambda train: [train(n) for n in range(4)] and 1, "for 1 the share of general replies ends at 0.40"),
        (lambda train: [train(n) for n in range(4)] and 3, "a lower one that will do: 2"),
    ],
    checks.choose_a_limit: [
        (lambda train: [n for n in LATE if train(n)[RIGHT].iloc[-1] > 0.3][0], SOLVED),
        (lambda train: [n for n in LATE if train(n)[CUT].iloc[-1] < 0.1][0], "at 0.04, with 80 at 0.40"),
        (lambda train: [train(n) for n in LATE] and 80, "a lower one that will do: 48"),
        (lambda train: len(train(48)) and 48, "not yet tried: [32, 80]"),
        (lambda train: 40, "your function returned 40; return one of 24, 32"),
    ],
    checks.start_with: [
        (lambda train: max(ENDS, key=lambda name: train(name)[RIGHT].iloc[-1]), SOLVED),
        (lambda train: max(ENDS, key=lambda name: train(name)["reward"].iloc[-1]), "for 'all five' another ends"),
        (lambda train: train("all five") is not None and "all five", "tried: ['as it is', 'right in the layout']"),
        (lambda train: [train(name) for name in ENDS][0], "returned DataFrame; return one of as it is"),
    ],
    checks.find_the_rate: [
        (four_runs, SOLVED),
        (lambda train: max((2e-4, 2e-3), key=train), "nothing higher was tried"),
        (lambda train: max((2e-2, 6e-3), key=train), "nothing lower was tried"),
        (lambda train: min((2e-4, 2e-3, 2e-2), key=train), "another rate ends higher"),
        (lambda train: max((1e-4, 1e-3, 1e-2, 1e-1, 1.0), key=train), "for a fifth run"),
        (lambda train: 3 * max((2e-4, 2e-3, 2e-2), key=train), "return one of the rates tried"),
    ],
    checks.mend: [
        (lambda train: len(train(**MENDED)) and MENDED, SOLVED),
        (lambda train: MENDED, "no run was made; you have tried nothing"),
        (lambda train: len(train(temperature=0.1)) and {"temperature": 0.1}, "by 0.00 points"),
        (lambda train: len(train(**MENDED)) and MENDED | {"beta": 0.0}, "the one setting to change"),
    ],
    checks.treat: [
        (lambda train: len(train(**MENDED)) and MENDED, SOLVED),
        (lambda train: len(train(max_completion_length=160)) and {"max_completion_length": 160}, "by 0.00 points"),
        (lambda train: len(train(steps=5)) and {"steps": 5}, "steps do not count"),
        (lambda train: len(train(learning_rate=9)) and {"learning_rate": 9}, "the reward rises by nan points"),
    ],
    checks.what_each_learned: [
        (lambda train: {n: learned for n, learned in zip("ABC", LEARNED, strict=True) if len(train(n))}, SOLVED),
        (lambda train: {n: LEARNED[1] for n in "ABC" if len(train(n))}, "A: in the layout -10 points, p = 0.01; right"),
        (lambda train: {n: LEARNED[n != "A"] for n in "ABC" if len(train(n))}, "run C: in the layout +80 points"),
        (lambda train: dict(zip("ABC", LEARNED, strict=True)), "call train('A'), return one of"),
        (lambda train: {"A": LEARNED[len(train("A")) // 3]}, "for run B your verdict is None"),
    ],
    checks.same_run: [
        (lambda train: [s for s in SPLITS if train(s[0], times=s[1])["reward"].eq(0.5).all()], SOLVED),
        (lambda train: [s for s in SPLITS if len(train(*s)) and s[1] > 1], "for (64, 1) your verdict is wrong"),
        (lambda train: [s for s in SPLITS if len(train(*s)) and s[0] < 33] + SPLITS[:1], "for (16, 1) your verdict is"),
        (lambda train: SPLITS[:1] if len(train(*SPLITS[0])) else [], "runs are missing: [(16, 1)"),
        (lambda train: [(8, 8)], "returned [(8, 8)]; return a list of some"),
    ],
    checks.decide: [
        (by_the_rule, SOLVED),
        (lambda train, best: by_the_rule(lambda *run: 1, best), "groups of 32 the rule wants three seeds"),
        (lambda train, best: by_the_rule(lambda *run: train(*run) + 1, best), "0.585 with seed 43, 0.565 with seed 44"),
        (lambda train, best: by_the_rule(train, 1), "0.7 the averages are 0.705 with seed 42, 0.688 with seed 43"),
    ],
}


@pytest.mark.parametrize("check", ANSWERS, ids=lambda check: check.__name__)
def test_an_answer_is_accepted_or_told_what_is_missing(check, monkeypatch, capsys):
    for name, run in MADE_UP.items():
        monkeypatch.setattr(f"grpo_helpers.checks.{name}", run)
    for solution, told in ANSWERS[check]:
        printed = said(check, solution, capsys)
        as_told = printed == SOLVED if told == SOLVED else printed.startswith("Not yet: ") and told in printed
        assert as_told, printed
