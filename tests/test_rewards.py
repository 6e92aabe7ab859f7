"""The reward functions, tried with the faults of the reward code in circulation and against cheats."""

import json
import os
import re
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo_helpers.prompts import XML_COT_FORMAT, extract_hash_answer
from grpo_helpers.rewards import (
    MAX_REWARD,
    REWARD_FUNCS,
    TAGS,
    completion_text,
    correctness_reward_func,
    count_xml,
    final_answer,
    has_soft_format,
    has_strict_format,
    int_reward_func,
    is_correct,
    soft_format_reward_func,
    strict_format_reward_func,
    xmlcount_reward_func,
)

# A shared CPU must not fail a test, and a test run must not leave files behind.
relaxed = settings(deadline=None, database=None)

PERFECT = "<reasoning>\n6 * 12 = 72\n</reasoning>\n<answer>\n72\n</answer>"
ONE_LINE = "<reasoning>6 * 12 = 72</reasoning> <answer>72</answer>"

ALLOWED = {
    xmlcount_reward_func: {0.0, 0.125, 0.25, 0.375, 0.5},
    soft_format_reward_func: {0.0, 0.5},
    strict_format_reward_func: {0.0, 0.5},
    int_reward_func: {0.0, 0.5},
    correctness_reward_func: {0.0, 2.0},
}

FRAGMENTS = [
    *TAGS, "</answer", "<answer >", "<ANSWER>", "<answer>72</answer>", "<answer>\n72\n</answer>", PERFECT,
    "72", "-5", "3.5", "1,000", "²", "٣", "$", "-", "#### 72", "<|im_end|>", "\n", " ", "\0",
]  # fmt: skip
hostile_texts = st.one_of(st.text(), st.lists(st.sampled_from(FRAGMENTS), max_size=15).map("".join))
numbers = st.one_of(
    st.integers(-(10**9), 10**9).map(Decimal),
    st.integers(-(10**40), -(10**30)).map(Decimal),
    st.builds(
        lambda digits, places: Decimal(digits).scaleb(-places), st.integers(-(10**20), 10**20), st.integers(1, 8)
    ),
)


def call(func, completions, answers):
    """Call `func` as TRL's trainer does."""
    size = len(completions)
    return func(
        prompts=[[{"role": "user", "content": "6 * 12?"}]] * size,
        completions=completions,
        completion_ids=[[1, 2, 3]] * size,
        answer=answers,
        question=["6 * 12?"] * size,
        trainer_state=None,
        log_extra=None,
        log_metric=None,
    )


def score(func, text, answer="72"):
    (value,) = call(func, [text], [answer])
    return value


def total(text, answer="72"):
    return sum(score(func, text, answer) for func in REWARD_FUNCS)


# --- TRL's side of the call -------------------------------------------------


@pytest.mark.parametrize("func", REWARD_FUNCS)
def test_trl_call_gives_one_float_per_completion(func):
    values = call(func, [PERFECT, "no tags", ""], ["72", "72", "72"])
    assert [type(value) for value in values] == [float, float, float]


@pytest.mark.parametrize("func", REWARD_FUNCS)
def test_conversational_completion_scores_as_its_text(func):
    texts = [PERFECT, ONE_LINE, "72", ""]
    chats = [[{"role": "assistant", "content": text}] for text in texts]
    assert call(func, chats, ["72"] * 4) == call(func, texts, ["72"] * 4)


def test_last_message_of_a_conversation_counts():
    chat = [
        {"role": "assistant", "content": "hm"},
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": PERFECT},
    ]
    assert completion_text(chat) == completion_text(PERFECT) == PERFECT


@pytest.mark.parametrize("func", REWARD_FUNCS)
def test_no_completions_give_no_rewards(func):
    assert call(func, [], []) == []


@pytest.mark.parametrize("func", REWARD_FUNCS)
def test_every_completion_is_scored_on_its_own(func):
    texts = ["", PERFECT, ONE_LINE, "72"]
    golds = ["1", "72", "73", "72"]
    assert call(func, texts, golds) == [score(func, text, gold) for text, gold in zip(texts, golds, strict=True)]


