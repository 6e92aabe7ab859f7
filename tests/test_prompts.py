"""The prompt we send, and how numbers are read back from what comes in return."""

import json
import os
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo_helpers.prompts import (
    SYSTEM_PROMPT,
    XML_COT_FORMAT,
    build_messages,
    extract_hash_answer,
    extract_xml_answer,
    last_number,
    parse_number,
    same_number,
)

# A shared CPU must not fail a test, and a test run must not leave files behind.
relaxed = settings(deadline=None, database=None)

# More than 28 digits, with a minus: where Decimal arithmetic, unlike Decimal itself, rounds.
integers = st.one_of(st.integers(-(10**9), 10**9), st.integers(10**30, 10**40), st.integers(-(10**40), -(10**30))).map(
    Decimal
)
decimals = st.builds(
    lambda digits, places: Decimal(digits).scaleb(-places),
    st.integers(-(10**20), 10**20),
    st.integers(1, 8),
)
numbers = st.one_of(integers, decimals)

FRAGMENTS = [
    "<reasoning>", "</reasoning>", "<answer>", "</answer>", "</answer", "<answer>72</answer>",
    "####", "###", "72", "-5", "3.5", "1,000", "²", "٣", "-", "\u2212", "+", "$", "€", "%",
    ".", ",", "/", "e", "a", " ", "\n", "\0",
]  # fmt: skip
hostile_texts = st.one_of(st.text(), st.lists(st.sampled_from(FRAGMENTS), max_size=20).map("".join))


# --- the chat we send -------------------------------------------------------


def test_chat_is_system_message_then_question():
    assert build_messages("How many?") == [
        {"role": "system", "content": SYSTEM_PROMPT},
        {"role": "user", "content": "How many?"},
    ]


def test_worked_examples_stand_between_system_message_and_question():
    messages = build_messages("Q", shots=[("q1", "r1"), ("q2", "r2")])
    assert [m["role"] for m in messages] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert [m["content"] for m in messages[1:]] == ["q1", "r1", "q2", "r2", "Q"]


def test_no_system_message_when_none():
    assert build_messages("Q", system_prompt=None) == [{"role": "user", "content": "Q"}]


@pytest.mark.parametrize("prompt", ["", "Be brief."])
def test_own_system_prompt_is_used_even_when_empty(prompt):
    assert build_messages("Q", system_prompt=prompt)[0] == {"role": "system", "content": prompt}


def test_two_chats_share_no_state():
    build_messages("Q").append({"role": "user", "content": "more"})
    assert len(build_messages("Q")) == 2


@relaxed
@given(st.text())
def test_question_is_sent_unchanged(question):
    assert build_messages(question)[-1] == {"role": "user", "content": question}


def test_system_prompt_and_template_ask_for_the_same_layout():
    def tag_lines(text):
        return [line for line in text.splitlines() if line.startswith("<")]

    assert (
        tag_lines(SYSTEM_PROMPT)
        == tag_lines(XML_COT_FORMAT)
        == ["<reasoning>", "</reasoning>", "<answer>", "</answer>"]
    )


# --- the answer block -------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("<reasoning>\nr\n</reasoning>\n<answer>\n72\n</answer>\n", "72", id="requested layout"),
        pytest.param("<answer>72</answer>", "72", id="one line"),
        pytest.param("<answer>\n\n \t72 \n</answer>", "72", id="stripped"),
        pytest.param("<answer>72</answer>\nI hope that helps!", "72", id="text after the block"),
        pytest.param("<answer>1</answer><answer>2</answer>", "2", id="last block"),
        pytest.param("<answer>1</answer> wait <answer>2", "1", id="last closed block"),
        pytest.param("<answer>1 <answer>2</answer>", "2", id="reopened block"),
        pytest.param("<answer>a\nb</answer>", "a\nb", id="inner newline kept"),
        pytest.param("<answer></answer>", "", id="empty block"),
        pytest.param("<answer> \n </answer>", "", id="blank block"),
        pytest.param("", "", id="empty text"),
        pytest.param("42", "", id="bare number"),
        pytest.param("The answer is 42.", "", id="no tags"),
        pytest.param("<answer>42 and so on and on", "", id="never closed"),
        pytest.param("42</answer>", "", id="never opened"),
        pytest.param("</answer>42<answer>", "", id="tags swapped"),
        pytest.param("<ANSWER>42</ANSWER>", "", id="upper case"),
        pytest.param("<answer >42</answer>", "", id="space in the tag"),
    ],
)
def test_extract_xml_answer(text, expected):
    assert extract_xml_answer(text) == expected


