"""validate_rewards: silent on sound rewards, and every fault planted here is named with its remedy."""

import re

import pytest

from grpo_helpers.lessons import flawed
from grpo_helpers.lessons.cost import growth
from grpo_helpers.lessons.validation import COLUMNS, attacks, ideal_reply, validate_rewards
from grpo_helpers.rewards import MAX_REWARD, REWARD_FUNCS, completion_text, correctness_reward_func

CHAT = [{"role": "user", "content": "6 * 12?"}]
ROWS = [{"answer": gold, "prompt": CHAT} for gold in ("72", "-5", "1,000", "3.50", "9")]


def checks(findings):
    return set(findings["check"])


def named(func, name):
    func.__name__ = name
    return func


def sound(completions, answer, **kwargs):
    return correctness_reward_func(completions=completions, answer=answer)


@pytest.mark.parametrize("full_marks", [None, MAX_REWARD])
def test_the_rewards_of_the_series_pass(full_marks):
    findings = validate_rewards(REWARD_FUNCS, ROWS, full_marks=full_marks)
    assert findings.empty and list(findings.columns) == COLUMNS


def test_they_pass_with_plain_text_prompts_and_without_prompts_too():
    for row in ({"prompt": "6 * 12?"}, {}):
        assert validate_rewards(REWARD_FUNCS, [{"answer": "72"} | row, {"answer": "5"} | row]).empty


def test_a_single_row_is_enough():
    assert validate_rewards(REWARD_FUNCS, ROWS[:1]).empty


def test_the_published_rewards_that_cannot_fire_are_named():
    findings = validate_rewards(flawed.PUBLISHED_REWARD_FUNCS, ROWS)
    silent = findings[findings["check"] == "can it fire?"]
    assert silent["reward"].tolist() == ["published_int_reward_func", "published_correctness_reward_func"]


def test_a_layout_without_an_answer_pays_for_wrong_answers():
    findings = validate_rewards(flawed.PUBLISHED_REWARD_FUNCS, ROWS)
    assert findings["found"].str.startswith("a wrong answer earns").any()


def test_a_farm_is_found_and_its_cost():
    findings = validate_rewards([flawed.generous_reward_func], ROWS)
    assert findings["found"].str.contains("a bet on many answers").any()
    (cost,) = findings[findings["check"] == "cost"].itertuples()
    assert cost.reward == "generous_reward_func"
    exponent, seconds, size, predicted = map(float, re.findall(r"[\d.]+", cost.found.replace(",", "")))
    assert predicted == round(seconds * (1_000_000 / size) ** exponent), "not what the shown numbers give"


def test_the_patched_reward_passes():
    assert validate_rewards([flawed.patched_reward_func], ROWS).empty


def test_a_gold_answer_that_cannot_be_matched_is_named_with_its_row():
    def text_only(completions, answer, **kwargs):
        said = [completion_text(c).split("<answer>\n")[-1].removesuffix("\n</answer>") for c in completions]
        return [1.0 if s == a and s.isdigit() else 0.0 for s, a in zip(said, answer, strict=True)]

    findings = validate_rewards([text_only], ROWS)
    short = findings[findings["check"] == "ideal replies"]
    assert short["row"].tolist() == [1, 2, 3]
    assert "earns 0 of 1" in short["found"].iloc[0] and "3 rows in all" in short["found"].iloc[0]
    assert "1,000" in short["completion"].iloc[1]


def test_full_marks_that_nobody_reaches_are_a_finding():
    findings = validate_rewards([sound], ROWS, full_marks=3.0)
    assert checks(findings) == {"ideal replies"}
    assert findings["found"].iloc[0].startswith("earns 2 of 3")


