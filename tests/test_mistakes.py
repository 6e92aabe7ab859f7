"""What counts as a calculation, when it is false, and notebook 06's kinds of replies."""

import time
from decimal import Decimal

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo_helpers.evaluation import score
from grpo_helpers.mistakes import false_sums, has_calculation
from grpo_helpers.prompts import XML_COT_FORMAT

from .cells import definitions

FALSE = {
    "70 * 3 * 1.5 = 225 km": ["70 * 3 * 1.5 = 225"], "10 / 3 = 3.34": ["10 / 3 = 3.34"],
    "90 km per hour * 7 hours = 600 km": ["90 km per hour * 7 hours = 600"], "0 / 0 = 0": ["0 / 0 = 0"],
    "5 - 2 = 4, 1 + 1 = 2, 2 + 2 = 5": ["5 - 2 = 4", "2 + 2 = 5"], "2x$3 = 7": ["2x$3 = 7"],
    "box 4 x 2 = 9": ["4 x 2 = 9"], "3 * 12 = 4 * 9 = 35": ["4 * 9 = 35"], "16 - 27 = 11": ["16 - 27 = 11"],
    "9 \u2212 3 = \u22126": ["9 \u2212 3 = \u22126"],
}  # fmt: skip
HOLD_OR_ARE_NONE = [
    "2 + 3 * 4 = 14", "100 - 20 - 5 = 75", "-3 + 5 = 2", "3 - -2 = 5", "$1,000 * 2 = $2,000", "10 ÷ 4 = 2.5",
    "90 km per hour * 7 hours = 630 km", "10 / 3 = 3.33", "4 × 2 = 8", "x = 4 * 2 = 8", "3 * 12 = 4 * 9 = 36",
    "- 3 * 4 = 12\n- 5 * 2 = 10", "1. 3 + 4 = 7", "He has 3 apples, and 4 - 2 = 2.", "2 = 3", "5 % 3 = 2", "",
    "0,125 * 4 = 1", "3 * 0,500 = 2", "5 + 5 = 0,125", "5 + 5 = 10,20", "3 \u2212 9 = \u22126",
]  # fmt: skip


@pytest.mark.parametrize(("text", "found"), [*FALSE.items(), *((text, []) for text in HOLD_OR_ARE_NONE)])
def test_false_calculations_are_found_and_what_holds_or_is_none_is_not_called_false(text, found):
    assert false_sums(text) == found and (has_calculation(text) or not found)


def test_a_reply_is_worked_if_it_states_a_calculation():
    for text in ("6 * 12 = 72", "<reasoning>\n10 - 25 = -15 degrees\n</reasoning>", "2 hats x 2 X 2 = 2 dollars"):
        assert has_calculation(text)
    for text in (XML_COT_FORMAT.format(reasoning="Easy.", answer="-15"), "6 tax 2 = -15", "6 * 12", "x = 72", ""):
        assert not has_calculation(text)


numbers = st.integers(-500, 500)


@given(numbers, st.sampled_from("+-*x"), numbers, st.sampled_from("+-*x"), numbers, st.integers(-3, 3))
def test_any_calculation_of_whole_numbers_is_judged_as_python_does(a, first, b, second, c, off):
    def value(x, operator, y):
        return {"+": x + y, "-": x - y, "*": x * y, "x": x * y}[operator]

    truth = value(a, first, value(b, second, c)) if second in "*x" else value(value(a, first, b), second, c)
    assert bool(false_sums(f"{a} {first} {b} {second} {c} = {truth + off}")) is (off != 0)


@given(st.integers(1, 999), st.integers(1, 99), st.integers(0, 3))
def test_a_quotient_may_be_rounded_but_not_more(a, b, digits):
    shown = round(Decimal(a) / Decimal(b), digits)
    step = Decimal(1).scaleb(-digits)
    assert false_sums(f"{a} / {b} = {shown:f}") == []
    assert false_sums(f"{a} / {b} = {shown + step + step / 10:f}") != []


@given(st.text(alphabet="0123456789 +-*/=.,$a\n", max_size=60))
def test_any_text_is_judged(text):
    assert all(found in text for found in false_sums(text))


@pytest.mark.parametrize("part", ["1*1*", "3 a b c ", "9", "- ", "1 apple + ", "= 2 * 3 "])
def test_time_grows_with_the_length_and_not_with_its_square(part):
    def seconds(repeats):
        start = time.process_time()
        false_sums(part * repeats + "= 3")
        return time.process_time() - start

    assert min(seconds(4000) for _ in range(3)) < 8 * min(seconds(1000) for _ in range(3)) + 0.02


kinds = definitions("06_evaluation", "SIX_KINDS", "kind_of", "count_kinds")
RIGHT = XML_COT_FORMAT.format(reasoning="6 * 12 = 72", answer="72")


def test_the_kind_of_a_reply():
    for completion, truncated, kind in (
        (RIGHT, False, "right"), ("6 * 12 = 72. The answer is 72.", False, "no layout"),
        ("6 * 12 = 60 and", True, "cut off"), ("I do not know.", False, "no number"),
        (RIGHT.replace("72", "62"), False, "false sum"),
        (XML_COT_FORMAT.format(reasoning="6 + 12 = 18", answer="18"), False, "wrong number"),
    ):  # fmt: skip
        assert kinds.kind_of(pd.Series(score("?", "72", completion, truncated))) == kind


def test_kinds_are_counted_and_none_is_missing():
    before = pd.DataFrame([score("?", "72", text, False) for text in ("72", "72", "6 * 12 = 70")])
    after = pd.DataFrame([score("?", "72", RIGHT, False)] * 3)
    counts = kinds.count_kinds(before, after)
    assert counts.index.to_list() == list(kinds.SIX_KINDS)
    assert counts["before"].to_dict() == dict.fromkeys(kinds.SIX_KINDS, 0) | {"no layout": 2, "false sum": 1}
    assert counts["after"].to_dict() == dict.fromkeys(kinds.SIX_KINDS, 0) | {"right": 3}
