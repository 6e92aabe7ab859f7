"""Checks for the exercises of notebook 10."""

from ..prompts import XML_COT_FORMAT
from ._exercise import Solution, exercise, expect, expect_each


@exercise
def uses_at_most(function: Solution) -> None:
    """Whether each number in `used` occurs at most as often as in `numbers`; nothing handed in may be changed."""
    cases = {
        "all numbers, in another order": (([7, 4], [4, 7]), True),
        "a number left over": (([4, 2], [4, 7, 2]), True),
        "a number used twice": (([4, 4], [4, 7]), False),
        "a number given twice and used twice": (([4, 4], [4, 7, 4]), True),
        "a number given twice and used three times": (([4, 4, 4], [4, 7, 4]), False),
        "a number that was not given": (([4, 3], [4, 7]), False),
        "the target instead of the numbers": (([28], [4, 7]), False),
        "no number at all": (([], [4, 7]), True),
    }
    expect_each(function, cases)


@exercise
def three_numbers(reward_func: Solution) -> None:
    """1.0 for three different whole numbers above 0, separated by commas, whose sum is the target; TRL's signature."""
    answers = {
        "a right answer": ("3, 4, 5", 1.0),
        "another right answer": ("9,2,1", 1.0),
        "a wrong sum": ("3, 4, 6", 0.0),
        "the target itself": ("12", 0.0),
        "the same number three times": ("4, 4, 4", 0.0),
        "two numbers alike": ("5, 5, 2", 0.0),
        "two numbers": ("5, 7", 0.0),
        "four numbers": ("1, 2, 4, 5", 0.0),
        "a zero": ("0, 5, 7", 0.0),
        "a number below 0": ("-3, 5, 10", 0.0),
        "numbers that are not whole": ("3.5, 4.5, 4", 0.0),
        "words around it": ("3, 4, 5 or so", 0.0),
        "two answers": ("3, 4, 5\n2, 4, 6", 0.0),
        "an empty answer": ("", 0.0),
        "digits of another script": ("٣, 4, 5", 0.0),
        "a superscript": ("³, 4, 5", 0.0),
        "a number of 5,000 digits": (f"{'9' * 5000}, 4, 5", 0.0),
    }
    texts = {case: (XML_COT_FORMAT.format(reasoning="so", answer=a), wanted) for case, (a, wanted) in answers.items()}
    texts["the numbers without an answer block"] = ("3, 4, 5", 0.0)
    for case, (text, wanted) in texts.items():
        expect(reward_func(completions=[text], answer=["12"], prompts=["?"]), [wanted], case)
    both, wanted = map(list, zip(*texts.values(), strict=True))
    chats = [[{"role": "assistant", "content": text}] for text in both]
    expect(reward_func(completions=chats, answer=["12"] * len(chats)), wanted, "completions given as conversations")
    right = texts["a right answer"][0]
    expect(reward_func(completions=[right] * 2, answer=["12", "13"]), [1.0, 0.0], "two completions with other targets")


@exercise
def share_with_signal(function: Solution) -> None:
    """The mean over the rates p of 1 - p^G - (1 - p)^G."""
    cases = {
        "games that are always or never solved": ([0.0, 1.0], 8),
        "a game solved every other time, groups of 2": ([0.5], 2),
        "a game solved every other time, groups of 8": ([0.5], 8),
        "rates that differ": ([0.0, 0.1, 0.5, 0.9], 4),
        "a rare success": ([0.01], 8),
    }
    for case, (rates, group) in cases.items():
        wanted = sum(1 - p**group - (1 - p) ** group for p in rates) / len(rates)
        expect(function(list(rates), group), float(wanted), f"{case}, rates={rates}, group_size={group}")
