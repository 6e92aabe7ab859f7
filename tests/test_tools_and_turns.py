"""Tools and turns: whose token is whose, what is paid, the game, and a rollout that is killed."""

import functools
import math
import random

import pandas as pd
import pytest
import torch
from datasets import Dataset
from trl.chat_template_utils import parse_response

from grpo_helpers.profiles import TINY
from record import agents

from .cells import definitions

NAMES = """
calculate tool_policy call result says between_turns run_tools converse mask_by_hand loss_by_hand gradient_of
tool_trainer question split SIZES answer_of correct_func Guessing chance game_shown GAME GUESSES HIGHEST LONG
"""
taught = definitions("11_tools_and_turns", *NAMES.split())

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def policy():
    return taught.tool_policy()


def rows(count=16):
    return Dataset.from_list([taught.question(random.Random(i), "3 × 2") for i in range(count)])


@pytest.mark.parametrize(
    ("text", "value"),
    [("6*7", "42"), ("6 + 7", "13"), ("6 - 7", "-1"), ("999999999 * 999999999", "999999998000000001")],
)
def test_what_it_accepts_is_calculated_exactly(text, value):
    assert taught.calculate(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "", "6", "6 *", "* 7", "6 * 7 * 8", "9**9**9", "6 / 7", "6 * -7", "6.0 * 7", "6 * 7\n", "6  *  7", "1e9 * 2",
        "1_0 * 2", "٣ * ٤", "² * 3", "6 * 7; 1", "__import__('os').system('x')", "9" * 10 + " * 2", "(" * 100_000,
    ],
    ids=lambda text: repr(text[:20]),
)  # fmt: skip
def test_whatever_else_is_refused(text):
    with pytest.raises(ValueError, match="not two numbers"):
        taught.calculate(text)


def test_what_a_call_is_written_as_is_read_back(policy):
    _, tokenizer = policy
    prompt = [{"role": "user", "content": "How many?"}]
    ahead = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
    written = taught.call("calculate", text="712 * 99")
    ids = tokenizer.apply_chat_template([*prompt, written], return_dict=False)[len(ahead) :]
    said = parse_response(tokenizer, ids, prefix=ahead, tools=[taught.calculate])
    assert said["tool_calls"] == written["tool_calls"]
    assert taught.run_tools(said, [taught.calculate]) == [taught.result("calculate", "70488")]


def test_a_tool_that_raises_or_does_not_exist_is_told_to_the_policy():
    for wrong in (taught.call("calculate", text="1 / 0"), taught.call("calc", text="1 + 1"), taught.call("calculate")):
        (told,) = taught.run_tools(wrong, [taught.calculate])
        assert told["role"] == "tool" and "error" in told["content"]
    assert taught.run_tools(taught.says("The answer is 2."), [taught.calculate]) == []


def test_between_turns_are_the_tokens_that_trl_puts_there(policy):
    _, tokenizer = policy
    trainer = taught.tool_trainer(rows(), [taught.correct_func], tools=[taught.calculate], max_steps=1)
    one, two = taught.result("calculate", "4"), taught.result("calculate", "2")
    for results in ([one], [one, two]):
        assert taught.between_turns(tokenizer, results) == trainer._get_tool_suffix_ids(results)


def test_the_mask_by_hand_follows_the_turns():
    end, opening = 9, [1, 2]
    ids = [5, 5, 9, 7, 7, 9, 1, 2, 5, 9, 7, 1, 2, 5]
    assert taught.mask_by_hand(ids, end, opening) == [1, 1, 1, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 1]
    assert taught.mask_by_hand([5, 1, 2, 5], end, opening) == [1, 1, 1, 1], "the policy may write those tokens, too"