@relaxed
@given(before=st.text(), inner=st.text().filter(lambda t: "answer>" not in t))
def test_closed_block_is_read_whatever_stands_before_it(before, inner):
    assert extract_xml_answer(f"{before}<answer>{inner}</answer>") == inner.strip()


# --- GSM8K's gold answer ----------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("4 + 4 = <<4+4=8>>8\n#### 8", "8", id="no stray hash"),
        pytest.param("#### 1,008", "1,008", id="comma kept"),
        pytest.param("#### 3.5", "3.5", id="point kept"),
        pytest.param("#### $20", "20", id="dollar dropped"),
        pytest.param("#### $ 20", "20", id="dollar and space dropped"),
        pytest.param("#### -$20", "-20", id="minus kept"),
        pytest.param("#### 72 \n", "72", id="stripped"),
        pytest.param("####72", "72", id="no space"),
        pytest.param("#### 1\n#### 2", "2", id="last mark"),
        pytest.param("### 72", "", id="three hashes are no mark"),
        pytest.param("the answer is 72", "", id="no mark"),
        pytest.param("72 ####", "", id="nothing after the mark"),
        pytest.param("", "", id="empty text"),
    ],
)
def test_extract_hash_answer(text, expected):
    assert extract_hash_answer(text) == expected


# --- reading a number -------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("72", "72"),
        ("0", "0"),
        ("007", "7"),
        ("-5", "-5"),
        ("+5", "5"),
        ("\u22125", "-5"),
        ("3.50", "3.5"),
        (".5", "0.5"),
        ("-.5", "-0.5"),
        ("42.", "42"),
        ("1,000", "1000"),
        ("1,234,567.89", "1234567.89"),
        ("-1,000", "-1000"),
        ("$1,000", "1000"),
        ("$ 20", "20"),
        ("-$20", "-20"),
        ("$-20", "-20"),
        ("\u2212$20", "-20"),
        ("€20", "20"),
        ("£20", "20"),
        ("20%", "20"),
        ("20 %", "20"),
        ("  \n72\t ", "72"),
    ],
)
def test_number_is_read(text, value):
    assert parse_number(text) == Decimal(value)


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "\n", ".", ",", "-", "$", "%", "$.", "forty-two", "x", "nan", "inf", "-Infinity", "True", "None",
        "72 apples", "x = 72", "12 34", "12\n34", "10 or 12", "[72]", "# 72",
        "1,00", "1,0000", "10,00,000", "1234,567", ",500", "1,000,", "1,,000", "1.000,50", "1.2.3", "1 000",
        "1e3", "1E3", "0x10", "1_000", "1/2", "2+3", "2^3",
        "--5", "-$-5", "+-5", "-+5", "5-", "$$5", "5$", "%5",
        "²", "3²", "٣", "\uff13", "½", "Ⅷ", "五", "1٬000",
    ],
)  # fmt: skip
def test_anything_else_is_not_a_number(text):
    assert parse_number(text) is None


def test_point_is_not_dropped_so_3_5_is_not_35():
    assert parse_number("3.5") != parse_number("35")


@relaxed
@given(numbers)
def test_number_reads_back_however_it_is_written(number):
    sign, size = ("-" if number < 0 else ""), number.copy_abs()
    for text in (f"{number:f}", f"{number:,f}", f"{sign}${size:,f}", f"${number:f}", f"\n{number:f} ", f"{number:f}%"):
        assert parse_number(text) == number, text


@relaxed
@given(numbers)
def test_minus_only_changes_the_sign(number):
    assert parse_number(f"-{number.copy_abs():f}") == parse_number(f"{number.copy_abs():f}").copy_negate()


@pytest.mark.parametrize("sign", ["", "-", "\u2212"])
def test_long_number_is_not_rounded(sign):
    assert parse_number(f"{sign}5.{'0' * 40}1") != parse_number(f"{sign}5")
    assert parse_number(f"{sign}{'1' * 40}2") != parse_number(f"{sign}{'1' * 40}3")


@pytest.mark.parametrize("sign", ["", "-"])
@pytest.mark.parametrize("read", [parse_number, last_number])
def test_million_digits_do_not_raise(read, sign):
    text = sign + "9" * 1_000_001
    assert read(text) is not None
    assert same_number(text, text)


