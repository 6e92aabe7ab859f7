from ..prompts import XML_COT_FORMAT
from ._exercise import NotYet, Run, Solution, decided, exercise, expect, least, one_of


@exercise
def reads_a_booking(function: Solution) -> None:
    """(nights, breakfast) of {"nights": 1 to 30, "breakfast": true or false}, None for everything else."""
    asked = '{"nights": 3, "breakfast": true}'
    spread = '{\n  "nights": 1,\n  "breakfast": true\n}\n'
    good = {asked: (3, True), '{ "breakfast":false,"nights":30 }': (30, False), spread: (1, True)}
    nights = ("0", "31", "-3", "2.5", "true", '"3"', "null", "NaN", "Infinity", "9" * 10_000)
    breakfasts = ("1", '"true"', 'true, "dog": true', 'true, "breakfast": false')
    inside = [f'"nights": {n}, "breakfast": true' for n in nights]
    inside += [f'"nights": 3, "breakfast": {b}' for b in breakfasts]
    inside += ['"nights": 3', '"nights": 30, "nights": 3, "breakfast": true']
    bad = [f"{{{fields}}}" for fields in inside] + [f"[{asked}]", f"{asked} {asked}", f"```json\n{asked}\n```"]
    bad += ["three nights", "null", "3", "[" * 100_000, '["nights", "breakfast"]']
    for text, wanted in (good | dict.fromkeys(bad)).items():
        expect(function(text), wanted, f"the reply {text[:60]!r}")


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
        "right, and more behind it": (reply("2 * 3 = 6") + "\nor 7", 0.0),
        "right, the answer first": ("<answer>\n6\n</answer>\n<reasoning>\n2 * 3 = 6\n</reasoning>", 0.0),
        "nothing": ("", 0.0),
    }
    for case, (text, wanted) in replies.items():
        chat = [[{"role": "assistant", "content": text}]]
        expect(reward_func(completions=chat, answer=["6"], prompts=["?"]), [wanted], case)
    both = [[{"role": "assistant", "content": replies["right, with a step"][0]}]] * 2
    expect(reward_func(completions=both, answer=["6", "7"], prompts=["?"] * 2), [1.2, 0.0], "two replies")
