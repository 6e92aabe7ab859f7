from ..prompts import XML_COT_FORMAT
from ..statistics import gain_interval
from ._exercise import NotYet, Run, Solution, decided, exercise, expect, expect_each, one_of


@exercise
def uses_at_most(function: Solution) -> None:
    """Whether each number in `used` occurs at most as often as in `numbers`; nothing handed in may be changed."""
    cases = {
        "all numbers, in another order": (([7, 4], [4, 7]), True),
        "a number left over": (([7, 2], [4, 7, 2]), True),
        "a number used twice": (([4, 4], [4, 7, 7]), False),
        "a number given twice and used twice": (([4, 4], [4, 7, 4]), True),
        "a number given twice and used three times": (([4, 4, 4], [4, 7, 4]), False),
        "a number that was not given": (([4, 3], [4, 7]), False),
        "no number at all": (([], [4, 7]), True),
    }
    expect_each(function, cases)


@exercise
def three_numbers(reward_func: Solution) -> None:
    """1.0 for three different whole numbers above 0, separated by commas, whose sum is the target; TRL's signature."""
    right = ("3, 4, 5", "9,2,1")
    wrong = [
        *("3, 4, 6", "12", "1, 2, 4, 5", "so 3, 4, 5", "3, 4, 5\n2, 4, 6", ""),
        *("5, 2, 5", "3, 03, 6"),  # not different
        *("0, 5, 7", "-3, 5, 10", "3.5, 4.5, 4"),  # not whole and above 0
        *("٣, 4, 5", "³, 4, 5", "+3, 4, 5", "0_3, 4, 5", f"{'9' * 5000}, 4, 5"),  # which int reads, or not
        *("3,\n4,\n5", "3 , 4, 5"),  # white space elsewhere
    ]
    replies = {a: XML_COT_FORMAT.format(reasoning="so", answer=a) for a in (*right, *wrong)}
    texts = {f"the answer {a[:20]!r}": (reply, float(a in right)) for a, reply in replies.items()}
    good, bad = replies[right[0]], replies[wrong[0]]
    texts |= {
        "the numbers without an answer block": ("3, 4, 5", 0.0),
        "a wrong answer, then a right one": (f"{bad}\n{good}", 0.0),
        "a right answer, then a wrong one": (f"{good}\n{bad}", 0.0),
        "a right answer, then more": (f"{good}\nor 3, 4, 6", 0.0),
    }
    for case, (text, wanted) in texts.items():
        expect(reward_func(completions=[text], answer=["12"], prompts=["?"]), [wanted], case)
    both, wanted = map(list, zip(*texts.values(), strict=True))
    chats = [[{"role": "assistant", "content": text}] for text in both]
    expect(reward_func(completions=chats, answer=["12"] * len(chats), prompts=chats), wanted, "as conversations")
    twice = [XML_COT_FORMAT.format(reasoning="so", answer="10, 2, 3")] * 2
    expect(reward_func(completions=twice, answer=["15", "12"], prompts=twice), [1.0, 0.0], "two with other targets")


@exercise
def judge_gains(function: Solution, run: Run) -> None:
    """A verdict on two runs: real if the paired interval on new questions lies above 0, else overfit."""
    got, made = decided(function, run)
    for count in (8, 300):
        verdict = got.get(count, f"nothing for {count}") if isinstance(got, dict) else got
        one_of(verdict, ("real", "overfit", "hacked"), (count,), made)
        if verdict == "hacked":
            raise NotYet(f"for {verdict!r} something other than right answers would have to be paid; nothing is")
        gained, lost, n, paid = made[count].loc["new", ["gained", "lost", "n", "paid"]]
        low, high = gain_interval(gained, lost, n)
        if (verdict == "real") != (low > 0):
            change = f"{gained:.0f} gained and {lost:.0f} lost, {100 * low:+.0f} to {100 * high:+.0f} points"
            raise NotYet(f"for {count} questions {paid:.2f} of 2 is paid at the end, but of the new ones {change}")