def test_a_sum_above_full_marks_is_a_finding():
    findings = validate_rewards([sound], ROWS, full_marks=1.0)
    assert findings["found"].str.contains("over 1").any()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (lambda completions: [float("nan")] * len(completions), "returned nan"),
        (lambda completions: [float("inf")] * len(completions), "returned inf"),
        (lambda completions: ["1"] * len(completions), "returned '1'"),
        (lambda completions: [1.0], "returned 1 rewards for 5"),
        (lambda completions: [], "returned 0 rewards for 5"),
        (lambda completions: None, "returned None"),
        (lambda completions: 1.0, "returned 1.0"),
        (lambda completions: [1.0 / 0.0], "ZeroDivisionError"),
    ],
)
def test_what_no_trainer_can_use_is_named(body, said):
    findings = validate_rewards([named(lambda completions, **kwargs: body(completions), "mine"), sound], ROWS)
    (row,) = findings.itertuples()
    assert row.check == "usable rewards" and row.reward == "mine" and said in row.found and row.remedy


def test_a_missing_kwargs_is_found_because_trl_passes_more_keywords():
    findings = validate_rewards([named(lambda completions, answer: [1.0] * len(answer), "mine")], ROWS)
    assert "TypeError" in findings["found"][0] and "**kwargs" in findings["remedy"][0]


def test_a_reward_that_cannot_read_conversations_is_found():
    def strings_only(completions, answer, **kwargs):
        return [1.0 if re.search("<answer>", c) else 0.0 for c in completions]

    assert "TypeError" in validate_rewards([strings_only], ROWS)["found"][0]


def test_a_reward_that_breaks_on_an_empty_completion_only_is_found():
    def brittle(completions, answer, **kwargs):
        texts = [completion_text(c) for c in completions]
        return [r if t[0] else r for r, t in zip(sound(completions, answer), texts, strict=True)]

    findings = validate_rewards([brittle], ROWS)
    (row,) = findings[findings["found"].str.startswith("nothing: ")].itertuples()
    assert row.check == "usable rewards" and "IndexError" in row.found and row.completion == ""


def test_nan_for_some_completions_is_found():
    def nan_if_wrong(completions, answer, **kwargs):
        return [r or float("nan") for r in sound(completions, answer)]

    assert validate_rewards([nan_if_wrong], ROWS)["found"].str.contains("nan").any()


def test_numbers_of_numpy_are_numbers():
    import numpy as np

    def as_array(completions, answer, **kwargs):
        return np.array(sound(completions, answer), dtype=np.float32)

    assert validate_rewards([as_array], ROWS).empty


def test_none_means_no_opinion():
    def silent_if_wrong(completions, answer, **kwargs):
        return [r or None for r in sound(completions, answer)]

    assert validate_rewards([silent_if_wrong], ROWS).empty


def test_a_constant_reward_pays_for_nothing():
    findings = validate_rewards([named(lambda completions, **kwargs: [1.0] * len(completions), "constant")], ROWS)
    assert findings["found"].str.startswith("nothing earns 1").any()


def test_a_hostile_completion_of_ones_own_is_tried():
    def takes_bribes(completions, answer, **kwargs):
        texts = [completion_text(c) for c in completions]
        return [2.0 if "please" in t else r for t, r in zip(texts, sound(completions, answer), strict=True)]

    assert validate_rewards([takes_bribes], ROWS).empty
    findings = validate_rewards([takes_bribes], ROWS, hostile={"begging": "please"})
    assert findings["found"].tolist() == ["begging earns 2; full marks are 2 (1 of 3 rows tried)"]


def test_another_task_with_another_layout():
    rows = [{"prompt": "Paint it", "colour": c} for c in ("red", "green", "blue")]

    def colour_reward(completions, colour, **kwargs):
        return [1.0 if t == f"COLOUR: {c}" else 0.0 for t, c in zip(completions, colour, strict=True)]

    def sloppy_reward(completions, colour, **kwargs):
        return [1.0 if c in t else 0.0 for t, c in zip(completions, colour, strict=True)]

    def render(row):
        return f"COLOUR: {row['colour']}"

    assert validate_rewards([colour_reward], rows, render).empty
    assert checks(validate_rewards([sloppy_reward], rows, render)) == {"adversarial replies"}


