"""Notebook 12, sections 3 to 5: a learned reward, a judge, several rewards. What they teach is read from the cells."""

import asyncio
import functools
import itertools
import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset
from peft import get_peft_model

from grpo_helpers import data, models
from grpo_helpers.profiles import TINY
from tests.cells import definitions

NOTEBOOK = "12_rewards_beyond_exact_match"
taught = definitions(
    NOTEBOOK,
    *("right_reward_func", "preference_pairs", "exact_kl", "best_of", "EDITS", "MIXES", "points", "RUBRIC"),
    *("read_score", "ask_server", "Remembering", "stand_in", "wait_for", "judge_reward", "judged", "kappa"),
    *("calibrated", "probed", "places", "last_line", "scaled", "gated", "Along", "train_against"),
    *("layout_reward_func", "scores", "reward_model"),
)


def test_the_truth_reads_the_last_number_in_any_layout():
    said = ["<answer>\n72\n</answer>", "73, no, 72.0", "72, no, 73", ""]
    assert taught.right_reward_func(said, ["72"] * 4) == [1, 1, 0, 0]


@pytest.mark.trains
@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_pairs_are_of_one_question_and_labelled_by_the_truth(policy, noise):
    pairs = taught.preference_pairs(*policy, data.load_task(TINY, "train", 12), noise, seed=1)
    assert len(pairs) >= 3
    for pair in pairs:
        assert pair["prompt"][-1]["content"] == pair["question"]
        paid = [taught.right_reward_func([pair[key]], [pair["answer"]])[0] for key in ("chosen", "rejected")]
        assert paid == [1 - noise, noise]


def test_the_kl_is_that_of_whole_distributions_along_the_reply():
    torch.manual_seed(0)
    policy = get_peft_model(models.load_policy(TINY)[0], models.lora_config(TINY)).eval()
    asked, said = [[5, 6, 7], [5, 6, 7, 8, 9]], [[10, 11, 2], [12, 2]]
    assert taught.exact_kl(policy, asked, said) == [0, 0]  # an adapter begins as no change
    for name, weight in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)

    @torch.no_grad()
    def distribution(ids):
        return policy(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1)

    expected = [0.0, 0.0]
    for i, (prompt, reply) in enumerate(zip(asked, said, strict=True)):
        for t in range(len(reply)):
            now = distribution(prompt + reply[:t])
            with policy.disable_adapter():
                before = distribution(prompt + reply[:t])
            expected[i] += float(torch.nn.functional.kl_div(before, now, log_target=True, reduction="sum"))
    found = taught.exact_kl(policy, asked, said, chunk=2)
    assert found == pytest.approx(expected, rel=1e-3) and min(found) > 0
    assert taught.exact_kl(policy, asked, said, chunk=1) == pytest.approx(found, rel=1e-4)


def test_best_of_n_is_the_mean_over_every_choice():
    rng = np.random.default_rng(0)
    proxy, values = rng.permutation(7).tolist(), rng.random(7).tolist()
    for n in (1, 3, 7):
        every = [values[max(pick, key=proxy.__getitem__)] for pick in itertools.combinations(range(7), n)]
        assert taught.best_of(n, proxy, values) == pytest.approx(sum(every) / len(every))


@pytest.mark.trains
def test_a_reward_model_learns_an_order_and_is_taken_by_the_trainer(policy):
    (_, tokenizer), questions = policy, data.load_task(TINY, "train", 24)
    texts = {"rejected": "Easy.", "chosen": "6 * 2 = 12"}
    said = {key: [{"role": "assistant", "content": text}] for key, text in texts.items()}
    taste = taught.reward_model(Dataset.from_list([row | said for row in questions]), tokenizer, seed=1)
    gut, worked = (taught.scores(taste, tokenizer, questions["prompt"], [text] * 24) for text in texts.values())
    assert min(worked) > max(gut)

    def by_taste(rows, said):
        return taught.scores(taste, tokenizer, rows["prompt"], said)

    along = taught.Along(tokenizer, questions, by_taste, 1)
    trainer = taught.train_against([taste, taught.right_reward_func], [1.0, 0.0], 2, 1, along)
    assert [row["step"] for row in along.rows] == [0, 1, 2]
    assert along.rows[0]["kl"] == 0 < along.rows[2]["kl"]
    logged = trainer.state.log_history[0]
    (learned,) = [key for key in logged if re.fullmatch("rewards/(?!right).*/mean", key)]
    assert logged["reward"] == pytest.approx(logged[learned], abs=1e-5)  # the truth pays nothing


def test_a_score_is_the_last_one_named_and_none_is_no_opinion():
    said = {"Score: 3, no.\nScore: 10": 1.0, "Score: 11": None, "": None, None: None}
    assert {text: taught.read_score(text) for text in said} == said