@pytest.mark.parametrize("answers", [[], ["72"], ["72", "72", "72"]])
def test_wrong_number_of_gold_answers_raises(answers):
    with pytest.raises(ValueError):
        call(correctness_reward_func, [PERFECT, PERFECT], answers)


def test_reward_names_are_unique_as_trl_logs_by_name():
    names = [func.__name__ for func in REWARD_FUNCS]
    assert len(set(names)) == len(names) == 5


def test_all_five_functions_are_used_strict_included():
    assert set(REWARD_FUNCS) == set(ALLOWED)


def test_max_reward_is_the_sum_for_a_perfect_completion():
    assert total(PERFECT) == MAX_REWARD == sum(max(values) for values in ALLOWED.values())


def test_nothing_is_printed_unless_asked(capsys):
    call(correctness_reward_func, [PERFECT], ["72"])
    assert capsys.readouterr().out == ""


def test_debug_prints_gold_and_completion_and_changes_no_reward(capsys):
    assert correctness_reward_func(completions=[PERFECT], answer=["72"], debug=True) == [2.0]
    assert PERFECT in capsys.readouterr().out
    assert correctness_reward_func(completions=[], answer=[], debug=True) == []


# --- honest completions are paid --------------------------------------------


def test_perfect_completion_earns_correctness_and_number():
    assert score(correctness_reward_func, PERFECT) == 2.0
    assert score(int_reward_func, PERFECT) == 0.5


def test_multi_line_reasoning_scores():
    assert total(PERFECT.replace("6 * 12", "first\n\nthen\n6 * 12")) == MAX_REWARD


def test_no_trailing_newline_is_needed():
    assert not PERFECT.endswith("\n")
    assert has_strict_format(PERFECT)


def test_one_trailing_newline_is_allowed():
    assert total(PERFECT + "\n") == MAX_REWARD


@pytest.mark.parametrize("size", [662, 100_000])
def test_long_answer_is_not_penalised_by_length(size):
    assert total(PERFECT.replace("6 * 12", "step " * size)) == MAX_REWARD


def test_answer_on_the_tag_line_is_correct_and_soft_but_not_strict():
    assert score(correctness_reward_func, ONE_LINE) == 2.0
    assert score(soft_format_reward_func, ONE_LINE) == 0.5
    assert score(strict_format_reward_func, ONE_LINE) == 0.0


@pytest.mark.parametrize(
    "text", [f"\n\n {PERFECT} \n\n", ONE_LINE.replace(" <", "\n\n\t<"), ONE_LINE.replace("> <", "><")]
)
def test_soft_format_takes_any_spacing(text):
    assert has_soft_format(text)


def test_answer_block_alone_is_correct_but_has_no_format():
    text = "<answer>72</answer>"
    assert score(correctness_reward_func, text) == 2.0
    assert score(soft_format_reward_func, text) == score(strict_format_reward_func, text) == 0.0


@pytest.mark.parametrize(
    ("said", "gold"),
    [
        ("1,000", "1000"), ("1000", "1,000"), ("1,000", "1,000"), ("$1,000.00", "1000"), ("1000.0", "1,000"),
        ("3.5", "3.50"), (".5", "0.5"), ("-5", "-5"), ("-$20", "-20"), ("\u22125", "-5"), ("20%", "20"), ("72.", "72"),
    ],
)  # fmt: skip
def test_same_number_written_differently_is_correct(said, gold):
    assert total(XML_COT_FORMAT.format(reasoning="r", answer=said), gold) == MAX_REWARD


@pytest.mark.parametrize("number", ["-5", "+5", "3.5", "1,000", "$20", "-$20", "42."])
def test_numbers_that_isdigit_rejects_are_numbers(number):
    assert score(int_reward_func, f"<answer>{number}</answer>") == 0.5


# --- dishonest or broken completions are not --------------------------------


@pytest.mark.parametrize(
    "answer", ["²", "٣", "\uff13", "½", "72²", "", " ", "72 apples", "seventy-two", "1/2", "70 or 72", "1e3", "nan"]
)
def test_what_is_not_a_number_is_not_paid(answer):
    text = XML_COT_FORMAT.format(reasoning="r", answer=answer)
    assert score(int_reward_func, text) == score(correctness_reward_func, text) == 0.0


