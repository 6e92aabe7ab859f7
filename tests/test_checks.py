"""The exercises' checks: nothing breaks run-all, and near misses are told from solutions.

That the notebooks' own solutions pass is tested in test_notebooks.py.
"""

import math
import re
from collections import Counter
from importlib import import_module
from types import SimpleNamespace

import pandas as pd
import pytest

from grpo_helpers import records
from grpo_helpers.profiles import ROOT
from grpo_helpers.prompts import extract_hash_answer, extract_xml_answer, same_number
from grpo_helpers.rewards import completion_text, correctness_reward_func, final_answer
from grpo_helpers.statistics import wilson_interval

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
RIGHT, CUT = "rewards/correctness_reward_func/mean", "completions/clipped_ratio"
# these look at a value, the others at a function
OF_VALUES = [checks.name_the_patients, checks.keeps_options, checks.is_shown]
CHECKS = [check for check in vars(checks).values() if check not in OF_VALUES]
paired_power = definitions("06_evaluation", "paired_power").paired_power
Step = definitions("09_scaling_out", "Step").Step
naive_reward_func = definitions("03_reward_design", "naive_reward_func").naive_reward_func


def said(check, solution, capsys) -> str:
    assert check(solution) is None
    output = capsys.readouterr()
    assert not output.err
    return output.out


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_an_unsolved_or_broken_exercise_is_reported(check, capsys):
    def broken(*args, **kwargs):
        raise KeyError("prompt")

    assert said(check, lambda *args, **kwargs: None, capsys).startswith("Not yet: for ")
    assert said(check, broken, capsys) == "Not yet: broken raised KeyError: 'prompt'\n"
    assert "raised TypeError" in said(check, lambda: None, capsys)


@pytest.mark.parametrize(
    ("names", "missing"),
    [
        ("truncated", "give a dictionary"),
        (print, "give a dictionary"),
        (dict.fromkeys("ABCDEFG", ...), "patient A: Ellipsis is none of the doctor's words"),
        (dict.fromkeys("ABCDEFG", "truncated"), "patient B"),
        ({"A": "truncated"}, "patient B"),
    ],
)
def test_a_diagnosis_that_is_none_or_wrong_is_told(names, missing, capsys):
    printed = said(checks.name_the_patients, names, capsys)
    assert printed.startswith("Not yet: ") and missing in printed


@pytest.mark.parametrize(
    ("beta", "missing"),
    [(..., "a number above 0"), (0, "a number above 0"), (1, "left with"), (1e-3, "left with"), (2, "only 2.38")],
)
def test_a_beta_that_costs_points_or_options_is_told(beta, missing, capsys):
    printed = said(checks.keeps_options, beta, capsys)
    assert printed.startswith("Not yet: ") and missing in printed


@pytest.mark.parametrize("beta", [1.58, 1.92])
def test_a_beta_that_leaves_both_is_taken(beta, capsys):
    assert said(checks.keeps_options, beta, capsys) == "Solved.\n"


@pytest.mark.parametrize(
    ("shown", "missing"),
    [
        ("A", "give a dictionary"),
        (dict.fromkeys("ABCDE", ...), "claim A: Ellipsis is neither"),
        (dict.fromkeys("ABCDE", True), "claim B: 4 gained, 2 lost, p = 0.69"),
        (dict.fromkeys("ABCDE", False), "claim A: 59 gained, 2 lost"),
        ({"A": True, "B": False, "C": True, "D": True}, "claim D: 9 gained, 0 lost, p = 0.0039 (strict"),
        ({"A": True, "B": False, "C": True, "D": False}, "claim E: None is neither"),
    ],
)
def test_a_claim_that_is_not_shown_is_told(shown, missing, capsys):
    printed = said(checks.is_shown, shown, capsys)
    assert printed.startswith("Not yet: ") and missing in printed


def changes_w(w, a, b, alpha):
    w += alpha / a.shape[0] * b @ a
    return w


def cache(gb, layers, kv, dim, tokens, size):
    return gb * 1e9 / (2 * layers * kv * dim * size * tokens)