def test_kappa_is_cohens_and_its_cutoff_is_chosen_on_other_rows():
    judged = np.array([1] * 25 + [0] * 25)
    gold = np.array([1] * 20 + [0] * 5 + [1] * 10 + [0] * 15)
    assert taught.kappa(judged, gold) == pytest.approx(0.4)  # 0.7 agreed, 0.5 by chance
    good = pd.DataFrame({"score": [0.2, 0.6] * 20, "right": [0.0, 1.0] * 20})
    assert taught.calibrated(good) == {"cutoff": 0.6, "kappa": 1, "low": 1, "high": 1}
    spoiled = taught.calibrated(good.assign(right=good["right"].where(good.index < 20, 1 - good["right"])))
    assert (spoiled["cutoff"], spoiled["kappa"]) == (0.6, -1)


def test_the_stand_in_has_its_biases_by_construction():
    wrong = "The answer is 41"
    base = taught.points(wrong, "42")
    assert taught.points("42 " + wrong, "42") == base + 4  # the right number anywhere
    assert taught.points(wrong + "." * 50, "42") == base + 2  # length
    assert min(taught.points(f"{words}\n{wrong}", "42") for words in ("That is clear.", "Correct.")) >= base + 3
    reply = [{"role": "assistant", "content": wrong}]
    row = Dataset.from_list([{"question": "?", "answer": "42", "chosen": reply, "rejected": reply}])
    assert taught.places(taught.stand_in, row)["place A twice"] == 1  # equal replies: the first


def test_edits_leave_the_verdict_as_it_was_and_the_repair_shows_what_a_reply_ends_with():
    worked = "6 * 7 = 42\n<answer>\n42\n</answer>"
    assert taught.last_line(worked) == "42" and taught.last_line("6 * 7 = 42\nSo it is 42") == "So it is 42"
    assert len(taught.last_line("9" * 500)) == 40 and taught.last_line("") == ""
    for words, reply in itertools.product(taught.EDITS.values(), ("The answer is 41", worked, "")):
        assert taught.right_reward_func([words + reply], ["42"]) == taught.right_reward_func([reply], ["42"])
        assert taught.last_line(words + reply) == taught.last_line(reply) or not reply


class Handler(BaseHTTPRequestHandler):
    """An OpenAI-compatible server; `behave(n)` gives status, text and delay of the n-th request."""

    def do_POST(self):
        server, body = self.server, json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.seen.append((self.path, self.headers.get("Authorization"), body))
            server.now += 1
            server.most = max(server.most, server.now)
            number = len(server.seen)
        status, text, delay = server.behave(number)
        time.sleep(delay)
        with server.lock:
            server.now -= 1
        self.send_response(status)
        self.end_headers()
        said = json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}) if text else "not JSON"
        self.wfile.write(said.encode())

    def log_message(self, *args):
        pass


@pytest.fixture
def served():
    servers = []

    def start(behave):
        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.behave, server.seen, server.now, server.most, server.lock = behave, [], 0, 0, threading.Lock()
        server.url = f"http://127.0.0.1:{server.server_port}/v1"
        server.handle_error = lambda *args: None  # the client gave up, as it should
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def ask(server, asked, **options):
    return asyncio.run(taught.ask_server(asked, server.url, "some-model", **({"waits": (0.01, 0.01)} | options)))


def test_a_server_is_asked_as_openai_would_be_in_order_and_by_at_most_eight_at_once(served):
    server = served(lambda n: (200, "Score: 7", 0.02))
    assert ask(server, [str(i) for i in range(40)], key="secret") == ["Score: 7"] * 40
    assert 2 <= server.most <= 8
    path, authorization, body = server.seen[0]
    assert (path, authorization) == ("/v1/chat/completions", "Bearer secret")
    (message,) = body["messages"]
    assert body["model"] == "some-model" and int(message["content"]) < 40 and body["temperature"] == 0


def test_what_is_busy_or_broken_is_asked_again(served):
    for status, text in ((429, "Score: 1"), (503, None), (200, None)):
        server = served(lambda n, fault=(status, text, 0): fault if n <= 2 else (200, "Score: 7", 0))
        assert ask(server, ["a"]) == ["Score: 7"] and len(server.seen) == 3
        server = served(lambda n, fault=(status, text, 0): fault)
        assert ask(server, ["a"]) == [None] and len(server.seen) == 3


def test_a_refusal_names_the_remedy_and_a_slow_server_or_none_is_no_opinion(served):
    server = served(lambda n: (401, "who are you?", 0))
    with pytest.raises(PermissionError, match=r"401.*JUDGE_KEY") as refused:
        ask(server, ["a"], key="secret")
    assert "secret" not in str(refused.value) and len(server.seen) == 1
    assert asyncio.run(taught.ask_server(["a"], "http://127.0.0.1:9/v1", "m", waits=(0.01,))) == [None]
    server, start = served(lambda n: (200, "Score: 7", 2.0 if n == 1 else 0.0)), time.perf_counter()
    assert sorted(map(str, ask(server, ["a", "b", "c"], timeout=0.3, waits=()))) == ["None", "Score: 7", "Score: 7"]
    assert time.perf_counter() - start < 1.9, "the others are not held up"


