"""Write the word problems of this series: train.jsonl, test.jsonl and new_families.jsonl.

    python data/word_problems/make_word_problems.py

Every row has GSM8K's two fields, `question` and `answer` (a worked solution
with <<calculator>> notes, then `#### N`), and two more: `family`, the kind of
problem, and `steps`, the number of calculations. The script is deterministic:
the same seed writes the same bytes.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

SEED = 2402  # GRPO's paper is arXiv 2402.03300
SIZES = {"train": 2000, "test": 500, "new_families": 200}
TEST_STEPS = {1: 200, 2: 150, 3: 150}  # enough of each for an interval; the other splits take what comes

SHE = ["Ada", "Bella", "Chen", "Dora", "Eve", "Fatima", "Grace", "Hana", "Ines", "Julia", "Kira", "Lucia"]
HE = ["Adam", "Ben", "Carlos", "David", "Emil", "Felix", "George", "Hugo", "Ivan", "Jonas", "Karim", "Leo"]
THINGS = ["apples", "marbles", "stickers", "books", "coins", "shells", "cards", "stamps", "pencils", "buttons"]


class Problem(NamedTuple):
    question: str
    answer: str
    family: str
    steps: int


class Work:
    """The calculations of one solution, in order."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.result: int | Decimal = 0

    def calc(self, a: int | Decimal, op: str, b: int | Decimal, unit: str = "") -> int | Decimal:
        value = {"+": a + b, "-": a - b, "*": a * b}[op] if op != "/" else a // b
        left, right, out = (_plain(x) for x in (a, b, value))
        note = f"<<{left}{op}{right}={out}>>"
        self.lines.append(f"{left} {op} {right} = {note}{out} {unit}".rstrip())
        self.result = value
        return value


def _plain(x: int | Decimal) -> str:
    return str(x)


def _big(x: int) -> str:
    return f"{x:,}"


def _people(rng: random.Random, n: int) -> list[str]:
    return rng.sample(SHE + HE, n)


def _they(name: str) -> str:
    return "she" if name in SHE else "he"


# Each family takes (rng, steps wanted, work) and returns the question; the
# solution is what it wrote into `work`. Numbers stay small enough to do in the
# head, except where a family exists to have large, negative or decimal ones.


def gain_and_loss(rng: random.Random, steps: int, work: Work) -> str:
    (name,), thing = _people(rng, 1), rng.choice(THINGS)
    a, b = rng.randint(10, 60), rng.randint(5, 39)
    total = work.calc(a, "+", b, thing)
    text = rng.choice(
        [
            f"{name} has {a} {thing}. A friend brings {b} more.",
            f"There are {a} {thing} on the desk of {name}, and {b} more arrive by mail.",
            f"{name} collected {a} {thing} last month and {b} {thing} this month.",
        ]
    )
    if steps >= 2:
        c = rng.randint(3, total - 5)
        total = work.calc(total, "-", c, thing)
        text += rng.choice([f" Then {_they(name)} gives {c} away.", f" Later {c} of them get lost."])
    if steps == 3:
        d = rng.randint(3, 30)
        work.calc(total, "+", d, thing)
        text += rng.choice(
            [f" After that {_they(name)} finds another {d}.", f" In the end {_they(name)} buys {d} more."]
        )
    return text + rng.choice([f" How many {thing} does {name} have now?", f" How many {thing} are there in the end?"])


def boxes(rng: random.Random, steps: int, work: Work) -> str:
    thing = rng.choice(["eggs", "oranges", "cups", "bulbs", "tiles", "jars"])
    place = rng.choice(["A shop", "A kitchen", "A school", "A farm"])
    n, m = rng.randint(3, 12), rng.randint(4, 12)
    total = work.calc(n, "*", m, thing)
    text = rng.choice(
        [
            f"{place} gets {n} boxes with {m} {thing} in each box.",
            f"{place} orders {n} crates, and every crate holds {m} {thing}.",
            f"There are {m} {thing} in a box. {place} has {n} full boxes.",
        ]
    )
    if steps >= 2:
        k = rng.randint(2, 20)
        total = work.calc(total, "+", k, thing)
        text += rng.choice([f" There are also {k} loose {thing}.", f" Another {k} {thing} lie on a shelf."])
    if steps == 3:
        j = rng.randint(2, 15)
        work.calc(total, "-", j, thing)
        text += rng.choice([f" On the way {j} of all these break.", f" Then {j} of all these are used up."])
    return text + rng.choice([f" How many {thing} are there?", f" How many whole {thing} does that make?"])