def almost_wide_enough(rate, width):
    def found(n):
        low, high = wilson_interval(round(rate * n), n)
        return high - low

    return next(n for n in range(1, 1000) if found(n) <= width) - 1


def mean_curve(curves):
    return curves.groupby("completions")["flexible"].mean()


def accumulation(prompts, group, processes, batch):
    """By trying: the only way that needs no thought."""
    completions = prompts * group
    return next((k for k in range(1, completions + 1) if processes * batch * k == completions), 0)


def removed_as_used(used, numbers):
    for n in used:
        if n not in numbers:
            return False
        numbers.remove(n)
    return True


def strings_only(completions, answer, **kwargs):
    said = map(final_answer, completions)
    return [2.0 if same_number(s, a) else 0.0 for s, a in zip(said, answer, strict=True)]


# check → what is wrong with a solution → the solution, and words of the message where they matter
NEAR_MISSES = {
    checks.read_gold: {
        "commas": (lambda text: float(extract_hash_answer(text)), "raised ValueError"),
        "units": (lambda text: float(text.split("####")[1]) if "####" in text else None, "raised ValueError"),
    },
    checks.silent_chance: {"failures only": (lambda p, group_size: (1 - p) ** group_size, "for p=0.5")},
    checks.break_the_reward: {
        "naive": (naive_reward_func, "gold with a comma: deserves pay, got 0.0"),
        "strings only": strings_only,
    },
    checks.disputed_group: {
        "alone at the top": (lambda n: [(0.5, 2)] + [(0, 0)] * (n - 1), "both ways prefer"),
        "one pair": (lambda n: [(0.5, 2), (0, 0)], "expected 4 pairs"),
        "others' values": (lambda n: [(0.25, 2)] * n, "there is a pair (0.25, 2"),
        "all alike": (lambda n: [(0, 0)] * n, "both ways prefer"),
    },
    checks.steps_shown: {
        "looks outside the block": (
            lambda completions, **kwargs: [0.25 if "=" in c else 0.0 for c in completions],
            "outside the reasoning block",
        ),
    },
    checks.merged_weight: {
        "no scale": lambda w, a, b, alpha: w + b @ a,
        "alpha not divided": lambda w, a, b, alpha: w + alpha * b @ a,
        "divided by the outputs": lambda w, a, b, alpha: w + alpha / b.shape[0] * b @ a,
        "the wrong way round": lambda w, a, b, alpha: w + alpha / a.shape[0] * a @ b,
        "the correction alone": lambda w, a, b, alpha: alpha / a.shape[0] * b @ a,
        "changes W": (changes_w, "changed W itself"),
    },
    checks.most_completions: {
        "keys only": lambda *args: int(2 * cache(*args)),
        "GiB": lambda gb, *args: int(cache(gb, *args) * 2**30 / 1e9),
        "two bytes always": lambda *args: int(cache(*args[:-1], 2)),
        "rounded": lambda *args: round(cache(*args)),
        "at least one": lambda *args: max(1, int(cache(*args))),
    },
    checks.next_scale: {
        "never grows": lambda scale, good, over: (scale / 2, 0) if over else (scale, good + 1),
        "a step late": lambda scale, good, over: (
            (scale / 2, 0) if over else (scale * 2, 0) if good == 2000 else (scale, good + 1)
        ),
        "overflow keeps the count": lambda scale, good, over: (
            (scale / 2, good) if over else (scale * 2, 0) if good == 1999 else (scale, good + 1)
        ),
        "growth keeps the count": lambda scale, good, over: (
            (scale / 2, 0) if over else (scale * 2, 2000) if good == 1999 else (scale, good + 1)
        ),
    },
    checks.questions_needed: {
        "the normal approximation": lambda rate, width: max(1, math.ceil((3.92 / width) ** 2 * rate * (1 - rate))),
        "one question short": almost_wide_enough,
        "one": (lambda rate, width: 1, "for rate=0.5, width=0.5"),
    },
    checks.chance_to_notice: {
        "a guess": lambda n, gained, lost: 0.5,
        "losses ignored": lambda n, gained, lost: paired_power(n, gained, 0.0),
        "the misses": lambda *case: 1 - paired_power(*case),
        "a word": lambda n, gained, lost: "often",
    },
    checks.chance_of_luck: {
        "one side only": lambda n, m: 1 / math.comb(n + m, n),
        "orders counted": lambda n, m: 2 / math.perm(n + m, n),
    },
    checks.reached_at: {
        "one seed is enough": lambda c, a: next(iter(c[c["flexible"] >= a]["completions"]), None),
        "zero is not never": lambda c, a: next((int(at) for at, value in mean_curve(c).items() if value >= a), 0),
        "the last time": lambda c, a: max((int(x) for x, v in mean_curve(c).items() if v >= a), default=None),
    },
    checks.same_step: {
        "rounded down": lambda prompts, group, processes, batch: prompts * group // (processes * batch),
        "a fraction": lambda prompts, group, processes, batch: prompts * group / (processes * batch),
        "the group forgotten": lambda prompts, group, processes, batch: prompts // (processes * batch),
        "never none": lambda *case: max(1, accumulation(*case)),
    },
    checks.local_loss: {
        "its own mean": lambda losses, tokens, processes: sum(losses) / len(losses),
        "too small by the number of processes": lambda losses, tokens, processes: sum(losses) / tokens,
        "its own tokens": lambda losses, tokens, processes: sum(losses) * processes / len(losses),
        "weighted twice": lambda losses, tokens, processes: sum(losses) * len(losses) / tokens,
    },
    checks.fewest_gpus: {
        "the rest forgotten": lambda billions, rest, budget: math.ceil(16 * billions / budget),
        "one too many": lambda billions, rest, budget: int(16 * billions // max(budget - rest, 1)) + 1,
        "the rest sliced": lambda billions, rest, budget: math.ceil((16 * billions + rest) / budget),
        "weights alone": lambda billions, rest, budget: math.ceil(2 * billions / max(budget - rest, 1)),
        "no way out": lambda billions, rest, budget: math.ceil(16 * billions / (budget - rest)),
    },
    checks.uses_at_most: {
        "sets": (lambda used, numbers: set(used) <= set(numbers), "used twice"),
        "all of them": (lambda used, numbers: sorted(used) == sorted(numbers), "left over"),
        "lengths": (lambda used, numbers: all(n in numbers for n in used) and len(used) <= len(numbers), "used twice"),
        "None for no": (lambda used, numbers: len(used) <= len(numbers) or None, "used twice"),
        "takes from the list": (removed_as_used, "work on copies"),
        "always": (lambda used, numbers: ..., "used twice"),
    },
    checks.share_with_signal: {
        "failures only": (lambda rates, g: sum(1 - (1 - p) ** g for p in rates) / len(rates), "always or never"),
        "a sum": (lambda rates, g: sum(1 - p**g - (1 - p) ** g for p in rates), "rates that differ"),
        "pairs": (lambda rates, g: sum(2 * p * (1 - p) for p in rates) / len(rates), "groups of 8"),
    },
}


@pytest.mark.parametrize(
    ("check", "solution"),
    [
        pytest.param(check, solution, id=f"{check.__name__}, {name}")
        for check, wrong in NEAR_MISSES.items()
        for name, solution in wrong.items()
    ],
)
def test_a_near_miss_is_told_what_is_missing(check, solution, capsys):
    solution, missing = solution if isinstance(solution, tuple) else (solution, "")
    printed = said(check, solution, capsys)
    assert printed.startswith("Not yet: ") and missing in printed


def by_calculator(prompts, group, processes, batch):
    found = accumulation(prompts, group, processes, batch)
    assert not found or Step(processes, batch, found, group).prompts == prompts
    return found


@pytest.mark.parametrize(
    ("check", "solution"),
    [
        (checks.break_the_reward, correctness_reward_func),
        (checks.chance_to_notice, paired_power),
        (checks.chance_to_notice, lambda *case: paired_power(*case) + 0.05),
        (checks.same_step, by_calculator),
        (checks.uses_at_most, lambda used, numbers: Counter(used) <= Counter(numbers)),
        (checks.uses_at_most, lambda used, numbers: removed_as_used(used, list(numbers))),
    ],
)
def test_other_ways_than_the_notebooks_are_accepted(check, solution, capsys):
    assert said(check, solution, capsys) == "Solved.\n"


# --- decisions: the runs are made up -------------------------------------------

ENDS = {"as it is": 0.1, "right in the layout": 0.9, "all five": 0.4}


@pytest.mark.parametrize(
    ("decide", "printed"),
    [
        (lambda train: max(ENDS, key=lambda name: train(name)[RIGHT].iloc[-1]), "Solved."),
        (lambda train: max(ENDS, key=lambda name: train(name)["reward"].iloc[-1]), "for 'all five' another ends"),
        (lambda train: "right in the layout", "as it is and right in the layout and all five not yet"),
        (lambda train: train("all five") is not None and "all five", "right in the layout not yet"),
        (lambda train: [train(name) for name in ENDS][0], "return one of as it is"),
    ],
)
def test_a_reward_is_chosen_by_the_right_answers_of_three_runs(decide, printed, monkeypatch, capsys):
    runs = {n: pd.DataFrame({RIGHT: [0.1, end] * 5, "reward": [n == "all five"] * 10}) for n, end in ENDS.items()}
    monkeypatch.setattr("grpo_helpers.checks.notebook_03.history_of", runs.get)
    assert printed in said(checks.start_with, decide, capsys)


def four_runs(train):
    ends = {rate: train(rate) for rate in (2e-4, 2e-3, 2e-2)}
    ends[6e-3] = train(6e-3)
    return max(ends, key=ends.get)


@pytest.mark.parametrize(
    ("search", "printed"),
    [
        (four_runs, "Solved."),
        (lambda train: max((2e-4, 2e-3), key=train), "nothing higher was tried"),
        (lambda train: max((2e-2, 6e-3), key=train), "nothing lower was tried"),
        (lambda train: min((2e-4, 2e-3, 2e-2), key=train), "another rate ends higher"),
        (lambda train: max((1e-4, 1e-3, 1e-2, 1e-1, 1.0), key=train), "for a fifth run"),
        (lambda train: 3 * max((2e-4, 2e-3, 2e-2), key=train), "return one of the rates tried"),
    ],
)
def test_a_rate_is_bracketed_in_four_runs(search, printed, monkeypatch, capsys):
    monkeypatch.setattr("grpo_helpers.checks.notebook_04.reward_at", lambda rate: -abs(math.log(rate / 3e-3)))
    assert printed in said(checks.find_the_rate, search, capsys)


LATE = {24: (0.06, 0.04), 32: (0.2, 0.1), 48: (0.02, 0.4), 80: (0.0, 0.4)}  # cut off, and right


@pytest.mark.parametrize(
    ("choose", "printed"),
    [
        (lambda train: [n for n in LATE if train(n)[RIGHT].iloc[-1] > 0.3][0], "Solved."),
        (lambda train: [n for n in LATE if train(n)[CUT].iloc[-1] < 0.1][0], "at 0.04, with 80 at 0.40"),
        (lambda train: [train(n) for n in LATE] and 80, "a lower one that will do: 48"),
        (lambda train: len(train(48)) and 48, "not yet tried: [32, 80]"),
        (lambda train: 40, "return one of (24, 32"),
    ],
)
def test_a_limit_is_judged_by_the_right_answers_that_come(choose, printed, monkeypatch, capsys):
    runs = {limit: pd.DataFrame({CUT: [cut] * 9, RIGHT: [right] * 9}) for limit, (cut, right) in LATE.items()}
    monkeypatch.setattr("grpo_helpers.checks.notebook_02.history_at", runs.get)
    assert printed in said(checks.choose_a_limit, choose, capsys)


@pytest.mark.parametrize(
    ("cure", "printed"),
    [
        (lambda train: len(train(learning_rate=0.002)) and {"learning_rate": 0.002}, "Solved."),
        (lambda train: {"learning_rate": 0.002}, "no run was made; you have tried nothing"),
        (lambda train: len(train(temperature=0.1)) and {"temperature": 0.1}, "0.00 points only"),
        (
            lambda train: len(train(learning_rate=0.002)) and {"learning_rate": 0.002, "beta": 0.0},
            "the one setting to change",
        ),
    ],
)
def test_one_setting_mends_the_run(cure, printed, monkeypatch, capsys):
    def history_with(changes):
        return pd.DataFrame({"reward": [0.8] * 5 + [0.8 + ("learning_rate" in changes)] * 5})

    monkeypatch.setattr("grpo_helpers.checks.notebook_05.history_with", history_with)
    assert printed in said(checks.mend, cure, capsys)


def by_the_rule(train, best):
    names = {"groups of 32": (43, 44), "temperature 0.7": (43, 44)}
    above = {name: all(train(name, seed) > best for seed in seeds) for name, seeds in names.items()}
    return {name: "better" if yes else "no difference we can see" for name, yes in above.items()}


@pytest.mark.parametrize(
    ("decide", "printed"),
    [
        (by_the_rule, "Solved."),
        (lambda train, best: by_the_rule(lambda *run: 1, best), "groups of 32 the rule wants three seeds"),
        (lambda train, best: by_the_rule(lambda *run: train(*run) + 1, best), "0.585 with seed 43, 0.565 with seed 44"),
        (lambda train, best: by_the_rule(train, 1), "temperature 0.7 there is 0.705 with seed 42, 0.688 with seed 43"),
        (lambda train, best: "better", "the rule wants three seeds"),
    ],
)
def test_better_is_told_from_lucky(decide, printed, monkeypatch, capsys):
    module = import_module("grpo_helpers.checks.notebook_08")

    def average_at(name, seed):  # as recorded
        return module.averages(records.load(module.LAB[name][0], "tiny")["curves"])[name, seed]

    monkeypatch.setattr(module, "average_at", average_at)
    assert printed in said(checks.decide, decide, capsys)


# --- rewards --------------------------------------------------------------------


def three(text: str, target: str, *, different=True, positive=True, count=True) -> float:
    try:
        numbers = [int(n) for n in extract_xml_answer(text).split(",")]
    except ValueError:
        return 0.0
    ok = sum(numbers) == int(target)
    ok &= not count or len(numbers) == 3
    ok &= not different or len(set(numbers)) == len(numbers)
    return float(ok and (not positive or min(numbers) > 0))


@pytest.mark.parametrize(
    ("options", "missing"),
    [
        ({"count": False}, "the target itself"),
        ({"different": False}, "the same number three times"),
        ({"positive": False}, "a zero"),
        ({}, "digits of another script"),  # int reads them, and refuses 5,000 digits with a ValueError
    ],
)
def test_each_hole_in_the_reward_is_named(options, missing, capsys):
    def reward_func(completions, answer, **kwargs):
        return [three(completion_text(c), a, **options) for c, a in zip(completions, answer, strict=True)]

    assert missing in said(checks.three_numbers, reward_func, capsys)


def strictly(text: str, target: str) -> float:
    number = r"([1-9][0-9]{0,8})"
    found = re.fullmatch(f"{number}, ?{number}, ?{number}", extract_xml_answer(text))
    numbers = list(map(int, found.groups())) if found else []
    return float(len(set(numbers)) == 3 and sum(numbers) == int(target))


def shown(text: str, target: str) -> float:
    return 0.25 if "=" in text.partition("<reasoning>")[2].rpartition("</reasoning>")[0] else 0.0


@pytest.mark.parametrize(("check", "pays"), [(checks.steps_shown, shown), (checks.three_numbers, strictly)])
def test_a_reward_must_also_read_conversations(check, pays, capsys):
    def plain_text_only(completions, answer=("?",) * 9, **kwargs):
        return [pays(c, a) if isinstance(c, str) else 0.0 for c, a in zip(completions, answer, strict=False)]

    assert "conversations" in said(check, plain_text_only, capsys)


def test_each_completion_has_a_target_of_its_own(capsys):
    def first(completions, answer, **kwargs):
        return [strictly(completion_text(c), answer[0]) for c in completions]

    assert "other targets" in said(checks.three_numbers, first, capsys)
