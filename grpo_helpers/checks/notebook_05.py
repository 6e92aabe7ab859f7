"""Checks for the exercises of notebook 05."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..prompts import XML_COT_FORMAT
from ._exercise import exercise, expect


@exercise
def steps_shown(reward_func: Callable[..., Any]) -> None:
    """0.25 for a completion whose reasoning block holds an equals sign, else 0.0; in TRL's signature."""
    cases = {
        "a reasoning block with a calculation": (XML_COT_FORMAT.format(reasoning="6 * 12 = 72", answer="72"), 0.25),
        "a reasoning block without a calculation": (XML_COT_FORMAT.format(reasoning="easy", answer="72"), 0.0),
        "an equals sign outside the reasoning block": (XML_COT_FORMAT.format(reasoning="easy", answer="x = 72"), 0.0),
        "no tags at all": ("6 * 12 = 72", 0.0),
        "a reasoning block that is never closed": ("<reasoning>\n6 * 12 = 72", 0.0),
        "a calculation spread over lines": ("<reasoning>\n6 * 12\n= 72\n</reasoning>", 0.25),
    }
    for case, (text, wanted) in cases.items():
        expect(reward_func(completions=[text], answer=["72"], prompts=["?"]), [wanted], case)
    texts, wanted = map(list, zip(*cases.values(), strict=True))
    expect(reward_func(completions=texts), wanted, f"{len(texts)} completions at once")
    chats = [[{"role": "assistant", "content": text}] for text in texts]
    expect(reward_func(completions=chats), wanted, "completions given as conversations")


@exercise
def silent_groups(function: Callable[..., Any]) -> None:
    """The share of groups (rows) whose rewards are all equal."""
    cases = {
        "two groups, one of them tied": ([[4.0, 4.0, 4.0], [0.0, 4.0, 0.5]], 0.5),
        "a group tied at zero": ([[0.0, 0.0]], 1.0),
        "groups that differ from each other but not within": ([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]], 1.0),
        "groups without a tie": ([[0.0, 0.125], [4.0, 0.0], [0.5, 1.0], [2.0, 2.5]], 0.0),
    }
    for case, (rewards, wanted) in cases.items():
        expect(function(rewards), wanted, f"{case}, {rewards}")


@exercise
def go_on_from(function: Callable[..., Any]) -> None:
    """The step of the newest whole checkpoint, 0 if there is none; names map to whether they are whole."""
    cases = {
        "two whole checkpoints": ({"checkpoint-20": True, "checkpoint-40": True}, 40),
        "a damaged newest one": ({"checkpoint-20": True, "checkpoint-40": False}, 20),
        "names whose order as text misleads": ({"checkpoint-40": True, "checkpoint-100": True}, 100),
        "nothing but damage": ({"checkpoint-20": False}, 0),
        "no checkpoint": ({}, 0),
    }
    for case, (checkpoints, wanted) in cases.items():
        expect(function(dict(checkpoints)), wanted, f"{case}, {checkpoints}")
