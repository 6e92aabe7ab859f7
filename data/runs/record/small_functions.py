"""A real language model that writes functions of one line, paid by tests that it cannot see, for notebook 12.

Descriptions are an inner calculation and what is done to it: "the sum of a and b, times 3". What is held out are pairs
of the two that never occur in training, one description each, so that held-out rows are independent.
"""

from __future__ import annotations

import itertools
import random
import tempfile
from typing import Any

import pandas as pd
from datasets import Dataset

from grpo_helpers import evaluation, models, training
from grpo_helpers.profiles import Profile
from grpo_helpers.prompts import build_messages
from grpo_helpers.records import history
from grpo_helpers.statistics import paired_test, wilson_interval
from tests.cells import definitions

taught = definitions("12_rewards_beyond_exact_match", "tests_passed", "hidden_reward_func", "kind", "KINDS")
INNER = {
    "the sum of a and b": "a + b",
    "a minus b": "a - b",
    "b minus a": "b - a",
    "a times b": "a * b",
    "the larger of a and b": "max(a, b)",
    "the smaller of a and b": "min(a, b)",
    "a squared": "a ** 2",
    "b squared": "b ** 2",
    "twice a": "2 * a",
    "twice b": "2 * b",
    "the distance between a and b": "abs(a - b)",
    "a without its last digit": "a // 10",
    "the last digit of b": "b % 10",
    "the sum of a, a and b": "a + a + b",
}
OUTER = {
    "{}": "{}",
    "{}, plus {k}": "({}) + {k}",
    "{}, minus {k}": "({}) - {k}",
    "{}, times {k}": "({}) * {k}",
    "{k} minus {}": "{k} - ({})",
    "{}, and a added to that": "({}) + a",
    "{}, and b taken from that": "({}) - b",
    "{}, and b added to that": "({}) + b",
    "twice {}": "2 * ({})",
    "the remainder of {}, divided by {k}": "({}) % {k}",
    "{}, squared": "({}) ** 2",
    "minus {}": "-({})",
}
ASKED = "Write the Python function of one line that is described. Write only that line."
EXAMPLES = {"the product of a and b, plus 2": "a * b + 2", "the cube of b": "b ** 3", "7 minus a": "7 - a"}
HELD_OUT, TIMES = 100, 10  # pairs held out; descriptions of each other pair
LONGEST, STEPS = 32, 40  # tokens of a function; optimizer steps


def functions(seed: int) -> tuple[Dataset, Dataset]:
    """Training and held-out descriptions, with four calls each, of which the prompt shows one."""
    rng, pairs = random.Random(seed), list(itertools.product(INNER, OUTER))
    rng.shuffle(pairs)

    def row(inner: str, outer: str) -> dict[str, Any]:
        k = rng.randint(3, 20)
        body, wanted = OUTER[outer].format(INNER[inner], k=k), []
        while len(set(wanted)) < 3:  # no constant passes
            calls = [rng.sample(range(2, 100), 2) for _ in range(4)]
            wanted = [returned(body, call) for call in calls]
        messages = build_messages(question(outer.format(inner, k=k), calls[0], wanted[0]), ASKED, shown())
        return {"prompt": messages, "head": "", "calls": calls, "wanted": wanted, "body": body}

    held_out = [row(*pair) for pair in pairs[:HELD_OUT]]
    train = [row(*pair) for pair in pairs[HELD_OUT:] * TIMES]
    return Dataset.from_list(rng.sample(train, len(train))), Dataset.from_list(held_out)


def returned(body: str, call: list[int]) -> int:
    return eval(f"lambda a, b: {body}")(*call)  # ours


def question(described: str, call: list[int], wanted: int) -> str:
    return f"{described}\nf({call[0]}, {call[1]}) == {wanted}"


def shown() -> list[tuple[str, str]]:
    """The worked examples of every prompt."""
    rows = zip(EXAMPLES.items(), ([4, 9], [5, 2], [3, 8]), strict=True)
    return [(question(said, call, returned(body, call)), f"def f(a, b): return {body}") for (said, body), call in rows]


def small_functions(profile: Profile, seed: int) -> dict[str, pd.DataFrame]:
    """GRPO with hidden tests; before and after it what is written for descriptions that are not in training.

    Returns:
        kinds, a row for each policy, decoding and kind of reply: hits, n, rate and its 95 % Wilson interval; change,
        a row for each decoding: descriptions gained and lost in pairs, and the p-value; replies, greedy; history.
    """
    train, held_out = functions(seed)
    held_out = held_out.select(range(min(len(held_out), profile.eval_questions)))
    model, tokenizer = models.load_policy(profile)
    decodings = {"greedy": 0.0, "sampled": profile.temperature}
    kinds, found = [], {}

    def note(policy: str, model: Any) -> None:
        for decoding, temperature in decodings.items():
            sampling = {"temperature": temperature, "batch_size": profile.eval_batch}
            said = evaluation.generate_predictions(model, tokenizer, held_out["prompt"], LONGEST, **sampling)
            said = [own[0][0] for own in said]
            own = list(map(taught.kind, taught.tests_passed(said, held_out)))
            found[policy, decoding] = said, [kind == taught.KINDS[0] for kind in own]
            for kind in taught.KINDS:
                hits, n = own.count(kind), len(own)
                kinds.append((policy, decoding, kind, hits, n, hits / n, *wilson_interval(hits, n)))

    note("untrained", model)
    recipe = profile.with_(steps=min(STEPS, profile.steps), max_completion_length=LONGEST)
    options = {"doctor": False, "save_strategy": "no"}
    with tempfile.TemporaryDirectory() as folder:
        trainer = training.make_trainer(
            *(recipe, model, tokenizer, train, folder, [taught.hidden_reward_func], seed), **options
        )
        training.train_to_end(trainer)
    note("trained", trainer.model)
    pairs = {d: [found[policy, d][1] for policy in ("untrained", "trained")] for d in decodings}
    asked = [prompt[-1]["content"] for prompt in held_out["prompt"]]
    return {
        "kinds": pd.DataFrame(kinds, columns=["policy", "decoding", "kind", "hits", "n", "rate", "low", "high"]),
        "change": pd.DataFrame([{"decoding": d} | paired_test(*pair) for d, pair in pairs.items()]),
        "replies": pd.DataFrame({"asked": asked} | {p: said for (p, d), (said, _) in found.items() if d == "greedy"}),
        "history": history(trainer),
    }