def some_batch():
    """A trainer, and the batch that TRL makes of calls and direct answers to one question, right and wrong ones."""
    data, options = rows(8), {"tools": [taught.calculate], "per_device_train_batch_size": 8, "max_steps": 1}
    trainer = taught.tool_trainer(data, [taught.correct_func], **options)
    trainer.current_gradient_accumulation_steps = 1
    call = f"[calculate text={data[0]['text']}]"
    right, wrong = (f"The answer is {number}." for number in (data[0]["answer"], 1))
    scripts = [list(turns) for turns in [(call, right), (wrong,), (call, wrong), (right,)] * 2]

    def next_turns(prompt_ids, *args, **kwargs):
        going = [script for script in scripts if script]
        assert len(going) == len(prompt_ids)
        texts = [script.pop(0) + trainer.processing_class.eos_token for script in going]
        return trainer.processing_class(texts)["input_ids"], None

    trainer._generate_single_turn = next_turns
    return trainer, trainer._generate_and_score_completions([data[0]] * len(scripts))


def test_mask_and_loss_are_trls_in_values_and_gradients_and_without_the_mask_the_loss_is_another():
    trainer, batch = some_batch()
    tokenizer = trainer.processing_class
    opening, called = tokenizer("<|im_start|>assistant\n")["input_ids"], []
    parts = (batch["completion_ids"], batch["completion_mask"].bool(), batch["tool_mask"])
    for ids, kept, mask in zip(*parts, strict=True):
        assert taught.mask_by_hand(ids[kept].tolist(), tokenizer.eos_token_id, opening) == mask[kept].tolist()
        called.append(0 in mask[kept])
    assert called == [True, False, True, False] * 2
    assert batch["num_items_in_batch"] == (batch["tool_mask"] * batch["completion_mask"]).sum()
    forgotten = batch | {"tool_mask": torch.ones_like(batch["tool_mask"])}
    forgotten["num_items_in_batch"] = batch["completion_mask"].sum()
    losses = [trainer.compute_loss(trainer.model, b) for b in (batch, forgotten)]
    losses.append(taught.loss_by_hand(trainer.model, batch))
    theirs, other, ours = (taught.gradient_of(loss, trainer.model) for loss in losses)
    assert losses[0].item() == pytest.approx(losses[2].item(), abs=1e-6)
    assert theirs.abs().max() > 1e-4 and torch.allclose(theirs, ours, atol=1e-5 * theirs.abs().max())
    assert not torch.allclose(theirs, other, atol=1e-3 * other.abs().max())


ASKED = taught.call("calculate", text="6 * 7")


@pytest.mark.parametrize(
    ("messages", "answer"),
    [
        ([ASKED, taught.result("calculate", "42"), taught.says("The answer is 42.")], "42"),
        ([ASKED, taught.result("calculate", "The answer is 42.")], None), ([ASKED], None),
        ([taught.says("The answer is 42. The answer is 43.")], None), ([taught.says("The answer is 42.\n")], None),
        ([taught.says("the answer is 42.")], None), ([taught.says("The answer is ٤٢.")], None),
    ],
)  # fmt: skip
def test_only_the_policys_own_last_message_answers(messages, answer):
    assert taught.answer_of(messages) == answer


def test_no_product_of_two_digits_or_more_is_trained_on_and_held_out():
    train, held_out = taught.split(held_out=10, train=50)
    products = {row["text"] for row in held_out if row["size"] != "1 × 1"}
    assert not products & set(train["text"]) and len(products) >= 29
    assert pd.Series(train["size"]).value_counts().to_dict() == dict.fromkeys(taught.SIZES, 50) | {"1 × 1": 100}
    assert all(eval(row["text"]) == int(row["answer"]) for row in held_out)


def test_the_game_answers_counts_and_ends():
    game = taught.Guessing()
    game.reset(secret=9, prompt="not needed")
    assert [game.guess(4), game.guess(12)] == ["from 5 to 15", "from 5 to 11"] and game.get_reward() == 0.0
    assert game.guess(9) == "found" and game.get_reward() == 1.0
    with pytest.raises(ValueError, match="over"):
        game.guess(9)
    game.reset(secret=1)
    for number in (0, 16, "7", None, 7.0):
        with pytest.raises(ValueError, match="not from 1 to"):
            game.guess(number)  # and it does not count
    assert game.get_reward() == 0.0 and [game.guess(n) for n in (4, 2, 9, 2)] == ["from 1 to 3", *["from 1 to 1"] * 3]
    with pytest.raises(ValueError, match="over"):
        game.guess(1)
    assert game.get_reward() == 0.0, "a guess too late wins nothing"


