"""Notebook 12: what is read as JSON, what a program in the sandbox can do, and who says that it is right."""

import os
import re
import shutil
import sys
import tempfile
from multiprocessing import get_context
from pathlib import Path

import psutil
import pytest

from grpo_helpers.profiles import TINY
from grpo_helpers.prompts import XML_COT_FORMAT
from record.small_functions import functions, small_functions

from .cells import definitions

NOTEBOOK = "12_rewards_beyond_exact_match"
taught = definitions(
    NOTEBOOK,
    *("boxes", "well_shaped", "right_answer", "run_programs", "passed", "results_of", "attack", "formula"),
    *("program_task", "WAYS", "kind", "GREEDY", "RESTLESS", "SLY", "ROAMING", "NEED_MORE"),
)
HOSTILE = taught.GREEDY | taught.RESTLESS | taught.SLY | taught.ROAMING
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def run(*programs, calls=((5, 11),), **options):
    """What some programs said, each asked the same calls."""
    return taught.run_programs(programs, [list(map(list, calls))] * len(programs), **options)[1]


GOOD = '{"steps": ["5 * 11 = 55"], "answer": 55}'


def test_a_number_is_read_however_json_may_write_it_and_another_number_is_another():
    for answers, same in (
        (("55", "55.0", "5.5e1", "5500e-2"), True),
        (("55.0000000000000000001", "1e999999999", "1e-999999999", "5.4", "-55"), False),
    ):
        for answer in answers:
            assert taught.right_answer(GOOD.replace(": 55}", f": {answer}}}"), "55") is same, answer


@pytest.mark.parametrize(
    ("text", "ticked"),
    [
        (GOOD, 5), ('{"answer": 55, "steps": []}', 5), (GOOD.replace(": 55}", ": true}"), 4),
        (GOOD.replace(": 55}", ': "55"}'), 4), (GOOD.replace("]", ", 5]"), 4), (GOOD.replace('"steps"', '"Steps"'), 3),
        ("{}", 2), ("[]", 1), ("null", 1),
    ],
)  # fmt: skip
def test_the_boxes_are_ticked_one_by_one(text, ticked):
    assert sum(taught.boxes(text).values()) == ticked
    assert taught.well_shaped(text) is (ticked == 5)


def test_what_is_no_json_ticks_nothing():
    assert not taught.well_shaped("[" * 1000 + "]" * 1000)  # a deep stack reads it, another does not
    numbers = (GOOD.replace(": 55}", tail) for tail in (": NaN}", ': 7, "answer": 55}'))
    around = (GOOD + GOOD, f"```json\n{GOOD}\n```", GOOD + " " * 2**20)
    for text in ("", '{"steps": [{"a": 1, "a": 2}], "answer": 55}', *numbers, *around):
        assert not any(taught.boxes(text).values()), text[:40]


@pytest.mark.parametrize(
    ("text", "wanted", "found"),
    [
        ('{"results": [55.0, 6.1]}', [55, 6], [True, False]),
        ('{"results": [0.3333333333333333]}', [1 / 3], [True]),
        ('{"results": [true]}', [1], [False]), ('{"results": ["55"]}', [55], [False]),
        ('{"results": [NaN]}', [55], [False]), ('{"results": [1e999999999]}', [55], [False]),
        *((f'{{"results": {given}}}', [55, 6], [False, False]) for given in ("[55]", "[55, 6, 7]")),
        ('{"results": {"0": 55}}', [55], [False]), ('{"results": [7], "results": [55]}', [55], [False]),
        ('{"error": "no"}', [55], [False]), ("[55]", [55], [False]), ("passed", [55], [False]),
    ],
)  # fmt: skip
def test_results_are_compared_outside_and_as_numbers(text, wanted, found):
    for problem, verdicts in ((None, found), ("too late", [False] * len(wanted))):
        assert taught.passed({"said": text, "problem": problem}, wanted) == verdicts