@pytest.mark.parametrize("said", ["35", "3", "5", "-3.5", "3.51", "3.4999"])
def test_other_number_than_3_5_is_not_correct(said):
    assert not is_correct(f"<answer>{said}</answer>", "3.5")


@pytest.mark.parametrize("said", ["71", "73", "72.5", "71.99", "720", "-72", "72,000"])
def test_near_miss_earns_no_partial_credit(said):
    assert score(correctness_reward_func, PERFECT.replace("\n72\n", f"\n{said}\n")) == 0.0


def test_number_is_not_cut_at_its_comma():
    assert not is_correct("<answer>123,456</answer>", "123")


@pytest.mark.parametrize(("said", "gold"), [("-5." + "0" * 40 + "1", "-5"), ("-" + "1" * 40, "-" + "1" * 39 + "2")])
def test_long_negative_number_is_not_rounded_into_the_gold_one(said, gold):
    assert not is_correct(f"<answer>{said}</answer>", gold)


@pytest.mark.parametrize(
    "text", ["42", "The answer is 42.", "#### 42", "\\boxed{42}", "42</answer>", "<answer>42", "</answer>42<answer>"]
)
def test_bare_or_unclosed_answer_is_not_paid(text):
    assert total(text, "42") == score(xmlcount_reward_func, text, "42") <= 0.25


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(PERFECT + PERFECT, id="whole reply twice"),
        pytest.param(PERFECT + "\n<answer>\n72\n</answer>", id="same answer twice"),
        pytest.param(PERFECT + "\n<answer>\n73\n</answer>", id="other answer after"),
        pytest.param("<answer>71</answer>" + PERFECT, id="other answer before"),
        pytest.param(PERFECT.replace("6 * 12", "<answer>71</answer>"), id="answer inside reasoning"),
        pytest.param(PERFECT.replace("72\n</answer>", "71\n<answer>\n72\n</answer>"), id="answer inside answer"),
        pytest.param(PERFECT.replace("</answer>", "<answer>72</answer>"), id="answer reopened"),
        pytest.param(PERFECT + "</answer>", id="closed twice"),
        pytest.param("<answer>" + PERFECT, id="opened twice"),
    ],
)
def test_doubled_answer_blocks_do_not_pay(text):
    assert score(correctness_reward_func, text) == 0.0
    assert score(soft_format_reward_func, text) == score(strict_format_reward_func, text) == 0.0


@pytest.mark.parametrize("tail", ["!", "\nHope that helps!", "72", "\n#### 73", "<|im_end|>", "<answer>", "\0"])
def test_trailing_text_does_not_pay(tail):
    for func in (correctness_reward_func, soft_format_reward_func, strict_format_reward_func):
        assert score(func, PERFECT + tail) == 0.0


@pytest.mark.parametrize("head", ["Sure!\n", "72\n", "<think>"])
def test_leading_text_has_no_format(head):
    assert score(soft_format_reward_func, head + PERFECT) == score(strict_format_reward_func, head + PERFECT) == 0.0


def test_text_between_the_blocks_has_no_format():
    text = PERFECT.replace("<answer>", "so\n<answer>")
    assert score(soft_format_reward_func, text) == score(strict_format_reward_func, text) == 0.0


@pytest.mark.parametrize("tag", TAGS)
def test_missing_tag_has_no_format_and_loses_one_eighth(tag):
    text = PERFECT.replace(tag, "")
    assert score(soft_format_reward_func, text) == score(strict_format_reward_func, text) == 0.0
    assert score(xmlcount_reward_func, text) == 0.375


@pytest.mark.parametrize("tag", TAGS)
def test_repeated_tag_has_no_format_and_loses_one_eighth(tag):
    text = PERFECT.replace(tag, tag * 2)
    assert score(soft_format_reward_func, text) == score(strict_format_reward_func, text) == 0.0
    assert score(xmlcount_reward_func, text) == 0.375


