"""Evaluation: replies in their places, verdicts, and tables that can be checked by hand."""

import copy
import math
import re

import pandas as pd
import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from scipy.stats import binomtest

from grpo_helpers import evaluation
from grpo_helpers.data import word_problems
from grpo_helpers.evaluation import RATES
from grpo_helpers.fast import sampling
from grpo_helpers.prompts import build_messages
from grpo_helpers.statistics import bootstrap_interval, gain_interval, wilson_interval

from .cells import definitions
from .test_sampling import random_model

NEW_TOKENS = 12
OUTCOMES = ["strict", "flexible", "format", "worked", "truncated"]
# Of many lengths, with a common beginning and without.
PROMPTS = word_problems("test", 5)["prompt"][:]
PROMPTS += [build_messages(question, None) for question in ("1 + 1?", "Hi", "What is the sum of 3 and 4?")]


@pytest.fixture(scope="module")
def tokenizer(policy):
    return policy[1]


@torch.no_grad()
def plain_greedy(model, tokenizer, messages):
    """One prompt, the whole forward again for every token: slow and beyond doubt."""
    text, reply = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True), []
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    while len(reply) < NEW_TOKENS and tokenizer.eos_token_id not in reply:
        reply.append(model(torch.tensor([[*ids, *reply]])).logits[0, -1].argmax().item())
    return reply


