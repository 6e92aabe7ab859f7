"""The trainings of notebook 11, tools and a game of several turns, with the notebook's own functions."""

from __future__ import annotations

import random
from typing import Any

import pandas as pd
import torch
from datasets import Dataset

from grpo_helpers import models
from grpo_helpers.profiles import Profile
from grpo_helpers.records import history
from tests.cells import definitions

taught = definitions(
    "11_tools_and_turns",
    *("tool_policy", "calculate", "call", "result", "split", "by_head", "by_size", "tool_trainer", "Forgetful"),
    *("correct_func", "calls_func", "CHAT_TEMPLATE", "RESPONSE_TEMPLATE", "converse", "question", "says", "answer_of"),
    *("PRICE", "BETA", "STEPS", "GAME", "NEW", "HIGHEST", "GUESSES", "LONG", "Guessing", "play"),
)


def tools(profile: Profile, seed: int) -> dict[str, pd.DataFrame]:
    """GRPO with a calculator: calls at a price, for nothing, at a price without a KL penalty or without the mask.

    Everything is the notebook's; of the profile only the number of steps and of held-out questions is taken.

    Returns:
        rates, before and after each training, by size: questions, right, called, right from the head; history.
    """
    questions, held_out = taught.split(held_out=profile.eval_questions // 4, seed=seed)
    sizes = [row["size"] for row in held_out]

    def measured(model: Any, tokenizer: Any) -> pd.DataFrame:
        head = pd.Series(taught.by_head(model, tokenizer, held_out)).groupby(sizes, sort=False).sum()
        return taught.by_size(model, tokenizer, held_out).assign(head=head).reset_index()

    rewards, priced = [taught.correct_func, taught.calls_func], [1.0, -taught.PRICE]
    settings = {"tools": [taught.calculate], "seed": seed, "max_steps": min(taught.STEPS, profile.steps)}
    settings |= {"beta": taught.BETA}
    trainings = {
        "a price": {"weights": priced},
        "no price": {"weights": [1.0, 0.0]},
        "no KL penalty": {"weights": priced, "beta": 0.0},
        "mask forgotten": {"weights": priced, "trainer": taught.Forgetful},
    }
    rates, histories = {"before": measured(*taught.tool_policy())}, {}
    for name, special in trainings.items():
        trainer = taught.tool_trainer(questions, rewards, **settings | special)
        trainer.train()
        histories[name] = history(trainer)
        rates[name] = measured(trainer.model.eval(), trainer.processing_class)
    joined = [pd.concat(tables, names=["training"]).reset_index("training") for tables in (rates, histories)]
    return dict(zip(("rates", "history"), joined, strict=True))


def game(profile: Profile, seed: int) -> dict[str, pd.DataFrame]:
    """GRPO on the game, with some secrets kept back from training and with none, before and after.

    Returns:
        games, a row for each: training, how it was played, secret, whether that was new, won, guesses; history.
    """
    everyone = list(range(1, taught.HIGHEST + 1))
    trainings = {"some secrets kept back": [s for s in everyone if s not in taught.NEW], "all secrets": everyone}
    settings = {"max_completion_length": taught.LONG, "max_tool_calling_iterations": taught.GUESSES}
    settings |= {"max_steps": min(taught.STEPS, profile.steps), "seed": seed}
    model, tokenizer = taught.tool_policy()
    games, histories = [], {}

    def note(training: str, policy: Any) -> None:
        for name, temperature, times in (("sampled", 1.0, profile.eval_questions // 10), ("greedy", 0.0, 1)):
            torch.manual_seed(seed)
            played = taught.play(policy, tokenizer, everyone * times, temperature)
            games.append(played.assign(training=training, play=name))

    note("none", model)
    for training, secrets in trainings.items():
        rows = Dataset.from_list([{"prompt": taught.GAME, "secret": secret} for secret in secrets * 40])
        trainer = taught.tool_trainer(rows, [], game=taught.Guessing, **settings)
        trainer.train()
        histories[training] = history(trainer)
        note(training, trainer.model.eval())
    return {"games": pd.concat(games), "history": pd.concat(histories, names=["training"]).reset_index("training")}


ASKED = (
    "To multiply, call the calculator by writing [calculate text=12 * 3] and nothing else. "
    "When it has answered, write: The answer is 36."
)
EXAMPLES = {
    "254 boxes hold 31 shells each. How many shells?": (254, 31),
    "Each of 7 children has 5 balls. How many balls?": (7, 5),
}


def tool_probe(profile: Profile, seed: int) -> dict[str, pd.DataFrame]:
    """Whether a policy that was never shown our tool can call it from its prompt, without and with two examples.

    Returns:
        calls, a row for each number of examples and temperature: of the questions, how many asked the calculator,
        asked it the right product, and were answered right.
    """
    model, tokenizer = models.load_policy(profile)
    tokenizer.chat_template, tokenizer.response_template = taught.CHAT_TEMPLATE, taught.RESPONSE_TEMPLATE
    rng, shown = random.Random(seed), []
    for story, (a, b) in EXAMPLES.items():
        shown += [{"role": "user", "content": story}, taught.call("calculate", text=f"{a} * {b}")]
        shown += [taught.result("calculate", str(a * b)), taught.says(f"The answer is {a * b}.")]
    questions, rows = [taught.question(rng, "3 × 2") for _ in range(profile.batch)], []
    for examples in (0, len(EXAMPLES)):
        ahead = [{"role": "system", "content": ASKED}, *shown[: 4 * examples]]
        for temperature in (0.0, profile.temperature):
            torch.manual_seed(seed)
            prompts, tools = [ahead + row["prompt"] for row in questions], [[taught.calculate]] * len(questions)
            said = taught.converse(model, tokenizer, prompts, tools, temperature=temperature)[0]
            told = [[m["content"] for m in messages if m["role"] == "tool"] for messages in said]
            answers = [row["answer"] for row in questions]
            counts = {"called": sum(map(bool, told)), "asked right": sum(map(list.__contains__, told, answers))}
            counts["right"] = sum(map(str.__eq__, [taught.answer_of(m) or "" for m in said], answers))
            rows.append({"examples": examples, "temperature": temperature, "n": len(questions)} | counts)
    return {"calls": pd.DataFrame(rows)}