def test_chance_is_as_computed():
    rng = random.Random(0)
    shown = [taught.game_shown(rng, rng.randint(1, taught.HIGHEST), careful=True) for _ in range(4000)]
    won = sum(turns[-2]["content"] == "found" for turns in shown) / len(shown)
    needed = sum(len(turns) // 2 for turns in shown) / len(shown)
    assert taught.chance(taught.HIGHEST, taught.GUESSES) == pytest.approx((won, needed), abs=0.03)
    assert taught.chance(1, 1) == (1, 1) and taught.chance(3, 2) == pytest.approx((7 / 9, 5 / 3))


def test_a_conversation_ends_within_its_room_and_with_the_policys_token(policy):
    prompts = [taught.question(random.Random(i), "2 × 2")["prompt"] for i in range(8)]
    torch.manual_seed(0)
    tools = [[taught.calculate]] * 8
    messages, _, tokens, masks = taught.converse(*policy, prompts, tools, limit=40, temperature=1.5)
    for said, ids, mask in zip(messages, tokens, masks, strict=True):
        assert len(ids) == len(mask) <= 40 and mask[0] == mask[-1] == 1 and said[0]["role"] == "assistant"


@pytest.mark.trains
def test_a_rollout_that_is_killed_in_the_middle_resumes(tmp_path):
    left = math.inf

    class Game(taught.Guessing):
        @functools.wraps(taught.Guessing.guess)  # TRL reads the tool's signature and docstring
        def guess(self, number):
            nonlocal left
            left -= 1
            if left == 0:
                raise KeyboardInterrupt
            return super().guess(number)

    data = Dataset.from_list([{"prompt": taught.GAME, "secret": 1 + i % taught.HIGHEST} for i in range(32)])

    def trainer(folder):
        more = {"max_completion_length": taught.LONG, "max_tool_calling_iterations": taught.GUESSES}
        more |= {"save_strategy": "steps", "save_steps": 2, "per_device_train_batch_size": 8, "max_steps": 4}
        return taught.tool_trainer(data, [], game=Game, output_dir=str(folder), **more)

    whole = trainer(tmp_path / "whole")
    whole.train()
    torn, turns = trainer(tmp_path / "torn"), []
    write = torn._generate_single_turn

    def count(*args, **kwargs):
        nonlocal left
        turns.append(torn.state.global_step)
        if torn.state.global_step == 2 and turns.count(2) == 2:
            left = 3  # dies in the middle of the second turn's tools
        return write(*args, **kwargs)

    torn._generate_single_turn = count
    with pytest.raises(KeyboardInterrupt):
        torn.train()
    assert torn.state.global_step == 2
    left, resumed = math.inf, trainer(tmp_path / "torn")
    resumed.train(resume_from_checkpoint=str(tmp_path / "torn" / "checkpoint-2"))
    trained = {name: p for name, p in whole.model.named_parameters() if p.requires_grad}
    assert trained and all(torch.equal(p, trained.get(name, p)) for name, p in resumed.model.named_parameters())


@pytest.mark.trains
def test_the_recorded_trainings_run(monkeypatch):
    for name, value in {"STEPS": 1, "BATCH": 8}.items():
        monkeypatch.setitem(agents.taught.tool_trainer.__globals__, name, value)
    few = TINY.with_(steps=1, eval_questions=20)
    tables = agents.tools(few, seed=1)
    trained = {"a price", "no price", "no KL penalty", "mask forgotten"}
    assert set(tables["rates"]["training"]) == trained | {"before"} and set(tables["rates"]["n"]) == {5}
    assert tables["history"].groupby("training").size().to_dict() == dict.fromkeys(trained, 1)
    games = agents.game(few, seed=1)["games"].groupby(["play", "training"]).size().unstack()
    assert set(games) == {"all secrets", "none", "some secrets kept back"}
    assert (games.loc["greedy"] == taught.HIGHEST).all() and (games.loc["sampled"] == 2 * taught.HIGHEST).all()
