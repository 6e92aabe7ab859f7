"""The prompt we send, and how numbers are read back from what comes in return."""

from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grpo_helpers.prompts import (
    SYSTEM_PROMPT,
    XML_COT_FORMAT,
    build_messages,
    extract_hash_answer,
    extract_xml_answer,
    gold_text,
    last_number,
    parse_number,
    same_number,
)

# More than 28 digits, with a minus: where Decimal arithmetic, unlike Decimal itself, rounds.
integers = st.one_of(st.integers(-(10**9), 10**9), st.integers(10**30, 10**40), st.integers(-(10**40), -(10**30)))
numbers = st.one_of(
    integers.map(Decimal), st.builds(Decimal.scaleb, st.integers(-(10**20), 10**20).map(Decimal), st.integers(-8, -1))
)

FRAGMENTS = [
    "<reasoning>", "</reasoning>", "<answer>", "</answer>", "</answer", "<answer >", "<answer>72</answer>",
    XML_COT_FORMAT.format(reasoning="6 * 12 = 72", answer="72"),
    "####", "###", "72", "-5", "3.5", "1,000", "²", "٣", "-", "\u2212", "+", "$", "€", "%",
    ".", ",", "/", "e", "a", " ", "\n", "\0",
]  # fmt: skip
hostile_texts = st.one_of(st.text(), st.lists(st.sampled_from(FRAGMENTS), max_size=20).map("".join))


@pytest.mark.parametrize("system", [SYSTEM_PROMPT, "Be brief.", "", None])
@pytest.mark.parametrize("shots", [[], [("q1", "r1"), ("q2", "r2")]])
def test_chat_is_system_message_then_worked_examples_then_question(system, shots):
    said = [] if system is None else [("system", system)]
    said += [turn for q, r in shots for turn in (("user", q), ("assistant", r))]
    messages = build_messages("How many?", system, shots)
    assert [(m["role"], m["content"]) for m in messages] == [*said, ("user", "How many?")]


def test_system_prompt_and_template_ask_for_the_same_layout():
    asked, shown = ([line for line in text.splitlines() if "<" in line] for text in (SYSTEM_PROMPT, XML_COT_FORMAT))
    assert asked == shown == ["<reasoning>", "</reasoning>", "<answer>", "</answer>"]


NO_NUMBER = [
    "", " ", ".", ",", "-", "$", "%", "$.", "x", "nan", "-Infinity", "72 apples", "x = 72", "12\n34", "[72]",
    "1,00", "1,0000", "10,00,000", "1234,567", ",500", "1,000,", "1,,000", "1.000,50", "1.2.3", "1 000",
    "1e3", "1E3", "0x10", "1_000", "1/2", "2+3", "2^3",
    "--5", "-$-5", "+-5", "-+5", "5-", "$$5", "$5$", "$5 €", "5$$", "%5", "0,125", "0,000",
    "²", "3²", "٣", "\uff13", "½", "Ⅷ", "五", "1٬000",
]  # fmt: skip
READ = {
    extract_xml_answer: {
        "<answer>\n\n \t72 \n</answer>\nI hope that helps!": "72", "<answer>1</answer><answer>2</answer>": "2",
        "<answer>1</answer> wait <answer>2": "1", "<answer>1 <answer>2</answer>": "2", "<answer></answer>": "",
        "The answer is 42.": "", "<answer>42 and so on and on": "", "</answer>42<answer>": "",
        "<ANSWER>42</ANSWER>": "", "<answer >42</answer>": "",
    },
    extract_hash_answer: {
        "4 + 4 = <<4+4=8>>8\n#### 8": "8", "#### 1,008": "1,008", "#### $ 20": "20", "#### -$20": "-20",
        "####72 \n": "72", "#### 1\n#### 2": "2", "### 72": "", "72 ####": "", "": "",
    },
    parse_number: {
        "007": 7, "+5": 5, "\u22125": -5, ".5": 0.5, "-.5": -0.5, "42.": 42, "$ 20": 20, "\u2212$20": -20, "€20": 20,
        "20 %": 20, "  \n72\t ": 72, "20€": 20, "1,000 $": 1000, "-5£.": -5, "₹1,000": 1000, "¥72": 72,
    } | dict.fromkeys(NO_NUMBER),
    last_number: {
        "That makes 3 + 4 = 7 apples.": 7, "**72**": 72, "\\boxed{72}": 72, "一共72个。": 72, "It costs -$20": -20,
        "It costs $-20": -20, "it fell to -5 degrees": -5, "it fell to \u22125 degrees": -5, "20% of them": 20,
        ".5": 0.5, "10-5": 5, "pages 10-12": 12, "1,000, then 2,000, that is all": 2000, "So,72": 72, "Hmm...72": 72,
        "<answer>\n72\n</answer>": 72, "Is it 5?...72": 72, "1,23,456": 123456, "3 and 1 000": 1000,
        "₹12,34,56,789.50": 123456789.5,
    } | dict.fromkeys(["", "no number", "$", "...", "H2O", "²", "٣"]),
}  # fmt: skip
CASES = [(read, text, found) for read, table in READ.items() for text, found in table.items()]