def sharing(rng: random.Random, steps: int, work: Work) -> str:
    (name,), thing = _people(rng, 1), rng.choice(["sweets", "grapes", "cookies", "nuts", "berries"])
    k, each = rng.randint(2, 9), rng.randint(3, 12)
    total = k * each
    if steps == 1:
        text = rng.choice(
            [
                f"{name} shares {total} {thing} equally among {k} children.",
                f"{name} splits a bag of {total} {thing} into {k} equal parts.",
            ]
        )
        work.calc(total, "/", k, thing)
        return text + rng.choice([f" How many {thing} are in one share?", f" How many {thing} does each get?"])
    eaten = rng.randint(2, 20)
    left = work.calc(total + eaten, "-", eaten, thing)
    share = work.calc(left, "/", k, thing)
    text = rng.choice(
        [
            f"{name} has {total + eaten} {thing}, eats {eaten} and shares the rest equally among {k} children.",
            f"From {total + eaten} {thing}, {name} throws {eaten} away and splits the others into {k} equal shares.",
        ]
    )
    if steps == 3:
        extra = rng.randint(2, 9)
        work.calc(share, "+", extra, thing)
        return text + f" Each child already had {extra} {thing}. How many {thing} does each child have now?"
    return text + f" How many {thing} are in one share?"


