"""Countdown: what is calculated, what is paid, and that no game is in both splits."""

import itertools
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo_helpers.profiles import TINY
from grpo_helpers.prompts import XML_COT_FORMAT
from record import countdown

from .cells import definitions

taught = definitions("10_your_own_task", "calculate", "expressions", "verdict", "VERDICTS")


def reply(expression):
    return XML_COT_FORMAT.format(reasoning="so", answer=expression)


@pytest.mark.parametrize(
    ("expression", "value", "used"),
    [
        ("(2 + 4) / 3", 2, [2, 4, 3]), ("2 + 4 / 3", Fraction(10, 3), [2, 4, 3]),
        ("10 - 2 - 3", 5, [10, 2, 3]), ("10-(2-3)", 11, [10, 2, 3]), (" 5 ", 5, [5]),
    ],
)  # fmt: skip
def test_expressions_are_calculated_exactly(expression, value, used):
    assert taught.calculate(expression) == (value, used)


NONSENSE = "|()|4 +|4 7|* 4|(4|4)|4 // 2|2 ** 9|-4 + 9|07 + 1|4 / 0|4 / (2 - 2)|4.5 * 2|1e3|0x10|1_0 + 1|4 = 4|x + 1"
NONSENSE += "|True + 1|４ + ７|4\n+ 7|4\0|², ³|4 #7|__import__('os').system('x')|[4][0]|4 if 1 else 7"
HUGE = ["(" * 400 + "1" + ")" * 400, "1+" * 5000 + "1", "9" * 5000]


def test_whatever_else_it_is_is_refused_with_a_reason():
    for expression in [*NONSENSE.split("|"), *HUGE]:
        with pytest.raises(ValueError, match="expression|something else|divides by zero"):
            taught.calculate(expression)


@given(st.text(alphabet="0123456789+-*/() .e_\n\0x²４", max_size=300))
def test_no_text_breaks_the_calculator(text):
    try:
        value, used = taught.calculate(text)
    except ValueError:
        return
    assert isinstance(value, Fraction) and used and all(n >= 0 for n in used)


@pytest.mark.parametrize(
    ("wanted", "expressions"),
    [
        ("other numbers", ("28", "28 * 1", "4 * 7 + 7 - 7", "7", "47 - 19")),
        ("no expression", ("4 * 7 = 28", "4 + 7\n4 * 7", "4 ** 7", "print(28)")),
        ("another value", ("4 + 7",)),
        ("solved", ("7 * 4",)),
    ],
)
def test_cheats_are_called_what_they_are(wanted, expressions):
    for expression in expressions:
        assert taught.verdict(reply(expression), [4, 7], "28") == wanted, expression


def test_without_the_layout_nothing_is_paid():
    for text in ("4 * 7", reply("4 * 7") * 2, reply("4 * 7") + "\nor so", "<answer>4 * 7</answer>", ""):
        assert taught.verdict(text, [4, 7], "28") == "no layout"
        asked = {"completions": [text], "numbers": [[4, 7]], "answer": ["28"], "prompts": ["?"]}
        assert [f(**asked) for f in countdown.REWARD_FUNCS] == [[0.0], [0.0]]


def test_every_right_expression_is_paid_not_only_the_one_in_the_data():
    found = taught.expressions([2, 3, 6])
    assert {"2 * 3 + 6", "3 * 2 + 6", "6 + 2 * 3", "6 + 3 * 2"} <= set(found[12])
    for target, solutions in found.items():
        for expression in (*solutions, *(f"({e})" for e in solutions)):
            assert taught.verdict(reply(expression), [6, 2, 3], str(target)) == "solved"


def test_of_all_games_of_two_numbers_none_is_missing():
    for a, b in itertools.combinations(range(2, 8), 2):
        wanted = {a + b, b - a, a * b} | ({b // a} if b % a == 0 else set())
        assert set(taught.expressions([a, b])) == wanted


def test_games_are_the_same_every_time_and_no_set_of_numbers_is_in_both_splits():
    train, held_out = countdown.games(2)
    again, _ = countdown.games(2)
    assert train.to_list() == again.to_list() != countdown.games(2, seed=1)[0].to_list()
    sets = [{tuple(sorted(n)) for n in split["numbers"]} for split in (train, held_out)]
    assert sets[0] and sets[1] and not sets[0] & sets[1]
    assert len(set(train["question"])) == len(train)


@pytest.mark.trains
def test_the_recorded_road_runs_and_says_how_each_policy_played(monkeypatch):
    monkeypatch.setattr(countdown.taught, "SHOWN", 4)
    tables = countdown.countdown(TINY.with_(steps=2, batch=16, eval_questions=6, max_completion_length=24), seed=1)
    assert len(tables["history"]) == 2
    rates = tables["rates"]
    assert rates["policy"].tolist() == ["as shipped", "after warm-up", "after GRPO"] and set(rates["games"]) == {6}
    assert rates[list(taught.VERDICTS)].sum(axis=1).tolist() == pytest.approx([1, 1, 1])