@pytest.mark.parametrize("times", [0, 2, 3, 1000])
def test_only_exactly_one_of_a_tag_counts(times):
    assert count_xml("<answer>" * times) == 0.0
    assert count_xml("<answer>" * times + "</answer>") == 0.125


@pytest.mark.parametrize("text", ["< answer>", "<Answer>", "<answer/>", "&lt;answer&gt;", "answer", "<answers>"])
def test_look_alike_tags_do_not_count(text):
    assert count_xml(text) == 0.0


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("<answer>\n72\n</answer>\n<reasoning>\nr\n</reasoning>", id="answer before reasoning"),
        pytest.param("<reasoning>\nr\n<answer>\n72\n</answer>\n</reasoning>", id="answer nested in reasoning"),
        pytest.param("<answer>\n<reasoning>\nr\n</reasoning>\n72\n</answer>", id="reasoning nested in answer"),
        pytest.param("<reasoning>\nr\n<answer>\n</reasoning>\n72\n</answer>", id="overlapping"),
        pytest.param("</reasoning>\nr\n<reasoning>\n</answer>\n72\n<answer>", id="closing before opening"),
        pytest.param("</answer>\n</reasoning>\n<answer>\n<reasoning>", id="reversed"),
    ],
)
def test_tags_out_of_order_earn_only_their_count(text):
    assert score(xmlcount_reward_func, text) == 0.5
    assert score(soft_format_reward_func, text) == score(strict_format_reward_func, text) == 0.0


def test_answer_before_reasoning_is_not_correct():
    assert final_answer("<answer>\n72\n</answer>\n<reasoning>\nr\n</reasoning>") == ""


@pytest.mark.parametrize("text", ["".join(TAGS), "\n".join(TAGS), PERFECT.replace("72\n</", "</")])
def test_empty_blocks_are_neither_strict_nor_paid_for_an_answer(text):
    for func in (strict_format_reward_func, int_reward_func, correctness_reward_func):
        assert score(func, text) == 0.0


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("\n" + PERFECT, id="newline before"),
        pytest.param(PERFECT + "\n\n", id="two newlines after"),
        pytest.param(PERFECT + " ", id="space after"),
        pytest.param(PERFECT.replace("</reasoning>\n", "</reasoning>\n\n"), id="blank line between"),
        pytest.param(PERFECT.replace("<answer>\n", "<answer>"), id="answer on the tag line"),
        pytest.param(PERFECT.replace("\n</reasoning>", "</reasoning>"), id="closing tag not on its own line"),
    ],
)
def test_loose_spacing_is_soft_but_not_strict(text):
    assert has_soft_format(text)
    assert not has_strict_format(text)


# --- the gold answer --------------------------------------------------------


@pytest.mark.parametrize(
    "gold", ["", "# 72", "#### 72", "seventy-two", "72 apples", "1,00", "²", "6 * 12 = <<6*12=72>>72\n#### 72"]
)
@pytest.mark.parametrize("text", [PERFECT, "no tags", ""])
def test_unreadable_gold_answer_raises_and_is_named(gold, text):
    with pytest.raises(ValueError, match=re.escape(repr(gold))):
        call(correctness_reward_func, [text], [gold])


def test_unreadable_gold_answer_raises_wherever_it_stands():
    with pytest.raises(ValueError, match="'n/a'"):
        call(correctness_reward_func, [PERFECT, PERFECT], ["72", "n/a"])


@pytest.mark.parametrize("gold", [72, 72.0, Decimal("72")])
def test_a_column_of_numbers_will_do_for_gold_answers(gold):
    assert call(correctness_reward_func, [PERFECT, PERFECT.replace("72", "18")], [gold, gold]) == [2.0, 0.0]


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_gold_answer_of_gsm8k_earns_the_maximum(split):
    if not os.environ.get("GSM8K_DIR"):
        pytest.skip("set GSM8K_DIR to a folder with train.jsonl and test.jsonl")
    with open(Path(os.environ["GSM8K_DIR"]) / f"{split}.jsonl", encoding="utf-8") as lines:
        solutions = [json.loads(line)["answer"] for line in lines]
    golds = [extract_hash_answer(solution) for solution in solutions]
    replies = [XML_COT_FORMAT.format(reasoning=s, answer=gold) for s, gold in zip(solutions, golds, strict=True)]
    totals = [sum(values) for values in zip(*(call(func, replies, golds) for func in REWARD_FUNCS), strict=True)]
    assert set(totals) == {MAX_REWARD}