# --- the last number in a text ----------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("That makes 3 + 4 = 7 apples.", "7"),
        ("The answer is 72.", "72"),
        ("**72**", "72"),
        ("\\boxed{72}", "72"),
        ("一共72个。", "72"),
        ("$1,234.50.", "1234.50"),
        ("It costs -$20", "-20"),
        ("It costs $-20", "-20"),
        ("it fell to -5 degrees", "-5"),
        ("it fell to \u22125 degrees", "-5"),
        ("20% of them", "20"),
        (".5", "0.5"),
        ("10-5", "5"),
        ("pages 10-12", "12"),
        ("1,000, then 2,000, that is all", "2000"),
        ("<answer>\n72\n</answer>", "72"),
    ],
)
def test_last_number_is_found(text, value):
    assert last_number(text) == Decimal(value)


@pytest.mark.parametrize("text", ["", "no number", "-", "$", "...", "H2O", "²", "٣"])
def test_last_number_is_none_without_one(text):
    assert last_number(text) is None


def test_last_number_is_not_blind_to_commas():
    assert last_number("In total 123,456 people") == 123456


@pytest.mark.parametrize("text", ["So,72", "Hmm...72", "First 5 then,72", "Is it 5?...72"])
def test_last_number_is_found_right_after_punctuation(text):
    assert last_number(text) == 72


def test_last_number_of_a_tight_list_is_not_its_first():
    assert last_number("The sides are 3,4,5") != 3


@relaxed
@given(numbers, st.sampled_from(["The total is {}.", "1 + 2 = {}", "so {} apples", "({})", "**{}**", "答案是{}。"]))
def test_last_number_reads_back_from_a_sentence(number, sentence):
    assert last_number(sentence.format(f"{number:f}")) == number
    assert last_number(sentence.format(f"{number:,f}")) == number


# --- comparing --------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b"),
    [("1,000", "1000"), ("1000", "1,000"), ("1,000", "$1000.0"), ("0", "-0"), (".5", "0.50"), ("72", Decimal(72))],
)
def test_same_number(a, b):
    assert same_number(a, b)
    assert same_number(b, a)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        pytest.param("3.5", "35", id="point matters"),
        pytest.param("5", "-5", id="sign matters"),
        pytest.param("72", "71.99", id="near is not equal"),
        pytest.param("123,456", "123", id="comma does not end a number"),
        pytest.param("0.2", "20%", id="percent is not divided"),
        pytest.param("", "", id="two empty texts"),
        pytest.param("abc", "abc", id="two equal words"),
        pytest.param("²", "²", id="two equal superscripts"),
        pytest.param(None, None, id="two Nones"),
        pytest.param(None, "72", id="None and a number"),
    ],
)
def test_not_same_number(a, b):
    assert not same_number(a, b)
    assert not same_number(b, a)


# --- hostile input ----------------------------------------------------------


@relaxed
@given(hostile_texts, hostile_texts)
def test_no_text_raises(text, other):
    assert isinstance(extract_xml_answer(text), str)
    assert isinstance(extract_hash_answer(text), str)
    assert isinstance(same_number(text, other), bool)
    for read in (parse_number, last_number):
        value = read(text)
        assert value is None or (isinstance(value, Decimal) and value.is_finite())


@relaxed
@given(hostile_texts)
def test_last_number_agrees_with_parse_number(text):
    number = parse_number(text)
    if number is not None and text.strip()[0].isdigit():
        assert last_number(text) == number


@pytest.mark.parametrize(
    "piece", ["1", "1,", "1,000,", "1.", "-", "$", "-$", "a1", " ", "\n", "<answer>", "</answer>", "####"]
)
def test_megabytes_of_one_piece_finish(piece):
    text = piece * (1_000_000 // len(piece))
    for read in (extract_xml_answer, extract_hash_answer, parse_number, last_number):
        read(text)
        read(text + "x")


# --- the real data ----------------------------------------------------------


@pytest.mark.parametrize(("split", "size"), [("train", 7473), ("test", 1319)])
def test_every_gold_answer_of_gsm8k_is_a_number(split, size):
    if not os.environ.get("GSM8K_DIR"):
        pytest.skip("set GSM8K_DIR to a folder with train.jsonl and test.jsonl")
    with open(Path(os.environ["GSM8K_DIR"]) / f"{split}.jsonl", encoding="utf-8") as lines:
        answers = [json.loads(line)["answer"] for line in lines]
    assert len(answers) == size
    golds = [extract_hash_answer(answer) for answer in answers]
    assert [gold for gold in golds if parse_number(gold) is None] == []
    assert [gold for gold in golds if last_number(gold) != parse_number(gold)] == []
