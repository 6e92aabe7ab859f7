from ..prompts import XML_COT_FORMAT
from ._exercise import NotYet, Run, Solution, decided, exercise, expect, least, one_of


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
        "1 for breakfast": '{"nights": 3, "breakfast": 1}',
        "breakfast in quotes": '{"nights": 3, "breakfast": "true"}',
        "no breakfast": '{"nights": 3}',
        "a dog as well": '{"nights": 3, "breakfast": true, "dog": true}',
        "nights twice": '{"nights": 30, "nights": 3, "breakfast": true}',
        "breakfast twice": '{"nights": 3, "breakfast": false, "breakfast": true}',
        "a list": '[{"nights": 3, "breakfast": true}]',
        "JSON for nothing": "null",
        "two bookings": '{"nights": 3, "breakfast": true} {"nights": 4, "breakfast": true}',
        "a code fence": '```json\n{"nights": 3, "breakfast": true}\n```',
        "deep nesting": "[" * 100_000,
    }
    for nights in ("0", "31", "-3", "2.5", "true", '"3"', "[3]", "null", "NaN", "Infinity", "9" * 10_000):
        bad[f"nights {nights[:8]}"] = f'{{"nights": {nights}, "breakfast": true}}'
    for case, (text, wanted) in (good | {case: (text, None) for case, text in bad.items()}).items():
        expect(function(text), wanted, f"{case}, {text[:60]!r},")


HIDDEN = (0, 1, 2, 3)  # tests


@exercise
def fewest_tests(function: Solution, run: Run) -> None:
    """The fewest hidden tests that bring nine tenths of the general replies of three, however well a run is paid."""
    got, made = decided(function, run)
    one_of(got, HIDDEN, (got,), made)
    if (copied := made[got]["only the shown test"]) > made[got]["general"]:
        paid = f"{made[got]['paid']:.2f} is paid, and {copied:.0%} of the replies pass only the shown test"
        raise NotYet(f"for {got} {paid}: the reward is hacked")
    general = {hidden: found["general"] for hidden, found in made.items()}
    least(got, HIDDEN, general, 0.9, "the share of general replies")


@exercise
def gate(reward_func: Solution) -> None:
    """1.0 for the right answer in the layout, 0.2 more if one to three lines have an equals sign; else nothing."""

    def reply(*steps: str, said: str = "6") -> str:
        return XML_COT_FORMAT.format(reasoning="\n".join(steps), answer=said)

    replies = {
        "right, with a step": (reply("2 * 3 = 6"), 1.2),
        "right, with three steps": (reply("1 + 1 = 2", "then", "2 * 3 = 6", "6 = 6 = 6", said="6.0"), 1.2),
        "right, without a step": (reply("easy"), 1.0),
        "right, with four steps": (reply(*["6 = 6"] * 4), 1.0),
        "wrong, with a step": (reply("2 * 3 = 7", said="7"), 0.0),
        "right in the working only": (reply("2 * 3 = 6", said="no idea"), 0.0),
        "twice": (reply("2 * 3 = 6") + reply("2 * 3 = 6"), 0.0),
        "right, without the layout": ("2 * 3 = 6\n<answer>\n6\n</answer>", 0.0),
        "nothing": ("", 0.0),
    }
    for case, (text, wanted) in replies.items():
        chat = [[{"role": "assistant", "content": text}]]
        expect(reward_func(completions=chat, answer=["6"], prompts=["?"]), [wanted], case)
    both = [[{"role": "assistant", "content": replies["right, with a step"][0]}]] * 2
    expect(reward_func(completions=both, answer=["6", "7"], prompts=["?"] * 2), [1.2, 0.0], "two replies")