@pytest.mark.parametrize(("read", "text", "found"), CASES)
def test_what_is_read_and_what_is_not(read, text, found):
    assert read(text) == found


@given(numbers)
def test_number_reads_back_however_it_is_written(number):
    sign, size = ("-" if number < 0 else ""), number.copy_abs()
    for text in (f"{number:f}", f"{number:,f}", f"{sign}${size:,f}", f"${number:f}", f"\n{number:f} ", f"{number:f}%"):
        assert parse_number(text) == number, text


SPACES = (" ", "\u00a0", "\u2009", "\u202f")
SIGNS = ("{}", "-{}", "\u2212{}", "${}", "-${}", "{} €", "{}€", "₹{}", "£{}.", "{} $", "¥{}")


@given(
    st.integers(0, 10**12), st.sampled_from(["", ",", "_", "'", "’", *SPACES]), st.sampled_from(["", ".5", ".00"]),
    st.sampled_from(SIGNS), st.sampled_from(["{}", "It is {}.", "3 + 4 = {}", "（{}）", "12, then {}", "是{}。\n"]),
)  # fmt: skip
def test_last_number_reads_groups_of_three_in_every_notation(size, separator, decimals, sign, sentence):
    text = sentence.format(sign.format(f"{size:,}".replace(",", separator) + decimals))
    assert last_number(text) == Decimal(f"{size}{decimals}") * (-1 if sign[0] in "-\u2212" else 1)


@pytest.mark.parametrize(
    "text",
    [
        "2,74", "0,5", "0,125", "3,4,5", "1,00", "1,2345", "1234,567", "1.000,50", "1 000,50", "1'000,50", "1.234.567",
        "1,000_000", "1 000'000", "12,3,456", "1_0", "1'0", "1.2.3", "12.05.2024", "1e3", "1.5E-3", "2,740e+10",
        "10^6", "12:30", "3:4", "1.5^2",
    ],
)  # fmt: skip
def test_last_number_is_never_a_piece_of_one(text):
    for sentence in ("{}", "It is {}.", "7, then {} €", "-${}", "{}\n"):
        assert last_number(sentence.format(text)) is None


@given(
    st.one_of(
        st.integers(-(10**20), 10**20), st.floats(allow_nan=False, allow_infinity=False), numbers,
        st.integers(-(2**60), 2**60).map(np.int64), st.floats(-(2.0**90), 2.0**90, width=32).map(np.float32),
    )
)  # fmt: skip
def test_a_number_of_any_library_is_the_same_gold_answer_as_its_text(number):
    text = gold_text(number)
    assert isinstance(text, str) and parse_number(text) == Decimal(str(number))
    assert same_number(text, number) and same_number(number, text) and gold_text(text) == text


@pytest.mark.parametrize(
    "gold", ["Paris", "", None, True, float("nan"), Decimal("NaN"), Fraction(1, 2), [72], "5 eggs"]
)
def test_a_gold_answer_that_no_reply_can_earn_is_refused_by_name(gold):
    with pytest.raises(ValueError) as caught:
        gold_text(gold)
    assert repr(gold) in str(caught.value)


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("1,000", "$1000.0", True), ("0", "-0", True), (".5", "0.50", True), ("72", Decimal(72), True),
        ("7.5", torch.tensor(7.5), True), ("7", torch.tensor([7, 7]), False),
        ("5", "-5", False), ("72", "71.99", False), ("0.2", "20%", False), ("", "", False), ("²", "²", False),
        (None, None, False), (None, "72", False),
    ],
)  # fmt: skip
def test_same_number(a, b, same):
    assert same_number(a, b) is same_number(b, a) is same


@given(hostile_texts, hostile_texts)
def test_no_text_raises(text, other):
    assert isinstance(extract_xml_answer(text) + extract_hash_answer(text), str)
    assert isinstance(same_number(text, other), bool)
    number, last = parse_number(text), last_number(text)
    assert all(value is None or value.is_finite() for value in (number, last))
    assert last == number or number is None or not text.strip()[0].isdigit()


@pytest.mark.parametrize("piece", ["1", "1,000,", "1.", "-$", "a1", " ", "\n", "<answer>", "</answer>", "####"])
def test_megabytes_of_one_piece_finish(piece):
    text = piece * (1_000_000 // len(piece))
    for read in (extract_xml_answer, extract_hash_answer, parse_number, last_number):
        read(text)
        read(text + "x")
    assert same_number(text, text) == (parse_number(text) is not None) == piece.isdigit()