@pytest.fixture(scope="module")
def some_end(tokenizer):
    """A model whose end token took the place of one that it is fond of, and its greedy replies: some end, some not."""
    model = random_model(len(tokenizer), end=tokenizer.eos_token_id)
    replies = [plain_greedy(model, tokenizer, p) for p in PROMPTS]
    holders = {token: sum(token in other for other in replies) for reply in replies for token in reply}
    fond = min(holders, key=lambda token: (abs(holders[token] - len(PROMPTS) // 2), token))
    swap, head = [fond, tokenizer.eos_token_id], model.lm_head.weight
    with torch.no_grad():
        head[swap] = head[swap[::-1]]
    return model, [plain_greedy(model, tokenizer, p) for p in PROMPTS]


@pytest.fixture
def model(some_end):
    return copy.deepcopy(some_end[0])


def replies_of(model, tokenizer, prompts=PROMPTS, **kwargs):
    return evaluation.generate_predictions(model, tokenizer, prompts, NEW_TOKENS, **kwargs)


@pytest.fixture(params=[True, False], ids=["shared prompts", "transformers' generate"])
def either_way(request, monkeypatch):
    """Both ways that replies are sampled: this package's, and the one for architectures it does not know."""
    if not request.param:
        monkeypatch.setattr(sampling, "supports_sharing", lambda model: False)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_greedy_replies_are_right_and_in_the_order_given(some_end, tokenizer, either_way, batch_size):
    model, tokens = some_end
    texts = tokenizer.batch_decode(tokens, skip_special_tokens=True)
    truncated = [reply[-1] != tokenizer.eos_token_id for reply in tokens]
    assert len(set(texts)) > len(PROMPTS) / 2 and set(truncated) == {True, False}
    expected = [[reply] for reply in zip(texts, truncated, strict=True)]
    assert replies_of(model, tokenizer, batch_size=batch_size) == expected


def test_every_end_token_that_the_model_or_the_tokenizer_names_ends_a_reply(some_end, tokenizer, either_way):
    model, tokens = copy.deepcopy(some_end[0]), some_end[1]
    ends = [tokenizer.eos_token_id, max((reply[2] for reply in tokens if len(reply) > 3), key=str)]
    cut = [reply[: min([reply.index(e) + 1 for e in ends if e in reply], default=NEW_TOKENS)] for reply in tokens]
    assert sum(map(len, cut)) < sum(map(len, tokens)) and {reply[-1] in ends for reply in cut} == {True, False}
    texts = tokenizer.batch_decode(cut, skip_special_tokens=True)
    for named in (ends, ends[1]):
        model.generation_config.eos_token_id = named
        wanted = [[(text, reply[-1] not in ends)] for text, reply in zip(texts, cut, strict=True)]
        assert replies_of(model, tokenizer) == wanted


def test_plain_strings_are_read_as_training_reads_them(model, tokenizer, either_way):
    chats = [tokenizer.apply_chat_template(p, tokenize=False, add_generation_prompt=True) for p in PROMPTS]
    assert replies_of(model, tokenizer, chats) == replies_of(model, tokenizer)
    rows = Dataset.from_dict({"question": chats, "prompt": chats, "answer": ["1"] * len(chats)})
    assert len(evaluation.evaluate(model, tokenizer, rows, NEW_TOKENS)) == len(chats)


def test_nothing_to_do_temperatures_below_zero_and_gold_answers_that_are_none_are_refused_by_name(tokenizer):
    wrong = {"max_new_tokens": 0, "num_generations": 0, "prompts": [], "temperature": -1.0}
    for name, value in (*wrong.items(), ("temperature", math.nan)):
        asked = {"prompts": PROMPTS, "max_new_tokens": NEW_TOKENS} | {name: value}
        with pytest.raises(ValueError, match=name):
            evaluation.generate_predictions(None, tokenizer, **asked)
    rows = Dataset.from_list([{"question": "?", "prompt": PROMPTS[0], "answer": a} for a in ("72", "1/2")])
    with pytest.raises(ValueError, match="'1/2'"):
        evaluation.evaluate(None, None, rows, NEW_TOKENS)


def test_thinking_before_the_layout_is_told_once(monkeypatch, capsys, tokenizer):
    for replies, told in ((["<think>Hm.", "5"], True), (["Hm.</think>\n5"], True), (["5"], False)):
        evaluation.tell.cache_clear()
        monkeypatch.setattr(
            evaluation, "generate_predictions", lambda *args, said=replies: [[(s, False)] for s in said]
        )
        rows = Dataset.from_dict({"question": replies, "prompt": replies, "answer": ["5"] * len(replies)})
        for _ in range(2):
            evaluation.evaluate(None, tokenizer, rows, NEW_TOKENS)
        assert capsys.readouterr().out.count("enable_thinking") == told


def test_a_models_own_generation_settings_change_neither_greedy_nor_sampled_replies(model, tokenizer, either_way):
    """Qwen2.5's instruct models, for one, bring a repetition penalty, which training does not use."""
    plain = replies_of(model, tokenizer)
    model.generation_config.update(repetition_penalty=5.0, top_p=0.01, top_k=1, do_sample=True)
    assert replies_of(model, tokenizer) == plain
    sampled = replies_of(model, tokenizer, PROMPTS[:1], temperature=1.0, num_generations=20)[0]
    assert len({text for text, _ in sampled} - {plain[0][0][0]}) > 10


def test_every_prompt_gets_as_many_replies_as_asked(model, tokenizer, either_way):
    for batch_size in (2, 64):
        replies = replies_of(model, tokenizer, temperature=1.0, num_generations=3, batch_size=batch_size)
        assert [len(group) for group in replies] == [3] * len(PROMPTS)
        assert max(len({text for text, _ in group}) for group in replies) == 3


def test_several_greedy_replies_are_copies_of_the_one(model, tokenizer, either_way):
    several = replies_of(model, tokenizer, num_generations=3, batch_size=7)
    assert several == [reply * 3 for reply in replies_of(model, tokenizer)]


def test_one_seed_gives_the_same_sampled_replies_whatever_happened_before(model, tokenizer, either_way):
    first = replies_of(model, tokenizer, temperature=1.0, seed=5)
    torch.manual_seed(2)
    assert replies_of(model, tokenizer, temperature=1.0, seed=5) == first
    assert replies_of(model, tokenizer, temperature=1.0, seed=6) != first


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_sampling_replies_leaves_the_global_random_state_and_the_mode_alone(model, tokenizer, device):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    state = torch.cuda.get_rng_state if device == "cuda" else torch.get_rng_state
    for temperature, training in ((0.0, True), (1.0, False)):
        before = state()
        replies_of(model.to(device).train(training), tokenizer, PROMPTS[:2], temperature=temperature, seed=5)
        assert torch.equal(state(), before) and model.training == training


def test_replies_come_from_the_adapter_too(model, tokenizer):
    plain, targets = replies_of(model, tokenizer), ["q_proj", "k_proj", "v_proj", "o_proj"]
    lora = LoraConfig(r=4, lora_alpha=64, target_modules=targets, init_lora_weights=False, task_type="CAUSAL_LM")
    adapted = get_peft_model(model, lora)
    one_by_one = [plain_greedy(adapted, tokenizer, p) for p in PROMPTS]
    replies = [text for ((text, _),) in replies_of(adapted, tokenizer)]
    assert replies == tokenizer.batch_decode(one_by_one, skip_special_tokens=True) != [text for ((text, _),) in plain]


def test_evaluate_gives_a_scored_row_for_every_reply_in_the_order_of_the_questions(model, tokenizer):
    dataset, sampling = word_problems("test", 7), {"temperature": 1.0, "num_generations": 4, "seed": 5}
    table = evaluation.evaluate(model, tokenizer, dataset, NEW_TOKENS, batch_size=3, **sampling)
    assert list(table.columns) == ["question", "gold", "completion", "extracted", *OUTCOMES, "tokens"]
    assert table["question"].to_list() == [question for question in dataset["question"] for _ in range(4)]
    assert table["gold"].to_list() == [gold for gold in dataset["answer"] for _ in range(4)]
    assert list(map(str, table[OUTCOMES].dtypes)) == ["bool"] * 5
    assert (table["tokens"] >= 1).all() and (table["tokens"] == NEW_TOKENS)[table["truncated"]].all()
    replies = replies_of(model, tokenizer, dataset["prompt"], batch_size=3, **sampling)
    assert list(zip(table["completion"], table["truncated"], strict=True)) == [r for group in replies for r in group]


BLOCK = "<reasoning>\n6 * 12 = 72\n</reasoning>\n<answer>\n72\n</answer>"
ALL = {"strict", "flexible", "format", "worked"}


@pytest.mark.parametrize(
    ("completion", "extracted", "right"),
    [
        (BLOCK, "72", ALL),
        (BLOCK.replace("72\n</a", "$72\n</a") + "\n", "$72", ALL),
        (BLOCK.replace("72\n</a", "71\n</a"), "71", {"format", "worked"}),
        ("6 * 12 = 72\nThe answer is 72.", "", {"flexible", "worked"}),
        ("<answer>\n72\n</answer>", "72", {"flexible"}),
        ("72 is 6 * 12", "", set()),  # another number is last
        (BLOCK.replace("6 * 12 = 72", "Easy."), "72", ALL - {"worked"}),
        (BLOCK + "\nSo 73.", "72", {"worked"}),
        (BLOCK + BLOCK, "72", {"flexible", "worked"}),
        (BLOCK.removesuffix("\n</answer>"), "", {"flexible", "truncated", "worked"}),
        ("", "", set()),
    ],
)
def test_score_of_a_reply(completion, extracted, right):
    row = evaluation.score("6 * 12?", "72", completion, "truncated" in right)
    texts = {"question": "6 * 12?", "gold": "72", "completion": completion, "extracted": extracted}
    assert row == texts | {outcome: outcome in right for outcome in OUTCOMES}
    assert {type(row[outcome]) for outcome in OUTCOMES} == {bool}
    apart = evaluation.score("3 - 8?", "-5", BLOCK.replace("72\n</a", "- 5\n</a"), False)
    assert apart["strict"] and apart["flexible"], "what is strictly right is so by the other reading"


def table(*rows):
    """A table of evaluation: for each reply the outcomes that hold."""
    held = [{outcome: outcome in row.split() for outcome in OUTCOMES} for row in rows]
    return pd.DataFrame(held).assign(question=[f"question {i}" for i in range(len(rows))])


RIGHT = "strict flexible format worked"
BEFORE = table("flexible", "", "truncated", RIGHT, "format", "truncated", "", "flexible")
AFTER = table(RIGHT, RIGHT, RIGHT, "", "flexible", "", "flexible", "flexible")


def test_compare_of_hand_made_tables_and_of_the_same_questions_only(capsys):
    comparison = evaluation.compare(BEFORE, AFTER)
    assert list(comparison.index) == list(RATES.values())
    strict = comparison.loc[RATES["strict"]]
    assert tuple(strict[["n", "before", "after", "gain", "gained", "lost"]]) == (8, 1 / 8, 3 / 8, 2 / 8, 3, 1)
    assert tuple(strict[["before_low", "before_high"]]) == wilson_interval(1, 8)
    assert tuple(strict[["after_low", "after_high"]]) == wilson_interval(3, 8)
    assert tuple(strict[["gain_low", "gain_high"]]) == gain_interval(3, 1, 8)
    assert strict["p_value"] == pytest.approx(binomtest(3, 4).pvalue)
    for outcome, changes in {"flexible": (4, 1), "format": (3, 2), "truncated": (0, 2)}.items():
        assert tuple(comparison.loc[RATES[outcome], ["gained", "lost"]]) == changes
    for other in (AFTER[::-1], AFTER[:-1]):
        with pytest.raises(ValueError, match="questions before and after differ"):
            evaluation.compare(BEFORE, other)
    evaluation.tell.cache_clear()
    evaluation.compare(*(pd.concat([side, side]) for side in (BEFORE, AFTER)))
    assert "8 rows repeat a question" in capsys.readouterr().out


def replied(texts, tokens=5):
    """Scored replies to as many questions, gold answer 72."""
    rows = [evaluation.score(f"question {i}", "72", text, False) for i, text in enumerate(texts)]
    return pd.DataFrame(rows).assign(tokens=tokens)


GUT = BLOCK.replace("6 * 12 = 72", "Easy.").replace("\n72\n", "\n70\n")
WRONG = BLOCK.replace("72", "70")


def test_before_after_has_a_row_for_each_rate_and_one_for_the_length():
    before, after = replied(["70"] * 4, [1, 2, 3, 4]), replied([BLOCK] * 4, [11, 12, 13, 14])
    after.index += 4  # paired by place
    shown = evaluation.before_after(before, after)
    assert shown.iloc[:-1].to_dict() == evaluation.as_percentages(evaluation.compare(before, after)).to_dict()
    (length,) = shown.loc[["mean length (tokens)"]].to_dict("records")
    assert length["before (95 % interval)"].startswith("2.5 (") and length["after (95 % interval)"].startswith("12.5 (")
    assert length["gain (points)"] == "+10.0 (+10.0 to +10.0)"


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (["70"] * 20, [GUT] * 20, "learned: layout 0 → 100 %; no change seen: working out 0 → 0 %.*"),
        (
            [WRONG] * 20,
            [BLOCK] * 20,
            "learned: arithmetic 0 → 100 %; no change seen: layout 100 → 100 %, working out.*",
        ),
        ([BLOCK] * 20, [GUT] * 20, "lost: working out 100 → 0 %; no change seen: layout 100 → 100 %.*"),
        ([BLOCK] * 3, [GUT] * 3, "no change seen: layout 100 → 100 %, working out 100 → 0 %.*"),
        (["70"] * 39 + [BLOCK], [BLOCK] * 40, "learned: layout 2.5 → 100 %.*be compared .1 → 40 replies with a.*"),
    ],
)
def test_what_was_learned_is_said_only_where_chance_is_ruled_out(before, after, said):
    for kind in (bool, int):
        tables = (replied(texts).astype(dict.fromkeys(OUTCOMES, kind)) for texts in (before, after))
        assert re.fullmatch(said, evaluation.what_was_learned(*tables))


built = definitions("06_evaluation", "pass_chances", "average", "N", "KS")


@given(st.lists(st.integers(0, built.N), min_size=2, max_size=8))
def test_pass_chances_are_the_share_of_picks_with_a_right_one(right):
    replies = pd.DataFrame({"strict": [i < c for c in right for i in range(built.N)]})
    chances = built.pass_chances(replies, "strict")
    assert chances.columns.to_list() == list(built.KS) and len(chances) == len(right)
    for c, (_, row) in zip(right, chances.iterrows(), strict=True):
        # Chen et al.: one less the share of picks that hold wrong ones only
        assert row.to_list() == pytest.approx([1 - math.comb(built.N - c, k) / math.comb(built.N, k) for k in built.KS])


def test_average_is_the_mean_with_an_interval():
    table = built.average(pd.DataFrame({1: [0.0, 0.5, 0.25, 1.0], 2: [0.0, 1.0, 0.5, 1.0]}))
    assert table["rate"].to_dict() == {1: 0.4375, 2: 0.625}
    assert tuple(table.loc[1, ["low", "high"]]) == bootstrap_interval(pd.Series([0.0, 0.5, 0.25, 1.0]))


def test_percentages_are_for_reading():
    before, after = (table(*["strict"] * k, *[""] * (30 - k)) for k in (7, 27))
    shown = evaluation.as_percentages(evaluation.compare(before, after))
    assert shown.loc[RATES["strict"]].to_dict() == {
        "before (95 % interval)": "23.3 % (11.8-40.9)",
        "after (95 % interval)": "90.0 % (74.4-96.5)",
        "gain (points)": evaluation.points(20 / 30, *gain_interval(20, 0, 30)), "gained": 20, "lost": 0, "p": "1.9e-06",
    }  # fmt: skip
    assert evaluation.points(0.065, -0.001, 0.13) == "+6.5 (-0.1 to +13.0)"