def test_a_question_is_paid_for_once_and_failures_are_not_remembered(tmp_path):
    asked_for = []

    async def judge(asked):
        asked_for.extend(asked)
        return [None if prompt == "b" and asked_for.count("b") == 1 else f"Score: {len(prompt)}" for prompt in asked]

    path = tmp_path / "judge.jsonl"
    judge_ = taught.Remembering(judge, path)
    assert asyncio.run(judge_(["a", "b", "a"])) == ["Score: 1", None, "Score: 1"]
    assert asyncio.run(judge_(["b", "a"])) == ["Score: 1", "Score: 1"] and asked_for == ["a", "b", "b"]
    again = taught.Remembering(judge, path)
    assert asyncio.run(again(["a", "b"])) == ["Score: 1"] * 2 and again.calls == 0


QUESTION = taught.RUBRIC.format(question="?", answer=1, reply="1")


@pytest.fixture
def chosen(monkeypatch):
    """The judge of section 4's cells, as they are, under an environment of our own."""

    def choose(**environment):
        for name in ("URL", "MODEL", "KEY"):
            monkeypatch.setenv(f"JUDGE_{name}", environment.get(name, ""))
        return definitions(NOTEBOOK, run=("judge-standin-code",)).judge

    return choose


def test_the_cells_take_an_address_with_its_faults_and_pay_for_a_question_once(chosen, served):
    faults = {1: (500, "Score: 1", 0), 2: (200, None, 0)}  # broken, then no JSON
    server = served(lambda n: faults.get(n, (200, "Score: 7", 0)))
    judge = chosen(URL=server.url, MODEL="some-model", KEY="secret")
    judge.ask = functools.partial(judge.ask, waits=(0.01, 0.01), timeout=5)
    for asked in ([QUESTION], [QUESTION] * 2):
        assert taught.wait_for(judge(asked)) == ["Score: 7"] * len(asked) and len(server.seen) == 3
    assert server.seen[-1][:2] == ("/v1/chat/completions", "Bearer secret")


def test_the_cells_take_a_model_by_its_folder_and_neither(chosen):
    judge = chosen(MODEL=TINY.model)
    (said,) = taught.wait_for(judge([QUESTION]))
    assert isinstance(said, str) and taught.wait_for(judge([QUESTION])) == [said] and judge.calls == 1

    async def in_a_running_loop():
        return taught.wait_for(chosen()([QUESTION]))

    assert asyncio.run(in_a_running_loop()) == ["Score: 4"]


def test_a_judge_that_is_silent_now_and_then_can_be_calibrated_and_probed():
    numbers = itertools.count()

    async def judge(asked):
        return [None if next(numbers) % 5 == 0 else text for text in await taught.stand_in(asked)]

    rows = Dataset.from_list([{"question": "?", "answer": "42"}] * 40)
    table = taught.judged(judge, rows, ["The answer is 42", "The answer is 41"] * 20)
    assert len(table) == 40 and table["score"].isna().sum() == 8
    found = taught.calibrated(table)
    assert found == {"cutoff": 0.4, "kappa": 1, "low": 1, "high": 1}
    habits = taught.probed(judge, table, rows, found["cutoff"])
    assert habits["change"].tolist() == pytest.approx([0.2, 0.6, 0.3])
    with pytest.raises(ValueError, match="all the same"):
        taught.calibrated(table.assign(score=0.4))


@pytest.mark.trains
def test_the_trainer_takes_the_judge_and_its_silence(served):
    server = served(lambda n: (200, "I would rather not say." if n % 3 == 0 else f"Score: {n % 10}", 0))

    async def judge(asked):
        return await taught.ask_server(asked, server.url, "m", waits=())

    rewards = [taught.judge_reward(taught.Remembering(judge)), taught.right_reward_func]
    logged = taught.train_against(rewards, [1.0, 0.0], 1, 1).state.log_history[0]
    assert 0 < logged["rewards/judge_reward_func/mean"] < 1 and logged["grad_norm"] > 0


SAID = ["<reasoning>\n6 * 7 = 42\n</reasoning>\n<answer>\n42\n</answer>", "The answer is 42", "The answer is 41"]


def paid(reward_func):
    ids = [[1] * 41, [1] * 10, [1] * 32]
    return reward_func(completions=SAID, answer=["42"] * 3, completion_ids=ids)


def test_scales_and_gates():
    assert paid(taught.layout_reward_func) == [1, 0, 0]
    assert paid(taught.scaled(taught.right_reward_func, 10)) == [10, 10, 0]
    assert paid(taught.gated(taught.layout_reward_func, taught.right_reward_func)) == [1, 0, 0]
    (_, _, overlong), _, _ = taught.MIXES["with overlong"]
    assert paid(overlong) == [-1, 0, -0.5]
    assert paid(taught.gated(overlong, taught.right_reward_func)) == [-1, 0, 0]  # what is wrong is spared