def test_programs_that_mean_well_may_use_functions_classes_and_some_modules_and_find_nothing_of_others():
    programs = [
        "import math\ndef f(a, b): return math.prod([a, b])",
        "import collections, functools, itertools, json, re, string\nf = lambda a, b: a * b",
        "def f(a, b):\n    print('thinking')\n    return sum(a for _ in range(b))",
        "class F:\n    def __call__(self, a, b): return a * b\nf = F()",
    ]
    for program, answer in zip(programs, run(*programs, calls=[(5, 11), (2, 3)]), strict=True):
        assert taught.passed(answer, [55, 6]) == [True, True], (program, answer)
    remember = "import math\nmath.secret = 7\nglobals()['secret'] = 7\nf = lambda *a: 7"
    recall = "import math\nf = lambda *a: int(hasattr(math, 'secret') or 'secret' in globals())"
    assert list(map(taught.results_of, run(remember, recall))) == [[7], [0]]


def test_what_is_no_program_fails_its_test():
    programs = ["", "f = 5", "def g(a, b): return 55", "def f(a): return 55", "def f(a, b): return (", "\0", "\ud800"]
    assert [taught.passed(answer, [55]) for answer in run(*programs)] == [[False]] * 7


def test_limits_can_be_chosen():
    slow = "import time\ndef f(a, b):\n    time.sleep(0.3)\n    return 55"
    large = "def f(a, b): return len(bytearray(100 * 2**20)) * 0 + 55"
    assert [a["problem"] for a in run(slow, seconds=0.1)] == ["too late"]
    assert taught.passed(run(large)[0], [55]) == [True]
    assert taught.passed(run(large, megabytes=64)[0], [55]) == [False]


def check(table, left):
    """All contained, and nothing left of them."""
    bad = table[table["passed"] | ~table["honest after it"] | table["seconds"].gt(1)]
    assert bad.empty, bad.to_string()
    assert left == ["tests.json"]


def zombies():
    return {p.pid for p in psutil.process_iter(["status"]) if p.info["status"] == psutil.STATUS_ZOMBIE}


@pytest.fixture
def nothing_left():
    """Afterwards: no more zombies than before, no sleeper, and no file where a program could have put one."""
    before, files = zombies(), set(os.listdir(tempfile.gettempdir()))
    yield
    named = [name for name in set(os.listdir(tempfile.gettempdir())) - files if name in ("left", "link")]
    sleepers = [p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == ["sleep", "99"]]
    assert not zombies() - before and not named and not sleepers


def attacked(apart):
    """How hostile programs are isolated, a row for each that this should contain, and what was left of them."""
    how, _ = taught.run_programs([], [], apart=apart)
    held = {name: text for name, text in HOSTILE.items() if how != "limits only" or name not in taught.NEED_MORE}
    return how, *taught.attack(held, apart=apart)


@pytest.mark.trains
@pytest.mark.parametrize("apart", [True, pytest.param(False, marks=as_root)])
def test_every_hostile_program_is_contained(apart, nothing_left):
    how, table, left = attacked(apart)
    assert len(HOSTILE) == 30 and (apart or how == "limits and another user")
    check(table, left)


def attacked_by_another_user(python, apart):
    os.setgroups([])
    os.setgid(65431)
    os.setuid(65431)
    sys.executable = python
    return attacked(apart)


