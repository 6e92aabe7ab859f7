"""The exercises' checks: nothing breaks run-all, and near misses are told from solutions.

That the notebooks' own solutions pass is tested in test_notebooks.py.
"""

import math

import pytest

from grpo_helpers import checks
from grpo_helpers.statistics import wilson_interval

OF_VALUES = {"name_the_patients"}  # these look at a value, the others at a function
CHECKS = [getattr(checks, name) for name in checks.__all__ if name not in OF_VALUES]


def said(capsys: pytest.CaptureFixture[str]) -> str:
    output = capsys.readouterr()
    assert not output.err
    return output.out


@pytest.mark.parametrize("check", CHECKS)
def test_an_unsolved_exercise_is_told_what_is_missing(check, capsys):
    def unsolved(*args, **kwargs): ...

    assert check(unsolved) is None
    assert said(capsys).startswith("Not yet: for ")


@pytest.mark.parametrize("check", CHECKS)
def test_an_exception_of_the_learner_is_reported_by_name(check, capsys):
    def broken(*args, **kwargs):
        raise KeyError("prompt")

    check(broken)
    assert said(capsys) == "Not yet: broken raised KeyError: 'prompt'\n"


@pytest.mark.parametrize("check", CHECKS)
def test_a_wrong_signature_is_reported(check, capsys):
    check(lambda: None)
    assert "raised TypeError" in said(capsys)


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
    checks.name_the_patients(names)
    printed = said(capsys)
    assert printed.startswith("Not yet: ") and missing in printed


def test_a_reward_that_looks_outside_the_block_is_not_accepted(capsys):
    checks.steps_shown(lambda completions, **kwargs: [0.25 if "=" in c else 0.0 for c in completions])
    assert "outside the reasoning block" in said(capsys)


def test_a_reward_must_also_read_conversations(capsys):
    def plain_text_only(completions, **kwargs):
        texts = [c for c in completions if isinstance(c, str)]
        blocks = [t.partition("<reasoning>")[2].rpartition("</reasoning>")[0] for t in texts]
        return [0.25 if "=" in b else 0.0 for b in blocks]

    checks.steps_shown(plain_text_only)
    assert "conversations" in said(capsys)


def test_groups_tied_at_zero_count_as_silent(capsys):
    checks.silent_groups(lambda groups: sum(len(set(g)) == 1 and any(g) for g in groups) / len(groups))
    assert "tied at zero" in said(capsys)


def test_the_normal_approximation_is_not_wilson(capsys):
    def normal(rate, width):
        return max(1, math.ceil((2 * 1.96 / width) ** 2 * rate * (1 - rate)))

    checks.questions_needed(normal)
    assert said(capsys).startswith("Not yet: for rate=")


def test_an_interval_one_question_short_is_not_enough(capsys):
    def almost(rate, width):
        n = 1
        while wilson_interval(round(rate * n), n)[1] - wilson_interval(round(rate * n), n)[0] > width:
            n += 1
        return n - 1

    checks.questions_needed(almost)
    assert said(capsys).startswith("Not yet: for rate=")


def test_a_verdict_that_ignores_the_layout_is_not_accepted(capsys):
    checks.verdict(lambda completion, gold: "right" if gold in completion else "wrong")
    assert "without tags" in said(capsys) or "72.0" in said(capsys)