def test_an_attack_that_is_the_ideal_reply_is_no_attack():
    rows = [{"word": "x"}, {"word": "abba"}]

    def exact(completions, word, **kwargs):
        return [1.0 if t == w else 0.0 for t, w in zip(completions, word, strict=True)]

    assert validate_rewards([exact], rows, lambda row: row["word"]).empty


def test_the_right_answer_is_no_wrong_one():
    row = {"answer": "72"}
    assert not any("wrong" in name for name in attacks(row, [row, dict(row)], ideal_reply))
    assert attacks(row, [row, {"answer": "5"}], ideal_reply)["a wrong answer"] == ideal_reply({"answer": "5"})


def test_rewards_are_asked_with_the_keywords_of_trl():
    seen = set()

    def curious(completions, **kwargs):
        seen.add(frozenset(kwargs))
        return sound(completions, kwargs["answer"])

    validate_rewards([curious], ROWS)
    assert seen == {frozenset(["prompts", "answer", "completion_ids", "trainer_state", "log_extra", "log_metric"])}


def test_a_cost_that_shows_only_after_a_good_reply_is_found():
    def reads_on(completions, answer, **kwargs):
        for completion in completions:
            re.findall("<answer>.*?</answer>", completion_text(completion).partition("</answer>")[2], re.DOTALL)
        return sound(completions, answer)

    findings = validate_rewards([reads_on], ROWS)
    assert checks(findings) == {"cost"} and findings["completion"][0].startswith("<reasoning>")


def test_a_reward_that_breaks_on_long_completions_only_is_found():
    def short_of_breath(completions, answer, **kwargs):
        if any(len(completion_text(c)) > 3_000 for c in completions):
            raise RecursionError("too deep")
        return sound(completions, answer)

    (row,) = validate_rewards([short_of_breath], ROWS).itertuples()
    assert row.check == "usable rewards" and "RecursionError: too deep" in row.found


def test_findings_are_few_and_short():
    findings = validate_rewards(
        [named(lambda completions, **kwargs: [1.0] * len(completions), "mine")], ROWS * 9, full_marks=2
    )
    assert checks(findings) == {"ideal replies"} and len(findings) == 3
    assert findings["found"][0].endswith("45 rows in all")
    findings = validate_rewards([flawed.generous_reward_func], ROWS)
    assert findings["completion"].str.len().max() == 70


def test_empty_input_and_names_used_twice_are_refused():
    with pytest.raises(ValueError, match="0 rows"):
        validate_rewards([sound], [])
    with pytest.raises(ValueError, match="0 reward functions"):
        validate_rewards([], ROWS)
    with pytest.raises(ValueError, match="same name"):
        validate_rewards([sound, sound], ROWS)


def test_a_row_without_a_gold_answer_needs_a_render():
    with pytest.raises(KeyError, match="answer"):
        ideal_reply({"question": "?"})


# --- cost ------------------------------------------------------------------------


def test_growth_tells_quadratic_from_linear():
    linear = growth(lambda t: [t.count("<a") for _ in range(200)], "<answer>" * 10_000)
    quadratic = growth(lambda t: re.findall("<answer>.*?</answer>", t, re.DOTALL), "<answer>" * 10_000)
    assert not linear.superlinear and quadratic.superlinear
    assert quadratic.predict(2 * quadratic.size) > 2.5 * quadratic.seconds


def test_what_is_too_fast_to_time_counts_as_linear():
    assert growth(len, "x" * 100_000).exponent == 1.0
    assert growth(len, "").exponent == 1.0


def test_a_slow_function_is_not_tried_on_longer_and_longer_texts():
    tried = []

    def slow(text):
        tried.append(len(text))
        return sum(i for i in range(len(text) ** 2 * 2))

    growth(slow, "x" * 100_000)
    assert max(tried) <= 16_000


def test_a_long_ideal_completion_does_not_multiply_the_work():
    calls = []

    def counted(completions, answer, **kwargs):
        calls.append(len(completions))
        return sound(completions, answer)

    words = " ".join(f"<{i}>" for i in range(2_000))
    validate_rewards([counted], ROWS, lambda row: f"{words}\n<answer>{row['answer']}</answer>")
    assert len(calls) < 1_000