@as_root
@pytest.mark.trains
@pytest.mark.parametrize(("apart", "level", "count"), [(True, "namespaces", 30), (False, "limits only", 26)])
def test_an_ordinary_user_contains_them_in_a_namespace_and_most_without(apart, level, count, nothing_left):
    """A child of root becomes one; the Python that runs the programs must be one that such a user may start."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    python = next((p for p in (f"/usr/bin/{version}", f"/usr/local/bin/{version}") if Path(p).exists()), None)
    if python is None or not shutil.which("unshare"):
        pytest.skip("no Python of this version that every user may start")
    with get_context("fork").Pool(1) as child:
        how, table, left = child.apply_async(attacked_by_another_user, (python, apart)).get(timeout=120)
    if how != level:
        pytest.skip(f"this kernel gives an ordinary user {how}")
    assert len(table) == count
    check(table, left)


def reply(reasoning="2 * 3 = 6", answer="6"):
    return XML_COT_FORMAT.format(reasoning=reasoning, answer=answer)


@pytest.mark.parametrize(
    ("text", "paid"),
    [
        (reply(), {"sum": 6, "product": 1, "gate": 1}), (reply(answer="7"), {"sum": 5, "product": 0, "gate": 0}),
        ("<answer>\n6\n</answer>", {"sum": 3, "product": 0.4, "gate": 0}),
        (reply() + reply(), {"sum": 1, "product": 0, "gate": 0}),
    ],
)  # fmt: skip
def test_shape_and_answer_meet_in_three_ways(text, paid):
    assert {way: pay(completions=[text], answer=["6"])[0] for way, pay in taught.WAYS.items()} == pytest.approx(paid)


def test_a_worked_solution_becomes_a_formula():
    for question, answer, found in (
        ("4,100 people and 1,100.", "4100 + 1100 = <<4100+1100=5200>>5200", ([4100, 1100], "a + b")),
        ("$100 a day, 7 days and $600.", "<<100*7=700>>700\n<<700+600=1300>>1300", ([100, 7, 600], "(a * b) + c")),
        ("40 and 14 years, twice.", "<<40+14=54>>54\n<<2*54=108>>108", ([40, 14], "2 * (a + b)")),
        ("2 degrees, drops 24.", "<<2-24=-22>>-22", ([2, 24], "a - b")),
        ("5 and 5.", "<<5+5=10>>10", None),
        ("$4.75 and $2.50.", "<<4.75+2.50=7.25>>7.25", None),
    ):
        assert taught.formula({"question": question, "answer": answer}) == found


def test_every_formula_gives_the_gold_answer_and_hidden_calls_are_others():
    rows = taught.program_task("test")
    assert len(rows) >= 200 and len(set(rows["head"])) >= 2
    for row in rows:
        assert len(row["calls"]) == len(row["wanted"]) == 4 and row["calls"][0] not in row["calls"][1:]
        names = row["head"].partition("(")[2].partition(")")[0]
        assert eval(f"lambda {names}: {row['answer']}")(*row["calls"][0]) == row["wanted"][0]


def test_kinds_of_replies():
    rows = {"head": ["def f(a, b): return "] * 5, "calls": [[[5, 11], [2, 3]]] * 5, "wanted": [[55, 6]] * 5}
    replies = ["a * b", "a + b", "55", "5 * 11", "no idea"]
    tests = definitions(NOTEBOOK, "tests_passed").tests_passed
    kinds = ["general", "neither", "only the shown test", "only the shown test", "neither"]
    assert list(map(taught.kind, tests(replies, rows))) == kinds


def test_descriptions_are_held_out_no_constant_fulfils_one_and_a_function_as_described_is_paid():
    train, held_out = functions(1)
    halves = [{re.sub(r"\d+", "#", row["prompt"][-1]["content"]) for row in rows} for rows in (train, held_out)]
    assert len(held_out) == len(halves[1]) > 90 and not halves[0] & halves[1]
    for row in [*held_out, *train]:
        assert len(row["calls"]) == 4 and len(set(row["wanted"])) >= 2
        asked = row["prompt"][-1]["content"]
        assert not any(str(call).strip("[]") in asked for call in row["calls"])
    square = next(row for row in held_out if row["prompt"][-1]["content"] == "square b")
    rows = {key: [square[key]] * 3 for key in ("head", "calls", "wanted")}
    said = ["def f(a, b): return b ** 2", "def f(a, b): return a ** 2", "b ** 2"]
    assert definitions(NOTEBOOK, "hidden_reward_func").hidden_reward_func(said, **rows) == [1, 0, 0]


@pytest.mark.trains
def test_the_recorder_compares_what_is_written_before_and_after():
    tables = small_functions(TINY.with_(num_generations=4, steps=1, eval_questions=6), seed=1)
    assert tables["rates"]["policy"].tolist() == ["untrained"] * 2 + ["trained"] * 2
    assert tables["rates"]["n"].tolist() == [6] * 4 and tables["change"]["decoding"].tolist() == ["greedy", "sampled"]
    assert len(tables["replies"]) == 4 * 6 and len(tables["history"]) == 1