# --- any text ---------------------------------------------------------------


@relaxed
@given(hostile_texts)
def test_no_text_raises_or_earns_an_unknown_value(text):
    for func, allowed in ALLOWED.items():
        assert score(func, text) in allowed


@relaxed
@given(hostile_texts)
def test_strict_implies_soft_and_soft_implies_all_tags(text):
    assert has_strict_format(text) <= has_soft_format(text)
    assert not has_soft_format(text) or count_xml(text) == 0.5


@relaxed
@given(hostile_texts)
def test_correct_implies_a_number(text):
    assert score(correctness_reward_func, text) == 0.0 or score(int_reward_func, text) == 0.5


@relaxed
@given(numbers, st.text(min_size=1).filter(lambda t: not any(tag in t for tag in TAGS)))
def test_perfect_completion_scores_the_maximum_for_any_number(number, reasoning):
    for answer in (f"{number:f}", f"{number:,f}", f"${number:,f}"):
        assert total(XML_COT_FORMAT.format(reasoning=reasoning, answer=answer), f"{number:f}") == MAX_REWARD


@relaxed
@given(numbers, numbers)
def test_wrong_number_is_never_correct(said, gold):
    text = XML_COT_FORMAT.format(reasoning="r", answer=f"{said:f}")
    assert is_correct(text, f"{gold:f}") == (said == gold)


@relaxed
@given(hostile_texts.filter(str.strip))
def test_anything_after_the_answer_block_takes_correctness_away(tail):
    assert score(correctness_reward_func, PERFECT + tail) == 0.0


@relaxed
@given(hostile_texts)
def test_text_before_the_answer_block_pays_only_without_a_second_block(head):
    assert is_correct(head + "<answer>72</answer>", "72") == ("<answer>" not in head and "</answer>" not in head)


# --- size -------------------------------------------------------------------

MEGA = 1_000_000


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("<answer>" * (10 * MEGA // 8), id="10 MB of opening tags"),
        pytest.param("</answer>" * (10 * MEGA // 9), id="10 MB of closing tags"),
        pytest.param("<answer>1</answer>" * (10 * MEGA // 18), id="10 MB of blocks"),
        pytest.param("<reasoning>\n" * (MEGA // 12), id="1 MB of opened reasoning"),
        pytest.param("<reasoning>\n" + "\n" * MEGA, id="1 MB of newlines, never closed"),
        pytest.param("\n" * MEGA + PERFECT + "\n" * MEGA + "x", id="newlines around"),
        pytest.param(PERFECT.replace("\n", "\n" * MEGA) + "x", id="newlines everywhere, every tag once"),
        pytest.param(PERFECT.replace("\n<answer>", " " * MEGA + "x<answer>"), id="spaces between the blocks"),
        pytest.param(PERFECT.replace("6 * 12", "\n</reasoning" * (MEGA // 12)), id="almost closed over and over"),
        pytest.param(PERFECT.replace("\n72\n", "9" * MEGA + "x"), id="digits, then a letter"),
        pytest.param(PERFECT.replace("\n72\n", "1" + ",000" * (MEGA // 4) + "x"), id="groups of three, then a letter"),
        pytest.param(PERFECT.replace("\n72\n", "1." + "0" * MEGA + "x"), id="decimals, then a letter"),
        pytest.param(PERFECT.replace("\n72\n", "9" * (MEGA + 1)), id="a million digits"),
        pytest.param(PERFECT.replace("\n72\n", "-" + "9" * (MEGA + 1)), id="minus a million digits"),
    ],
)
def test_megabytes_finish(text):
    for func, allowed in ALLOWED.items():
        assert score(func, text) in allowed