def shopping(rng: random.Random, steps: int, work: Work) -> str:
    (name,) = _people(rng, 1)
    thing, other = rng.sample(["hats", "shirts", "toys", "lamps", "bags", "plants", "mugs"], 2)
    n, price = rng.randint(2, 9), rng.randint(3, 15)
    cost = work.calc(n, "*", price, "dollars")
    text = rng.choice(
        [
            f"{name} buys {n} {thing} for ${price} each.",
            f"At the market {thing} cost ${price} a piece, and {name} takes {n} of them.",
            f"{name} needs {n} {thing}. They cost ${price} each.",
        ]
    )
    if steps == 1:
        return text + rng.choice([f" How many dollars does {name} pay?", " What is the total in dollars?"])
    if steps == 2:
        paid = -(-(cost + 1) // 50) * 50
        work.calc(paid, "-", cost, "dollars")
        return text + f" {name} pays with ${paid}. How many dollars of change does {_they(name)} get?"
    m, price2 = rng.randint(2, 6), rng.randint(2, 9)
    cost2 = work.calc(m, "*", price2, "dollars")
    work.calc(cost, "+", cost2, "dollars")
    return text + f" {_they(name).capitalize()} also buys {m} {other} for ${price2} each. What is the total in dollars?"


def prices(rng: random.Random, steps: int, work: Work) -> str:
    """Decimal answers: prices in quarters of a dollar."""
    (name,) = _people(rng, 1)
    first, second, third = rng.sample(["a juice", "a sandwich", "a muffin", "a salad", "a tea", "a soup"], 3)
    a, b, c = (Decimal(rng.randint(1, 9)) + Decimal(rng.choice(["0.25", "0.50", "0.75"])) for _ in range(3))
    total = work.calc(a, "+", b, "dollars")
    text = rng.choice(
        [
            f"{name} pays ${a} for {first} and ${b} for {second}.",
            f"In a cafe {first} costs ${a} and {second} costs ${b}. {name} takes both.",
        ]
    )
    if steps == 1:
        return text + rng.choice([" How many dollars is that together?", f" How many dollars does {name} spend?"])
    if steps == 2:
        work.calc(Decimal("20.00"), "-", total, "dollars")
        return text + f" How many dollars are left of {name}'s $20.00?"
    total = work.calc(total, "+", c, "dollars")
    work.calc(Decimal("30.00"), "-", total, "dollars")
    return text + f" Then {_they(name)} buys {third} for ${c}. How many dollars are left of $30.00?"


def temperature(rng: random.Random, steps: int, work: Work) -> str:
    """Negative answers: degrees below zero."""
    town = rng.choice(["Oslo", "Quebec", "Riga", "Turin", "Minsk"])
    a, b = rng.randint(2, 15), rng.randint(3, 25)
    now = work.calc(a, "-", b, "degrees")
    text = rng.choice(
        [
            f"At noon it is {a} degrees in {town}. By night the temperature falls by {b} degrees.",
            f"A thermometer in {town} shows {a} degrees and then drops {b} degrees.",
        ]
    )
    if steps >= 2:
        c = rng.randint(2, 12)
        now = work.calc(now, "+", c, "degrees")
        text += rng.choice([f" Then it rises by {c} degrees.", f" Next morning it climbs {c} degrees."])
    if steps == 3:
        d = rng.randint(2, 12)
        work.calc(now, "-", d, "degrees")
        text += f" At last it falls by {d} degrees."
    return text + rng.choice([" What is the temperature then?", " How many degrees does it show in the end?"])


def travel(rng: random.Random, steps: int, work: Work) -> str:
    what = rng.choice(["A train", "A bus", "A truck", "A ship", "A cyclist"])
    speed, hours = rng.randint(2, 9) * 10, rng.randint(2, 9)
    way = work.calc(speed, "*", hours, "km")
    text = rng.choice(
        [
            f"{what} travels {speed} km an hour for {hours} hours.",
            f"{what} moves at {speed} km per hour and drives for {hours} hours.",
        ]
    )
    if steps == 1:
        return text + rng.choice([" How many km does it cover?", " How far does it get, in km?"])
    if steps == 2:
        more = rng.randint(1, 9) * 10
        work.calc(way, "+", more, "km")
        return text + f" After a break it goes {more} km more. How many km is the whole way?"
    speed2, hours2 = rng.randint(2, 9) * 10, rng.randint(2, 5)
    way2 = work.calc(speed2, "*", hours2, "km")
    work.calc(way, "+", way2, "km")
    return text + f" Then it goes on at {speed2} km per hour for {hours2} hours. How many km is the whole way?"


def ages(rng: random.Random, steps: int, work: Work) -> str:
    a_name, b_name, c_name = _people(rng, 3)
    a, b = rng.randint(5, 40), rng.randint(2, 25)
    age = work.calc(a, "+", b, "years")
    text = rng.choice(
        [
            f"{a_name} is {a} years old. {b_name} is {b} years older than {a_name}.",
            f"{b_name} was born {b} years before {a_name}, who is {a} years old.",
        ]
    )
    if steps == 1:
        return text + rng.choice([f" How old is {b_name}?", f" What is the age of {b_name}?"])
    age = work.calc(2, "*", age, "years")
    text += f" {c_name} is twice as old as {b_name}."
    if steps == 3:
        c = rng.randint(2, 9)
        work.calc(age, "-", c, "years")
        return text + f" How old was {c_name} {c} years ago?"
    return text + f" How old is {c_name}?"


def comparison(rng: random.Random, steps: int, work: Work) -> str:
    (a_name, b_name), thing = _people(rng, 2), rng.choice(THINGS)
    a, k = rng.randint(3, 25), rng.randint(2, 5)
    b = work.calc(k, "*", a, thing)
    text = rng.choice(
        [
            f"{a_name} owns {a} {thing}. {b_name} owns {k} times as many.",
            f"{b_name} has {k} times as many {thing} as {a_name}, who has {a}.",
        ]
    )
    if steps == 1:
        return text + rng.choice([f" How many {thing} has {b_name}?", f" How many {thing} belong to {b_name}?"])
    both = work.calc(a, "+", b, thing)
    if steps == 2:
        return text + f" How many {thing} do they have together?"
    c = rng.randint(2, 9)
    work.calc(both, "-", c, thing)
    return text + f" Together they sell {c} of them. How many {thing} do they keep?"


def wages(rng: random.Random, steps: int, work: Work) -> str:
    """Answers of 1,000 and more."""
    (name,) = _people(rng, 1)
    job = rng.choice(["baker", "driver", "painter", "nurse", "gardener"])
    day, days = rng.randint(6, 20) * 10, rng.randint(3, 9)
    pay = work.calc(day, "*", days, "dollars")
    text = rng.choice(
        [
            f"{name} works as a {job} for ${day} a day. This month {_they(name)} works {days} days.",
            f"A {job} named {name} gets ${day} for each day and works {days} days.",
        ]
    )
    if steps == 1:
        return text + f" How many dollars does {name} earn?"
    bonus = rng.randint(2, 9) * 100
    pay = work.calc(pay, "+", bonus, "dollars")
    text += f" On top comes a bonus of ${bonus}."
    if steps == 2:
        return text + f" How many dollars does {name} earn in all?"
    rent = rng.randint(1, 4) * 100
    work.calc(pay, "-", rent, "dollars")
    return text + f" The rent takes ${rent}. How many dollars remain?"


def town(rng: random.Random, steps: int, work: Work) -> str:
    """Large numbers, written with commas."""
    place = rng.choice(["village", "town", "valley", "harbour"])
    a, b = rng.randint(10, 70) * 100, rng.randint(1, 20) * 100
    now = work.calc(a, "+", b, "people")
    text = rng.choice(
        [
            f"A {place} has {_big(a)} people. This year {_big(b)} people move in.",
            f"{_big(a)} people live in a {place}, and {_big(b)} new people come.",
        ]
    )
    if steps >= 2:
        c = rng.randint(1, 9) * 100
        now = work.calc(now, "-", c, "people")
        text += f" Then {_big(c)} people leave."
    if steps == 3:
        d = rng.randint(1, 9) * 100
        work.calc(now, "+", d, "people")
        text += f" Next year {_big(d)} are born."
    return text + rng.choice([f" How many people live in the {place} then?", f" How many people has the {place} now?"])


def reading(rng: random.Random, steps: int, work: Work) -> str:
    (name,) = _people(rng, 1)
    pages, days = rng.randint(4, 12), rng.randint(3, 9)
    done = work.calc(pages, "*", days, "pages")
    text = rng.choice(
        [
            f"{name} reads {pages} pages every day for {days} days.",
            f"For {days} days {name} reads {pages} pages a day.",
        ]
    )
    if steps == 1:
        return text + rng.choice([" How many pages is that?", f" How many pages has {name} read?"])
    if steps == 3:
        more = rng.randint(2, 20)
        done = work.calc(done, "+", more, "pages")
        text += f" On Sunday {_they(name)} reads {more} pages more."
    left = rng.randint(5, 60)
    work.calc(done + left, "-", done, "pages")
    return text + f" The book has {done + left} pages. How many pages are left?"


def rectangles(rng: random.Random, steps: int, work: Work) -> str:
    what = rng.choice(["garden", "field", "carpet", "yard", "pool"])
    a, b = rng.randint(3, 12), rng.randint(3, 12)
    text = rng.choice(
        [
            f"A {what} is {a} meters long and {b} meters wide.",
            f"The length of a {what} is {a} meters and its width is {b} meters.",
        ]
    )
    if steps == 1:
        work.calc(a, "*", b, "square meters")
        return text + f" What is the area of the {what} in square meters?"
    half = work.calc(a, "+", b, "meters")
    around = work.calc(2, "*", half, "meters")
    if steps == 2:
        return text + f" How many meters long is the way around the {what}?"
    price = rng.randint(2, 5)
    work.calc(around, "*", price, "dollars")
    return text + f" A fence around it costs ${price} per meter. What does the fence cost in dollars?"


def account(rng: random.Random, steps: int, work: Work) -> str:
    """Negative answers: an account that is overdrawn."""
    (name,) = _people(rng, 1)
    a, b = rng.randint(10, 60), rng.randint(20, 90)
    now = work.calc(a, "-", b, "dollars")
    text = rng.choice(
        [
            f"The account of {name} holds ${a}. A bill of ${b} is taken from it.",
            f"{name} has ${a} in the bank and pays ${b} by card.",
        ]
    )
    if steps >= 2:
        c = rng.randint(5, 60)
        now = work.calc(now, "+", c, "dollars")
        text += f" Then {_they(name)} puts ${c} in."
    if steps == 3:
        d = rng.randint(5, 40)
        work.calc(now, "-", d, "dollars")
        text += f" Another ${d} is taken out."
    return text + rng.choice(
        [" What is the balance in dollars?", " How many dollars does the account show (below zero if it is in debt)?"]
    )


# Families that training never sees: the same arithmetic in other stories.


def theatre(rng: random.Random, steps: int, work: Work) -> str:
    rows, seats = rng.randint(4, 12), rng.randint(5, 12)
    total = work.calc(rows, "*", seats, "seats")
    text = f"A theatre has {rows} rows of {seats} seats."
    if steps == 1:
        return text + " How many guests can sit?"
    empty = rng.randint(3, 19)
    taken = work.calc(total, "-", empty, "guests")
    text += f" Tonight {empty} seats stay empty."
    if steps == 2:
        return text + " How many guests are there?"
    price = rng.randint(2, 5)
    work.calc(taken, "*", price, "dollars")
    return text + f" Each guest pays ${price}. How many dollars come in?"


def water_tank(rng: random.Random, steps: int, work: Work) -> str:
    rate, minutes = rng.randint(3, 12), rng.randint(3, 12)
    level = work.calc(rate, "*", minutes, "liters")
    text = f"A pump fills an empty tank with {rate} liters a minute and runs for {minutes} minutes."
    if steps >= 2:
        leak = rng.randint(2, 8)
        level = work.calc(level, "-", leak, "liters")
        text += f" Meanwhile {leak} liters leak out."
    if steps == 3:
        more = rng.randint(5, 30)
        work.calc(level, "+", more, "liters")
        text += f" Then rain adds {more} liters."
    return text + " How many liters are in the tank?"


def basketball(rng: random.Random, steps: int, work: Work) -> str:
    (name,) = _people(rng, 1)
    threes, twos, free = rng.randint(2, 12), rng.randint(2, 15), rng.randint(1, 9)
    total = work.calc(threes, "*", 3, "points")
    if steps == 1:
        return f"{name} throws {threes} baskets worth 3 points each. How many points is that?"
    if steps == 2:
        work.calc(total, "+", free, "points")
        return f"{name} throws {threes} baskets worth 3 points each and {free} free throws worth 1 point each. How many points is that?"
    work.calc(total, "+", work.calc(twos, "*", 2, "points"), "points")
    return (
        f"{name} throws {threes} baskets worth 3 points each and {twos} worth 2 points each. How many points is that?"
    )


def diving(rng: random.Random, steps: int, work: Work) -> str:
    a, b = rng.randint(2, 20), rng.randint(5, 30)
    height = work.calc(a, "-", b, "meters")
    text = f"A bird {a} meters above the sea dives {b} meters straight down."
    if steps >= 2:
        c = rng.randint(2, 15)
        height = work.calc(height, "+", c, "meters")
        text += f" Then it comes up {c} meters."
    if steps == 3:
        d = rng.randint(2, 15)
        work.calc(height, "+", d, "meters")
        text += f" It comes up {d} meters more."
    return text + " At what height in meters is it (negative below the sea)?"


Family = Callable[[random.Random, int, Work], str]
FAMILIES: tuple[Family, ...] = (
    gain_and_loss,
    boxes,
    sharing,
    shopping,
    prices,
    temperature,
    travel,
    ages,
    comparison,
    wages,
    town,
    reading,
    rectangles,
    account,
)
NEW_FAMILIES: tuple[Family, ...] = (theatre, water_tank, basketball, diving)


def make_problem(rng: random.Random, families: tuple[Family, ...] = FAMILIES) -> Problem:
    """One random problem of one of `families`, with one, two or three steps."""
    family, steps, work = rng.choice(families), rng.randint(1, 3), Work()
    question = family(rng, steps, work)
    solution = "\n".join([*work.lines, f"#### {_plain(work.result)}"])
    return Problem(question, solution, family.__name__, len(work.lines))


def distinct_problems(rng: random.Random, families: tuple[Family, ...], taken: set[str]) -> Iterator[Problem]:
    """Endless problems whose question is not in `taken`; adds each to it."""
    while True:
        problem = make_problem(rng, families)
        if problem.question not in taken:
            taken.add(problem.question)
            yield problem


def in_proportion(problems: Iterator[Problem], quota: dict[int, int]) -> Iterator[Problem]:
    """Those of `problems` that still fit `quota`, the number of problems wanted for each number of steps."""
    missing = dict(quota)
    for problem in problems:
        if missing[problem.steps]:
            missing[problem.steps] -= 1
            yield problem
        if not any(missing.values()):
            return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, help="folder to write to")
    args = parser.parse_args()
    rng, taken = random.Random(SEED), set()
    for split, size in SIZES.items():
        source = distinct_problems(rng, NEW_FAMILIES if split == "new_families" else FAMILIES, taken)
        if split == "test":
            source = in_proportion(source, TEST_STEPS)
        rows = [json.dumps(next(source)._asdict(), ensure_ascii=False) for _ in range(size)]
        (args.output / f"{split}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8", newline="\n")
        print(f"{split}.jsonl: {size} problems")


if __name__ == "__main__":
    main()
