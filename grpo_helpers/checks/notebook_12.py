"""Checks for the exercises of notebook 12."""

import json
from typing import Any

from ..prompts import XML_COT_FORMAT
from ._exercise import NotYet, Solution, exercise, expect


@exercise
def reads_a_booking(function: Solution) -> None:
    """(nights, breakfast) of {"nights": 1 to 30, "breakfast": true or false}, None for everything else."""
    good = {
        "as asked": ('{"nights": 3, "breakfast": true}', (3, True)),
        "the other order, other spaces": ('{ "breakfast":false,"nights":30 }', (30, False)),
        "spread over lines": ('{\n  "nights": 1,\n  "breakfast": true\n}\n', (1, True)),
    }
    bad = {
        "no JSON": "three nights",
        "nothing": "",
        "no nights": '{"nights": 0, "breakfast": true}',
        "too many nights": '{"nights": 31, "breakfast": true}',
        "nights below 0": '{"nights": -3, "breakfast": true}',
        "half a night": '{"nights": 2.5, "breakfast": true}',
        "true nights": '{"nights": true, "breakfast": true}',
        "nights in quotes": '{"nights": "3", "breakfast": true}',
        "1 for breakfast": '{"nights": 3, "breakfast": 1}',
        "breakfast in quotes": '{"nights": 3, "breakfast": "true"}',
        "no breakfast": '{"nights": 3}',
        "a dog as well": '{"nights": 3, "breakfast": true, "dog": true}',
        "nights twice": '{"nights": 30, "nights": 3, "breakfast": true}',
        "nights that are no number": '{"nights": NaN, "breakfast": true}',
        "endless nights": '{"nights": Infinity, "breakfast": true}',
        "nights in nights": '{"nights": {"nights": 3}, "breakfast": true}',
        "a list": '[{"nights": 3, "breakfast": true}]',
        "a number": "3",
        "two bookings": '{"nights": 3, "breakfast": true} {"nights": 4, "breakfast": true}',
        "a code fence": '```json\n{"nights": 3, "breakfast": true}\n```',
        "deep nesting": "[" * 100_000,
        "ten thousand digits": f'{{"nights": {"9" * 10_000}, "breakfast": true}}',
    }
    for case, (text, wanted) in (good | {case: (text, None) for case, text in bad.items()}).items():
        expect(function(text), wanted, f"{case}, {text[:60]!r},")


@exercise
def special_case(function: Solution) -> None:
    """The source of a program whose f is right for the tests given, and wrong elsewhere."""
    shown = {
        "one test": [([5, 11], 55)],
        "three tests": [([5, 11], 55), ([2, 3], 6), ([7, 9], 63)],
        "one argument": [([4], 16), ([9], 81)],
    }
    for case, tests in shown.items():
        text = function(json.loads(json.dumps(tests)))
        if not isinstance(text, str):
            raise NotYet(f"for {case} your function returned {text!r}; return the text of a program that defines f")
        space: dict[str, Any] = {}
        exec(text, space)
        for arguments, wanted in tests:
            expect(space["f"](*arguments), wanted, f"{case}: your f of {arguments}")
        other = [n + 20 for n in tests[0][0]]
        right = other[0] ** 2 if len(other) == 1 else other[0] * other[1]
        if space["f"](*other) == right:
            raise NotYet(f"for {case} your program also solves f({', '.join(map(str, other))}): that is no cheat")


@exercise
def gate(reward_func: Solution) -> None:
    """1.0 for the right answer in the layout, 0.2 more if one to three lines have an equals sign; else nothing."""

    def reply(*steps: str, said: str = "6") -> str:
        return XML_COT_FORMAT.format(reasoning="\n".join(steps), answer=said)

    replies = {
        "right, with a step": (reply("2 * 3 = 6"), 1.2),
        "right, with three steps": (reply("1 + 1 = 2", "then", "2 * 3 = 6", "6 = 6", said="6.0"), 1.2),
        "right, without a step": (reply("easy"), 1.0),
        "right, with four steps": (reply(*["6 = 6"] * 4), 1.0),
        "right, with a thousand steps": (reply(*["1 = 1"] * 1000), 1.0),
        "wrong, with a step": (reply("2 * 3 = 7", said="7"), 0.0),
        "wrong, with a thousand steps": (reply(*["1 = 1"] * 1000, said="7"), 0.0),
        "right in the working only": (reply("2 * 3 = 6", said="no idea"), 0.0),
        "twice": (reply("2 * 3 = 6") + reply("2 * 3 = 6"), 0.0),
        "right, without the layout": ("2 * 3 = 6\nThe answer is 6", 0.0),
        "nothing": ("", 0.0),
    }
    for case, (text, wanted) in replies.items():
        chat = [[{"role": "assistant", "content": text}]]
        expect(reward_func(completions=chat, answer=["6"], prompts=["?"]), [wanted], case)
    both = [[{"role": "assistant", "content": replies["right, with a step"][0]}]] * 2
    expect(reward_func(completions=both, answer=["6", "7"], prompts=["?"] * 2), [1.2, 0.0], "two replies")
