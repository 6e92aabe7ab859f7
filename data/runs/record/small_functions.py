"""A real language model that writes functions of one line, paid by tests that it cannot see, for notebook 12.

Descriptions have two halves, "double a" and "then subtract 7". What is held out are pairs of halves that never occur in
training, one description each, so that held-out rows are independent.
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

taught = definitions("12_rewards_beyond_exact_match", "tests_passed", "hidden_reward_func")
FIRST = {
    "add a and b": "a + b",
    "multiply a by b": "a * b",
    "subtract b from a": "a - b",
    "subtract a from b": "b - a",
    "double a": "2 * a",
    "double b": "2 * b",
    "square a": "a ** 2",
    "square b": "b ** 2",
    "add {j} to a": "a + {j}",
    "add {j} to b": "b + {j}",
    "multiply a by {j}": "a * {j}",
    "multiply b by {j}": "b * {j}",
    "subtract {j} from a": "a - {j}",
    "subtract {j} from b": "b - {j}",
}
THEN = {
    "": "{}",
    ", then add {k}": "({}) + {k}",
    ", then subtract {k}": "({}) - {k}",
    ", then multiply by {k}": "({}) * {k}",
    ", then add a": "({}) + a",
    ", then add b": "({}) + b",
    ", then subtract a": "({}) - a",
    ", then subtract b": "({}) - b",
    ", then double it": "2 * ({})",
    ", then square it": "({}) ** 2",
    ", then multiply by a": "({}) * a",
    ", then multiply by b": "({}) * b",
}
ASKED = "Write the Python function of one line that is described. Write only that line."
EXAMPLES = {
    "multiply a by b, then add 2": "a * b + 2",
    "cube b": "b ** 3",
    "add a and b, then divide by 4": "(a + b) / 4",
    "subtract 7 from a, then multiply by b": "(a - 7) * b",
    "add 6 to b, then subtract a": "b + 6 - a",
}
HELD_OUT, TIMES = 100, 10  # pairs held out; descriptions of each other pair
LONGEST, STEPS, BATCH = 28, 30, 32  # tokens of a function; optimizer steps, completions of each


def functions(seed: int) -> tuple[Dataset, Dataset]:
    """Training and held-out descriptions, with four calls each, of which the prompt shows none."""
    rng, shown = random.Random(seed), [(said, f"def f(a, b): return {body}") for said, body in EXAMPLES.items()]
    pairs = list(itertools.product(FIRST, THEN))
    rng.shuffle(pairs)

    def row(first: str, then: str) -> dict[str, Any] | None:
        j, k = rng.sample(range(3, 20), 2)
        said, body = first.format(j=j) + then.format(k=k), THEN[then].format(FIRST[first].format(j=j), k=k)
        calls = [[11, 37], *(rng.sample(range(2, 100), 2) for _ in range(3))]
        wanted = [eval(f"lambda a, b: {body}")(*call) for call in calls]  # ours
        if len(set(wanted)) == 1:  # "add 3 to a, then subtract a"
            return None
        return {"prompt": build_messages(said, ASKED, shown), "head": "", "calls": calls, "wanted": wanted}

    held_out = list(filter(None, itertools.starmap(row, pairs[:HELD_OUT])))
    train = list(filter(None, itertools.starmap(row, pairs[HELD_OUT:] * TIMES)))
    return Dataset.from_list(rng.sample(train, len(train))), Dataset.from_list(held_out)


def written(policy: str, model: Any, tokenizer: Any, rows: Dataset, profile: Profile) -> pd.DataFrame:
    """What a policy writes, greedy and sampled at the profile's temperature: asked, said, right (passes all tests)."""
    tables = []
    for decoding, temperature in (("greedy", 0.0), ("sampled", profile.temperature)):
        sampling = {"temperature": temperature, "batch_size": profile.eval_batch}
        found = evaluation.generate_predictions(model, tokenizer, rows["prompt"], LONGEST, **sampling)
        said = [own[0][0] for own in found]
        columns = {"asked": [prompt[-1]["content"] for prompt in rows["prompt"]], "said": said}
        columns["right"] = [all(tests) for tests in taught.tests_passed(said, rows)]
        tables.append(pd.DataFrame(columns).assign(policy=policy, decoding=decoding))
    return pd.concat(tables)


def rates(replies: pd.DataFrame) -> pd.DataFrame:
    """Of each policy and decoding: hits, n, rate and its 95 % Wilson interval."""
    counts = replies.groupby(["policy", "decoding"], sort=False)["right"].agg(hits="sum", n="size").reset_index()
    bounds = [wilson_interval(*row) for row in counts[["hits", "n"]].itertuples(index=False)]
    return counts.assign(rate=counts["hits"] / counts["n"], low=[b[0] for b in bounds], high=[b[1] for b in bounds])


def small_functions(profile: Profile, seed: int) -> dict[str, pd.DataFrame]:
    """GRPO with hidden tests; before and after it what is written for descriptions that are not in training.

    Returns:
        rates; change, a row for each decoding: descriptions gained and lost in pairs, and the p-value; replies;
        history.
    """
    train, held_out = functions(seed)
    held_out = held_out.select(range(min(len(held_out), profile.eval_questions)))
    model, tokenizer = models.load_policy(profile)
    before = written("untrained", model, tokenizer, held_out, profile)
    recipe = profile.with_(steps=min(STEPS, profile.steps), batch=BATCH, max_completion_length=LONGEST)
    options = {"doctor": False, "save_strategy": "no"}
    with tempfile.TemporaryDirectory() as folder:
        rewards = [taught.hidden_reward_func]
        trainer = training.make_trainer(recipe, model, tokenizer, train, folder, rewards, seed, **options)
        training.train_to_end(trainer)
    after = written("trained", trainer.model, tokenizer, held_out, profile)
    sides = [table.groupby("decoding")["right"].apply(list) for table in (before, after)]
    change = {decoding: paired_test(sides[0][decoding], sides[1][decoding]) for decoding in sides[0].index}
    replies = pd.concat([before, after])
    return {
        "rates": rates(replies),
        "change": pd.DataFrame(change).T.rename_axis("decoding").reset_index(),
        "replies": replies,
        "history": history(trainer),
    }
