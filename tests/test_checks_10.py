"""Notebook 10's checks: solutions that are nearly right are told what they miss."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from grpo_helpers.checks import notebook_10 as checks
from grpo_helpers.prompts import extract_xml_answer
from grpo_helpers.rewards import completion_text


def said(check, solution, capsys) -> str:
    check(solution)
    return capsys.readouterr().out


def removed_as_used(used, numbers):
    for n in used:
        if n not in numbers:
            return False
        numbers.remove(n)
    return True


@pytest.mark.parametrize(
    ("solution", "missing"),
    [
        (lambda used, numbers: set(used) <= set(numbers), "used twice"),
        (lambda used, numbers: sorted(used) == sorted(numbers), "left over"),
        (lambda used, numbers: all(n in numbers for n in used) and len(used) <= len(numbers), "used twice"),
        (lambda used, numbers: len(used) <= len(numbers) or None, "used twice"),
        (removed_as_used, "work on copies"),
        (lambda used, numbers: ..., "used twice"),
    ],
)
def test_counting_numbers_in_a_wrong_way_is_noticed(solution, missing, capsys):
    assert missing in said(checks.uses_at_most, solution, capsys)


def test_counting_them_right_is_enough(capsys):
    assert said(checks.uses_at_most, lambda u, n: Counter(u) <= Counter(n), capsys) == "Solved.\n"
    assert said(checks.uses_at_most, lambda u, n: removed_as_used(u, list(n)), capsys) == "Solved.\n"


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


PATTERN = r"([1-9][0-9]{0,8}), ?([1-9][0-9]{0,8}), ?([1-9][0-9]{0,8})"


def strictly(text: str, target: str) -> float:
    found = re.fullmatch(PATTERN, extract_xml_answer(text))
    numbers = list(map(int, found.groups())) if found else []
    return float(len(set(numbers)) == 3 and sum(numbers) == int(target))


def test_a_reward_for_plain_text_only_or_for_the_first_target_only_is_not_accepted(capsys):
    def plain(completions, answer, **kwargs):
        return [strictly(c, a) if isinstance(c, str) else 0.0 for c, a in zip(completions, answer, strict=True)]

    def first(completions, answer, **kwargs):
        return [strictly(completion_text(c), answer[0]) for c in completions]

    assert "conversations" in said(checks.three_numbers, plain, capsys)
    assert "other targets" in said(checks.three_numbers, first, capsys)


@pytest.mark.parametrize(
    ("solution", "missing"),
    [
        (lambda rates, g: sum(1 - (1 - p) ** g for p in rates) / len(rates), "always or never"),
        (lambda rates, g: sum(1 - p**g - (1 - p) ** g for p in rates), "rates that differ"),
        (lambda rates, g: sum(4 * p * (1 - p) / 2 for p in rates) / len(rates), "groups of 8"),
    ],
)
def test_a_wrong_chance_of_a_signal_is_noticed(solution, missing, capsys):
    assert missing in said(checks.share_with_signal, solution, capsys)
