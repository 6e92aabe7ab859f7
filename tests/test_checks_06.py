"""The checks of notebook 06's exercises: right functions pass, near misses are told what is missing."""

import pytest

from grpo_helpers import checks
from grpo_helpers.prompts import last_number, same_number
from grpo_helpers.statistics import paired_power


def said(check, function, capsys):
    check(function)
    return capsys.readouterr().out


def test_the_exact_power_is_accepted(capsys):
    assert said(checks.chance_to_notice, paired_power, capsys) == "Solved.\n"
    assert said(checks.chance_to_notice, lambda *case: paired_power(*case) + 0.05, capsys) == "Solved.\n"


@pytest.mark.parametrize(
    "wrong",
    [
        lambda n, gained, lost: None,
        lambda n, gained, lost: 0.5,
        lambda n, gained, lost: paired_power(n, gained, 0.0),
        lambda n, gained, lost: 1 - paired_power(n, gained, lost),
        lambda n, gained, lost: "often",
        lambda n, gained, lost: 1 / 0,
    ],
    ids=["nothing", "a guess", "losses ignored", "the misses", "a word", "an error"],
)
def test_other_powers_are_not(wrong, capsys):
    assert said(checks.chance_to_notice, wrong, capsys).startswith("Not yet: ")


def test_a_verdict_by_the_flexible_reading_alone_is_not_accepted(capsys):
    def verdict(completion, gold):
        number = last_number(completion)
        return "nothing" if number is None else "right" if same_number(number, gold) else "wrong"

    assert "without tags" in said(checks.verdict, verdict, capsys)


def test_questions_needed_that_forgets_to_round_is_not_accepted(capsys):
    assert said(checks.questions_needed, lambda rate, width: 1, capsys).startswith("Not yet: for rate=0.5, width=0.5")
