"""Countdown: what is calculated, what is paid, and that no game is in both splits."""

from __future__ import annotations

import ast
import inspect
import itertools
import re
from fractions import Fraction

import nbformat
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo_helpers.experiments import countdown
from grpo_helpers.lessons import validation
from grpo_helpers.profiles import ROOT
from grpo_helpers.prompts import XML_COT_FORMAT


def reply(expression: str, reasoning: str = "so") -> str:
    return XML_COT_FORMAT.format(reasoning=reasoning, answer=expression)


@pytest.mark.parametrize(
    ("expression", "value", "used"),
    [
        ("4 * 7", 28, [4, 7]),
        ("(2 + 4) / 3", 2, [2, 4, 3]),
        ("2 + 4 / 3", Fraction(10, 3), [2, 4, 3]),
        ("10 - 2 - 3", 5, [10, 2, 3]),
        ("10-(2-3)", 11, [10, 2, 3]),
        (" 12 / 4 ", 3, [12, 4]),
        ("5", 5, [5]),
    ],
)
def test_expressions_are_calculated_exactly(expression, value, used):
    assert countdown.calculate(expression) == (value, used)


@pytest.mark.parametrize(
    "expression",
    [
        *("", " ", "()", "4 +", "4 7", "* 4", "(4", "4)", "4 // 2", "2 ** 9", "9**9**9", "-4 + 9", "+4", "07 + 1"),
        *(
            "4 / 0",
            "4 / (2 - 2)",
            "4.5 * 2",
            "1e3",
            "0x10",
            "1_0 + 1",
            "4 = 4",
            "x + 1",
            "True + 1",
            "４ + ７",
            "4\n+ 7",
        ),
        *("__import__('os').system('x')", "(lambda: 4)()", "[4][0]", "4 if 1 else 7", "4\0", "², ³", "4, 7", "4 #7"),
        *("(" * 400 + "1" + ")" * 400, "-" * 5000 + "1", "1+" * 5000 + "1", "9" * 5000),
    ],
)
def test_whatever_else_it_is_is_refused_with_a_reason(expression):
    with pytest.raises(ValueError, match="expression|something else|divides by zero"):
        countdown.calculate(expression)


@settings(deadline=None)
@given(st.text(alphabet="0123456789+-*/() .e_\n\0x²４", max_size=300))
def test_no_text_breaks_the_calculator(text):
    try:
        value, used = countdown.calculate(text)
    except ValueError:
        return
    assert isinstance(value, Fraction) and used and all(n >= 0 for n in used)


CHEATS = {
    "the target itself": ("28", "other numbers"),
    "the target, made to look like work": ("28 * 1", "other numbers"),
    "a number twice": ("7 + 7 + 14", "other numbers"),
    "a number left out": ("7", "other numbers"),
    "a number too many": ("4 * 7 * 1", "other numbers"),
    "the two numbers as one": ("47 - 19", "other numbers"),
    "an equation": ("4 * 7 = 28", "no expression"),
    "a bet on two expressions": ("4 + 7\n4 * 7", "no expression"),
    "a power": ("4 ** 7", "no expression"),
    "code": ("print(28)", "no expression"),
    "the wrong operation": ("4 + 7", "another value"),
    "nearly": ("7 - 4", "another value"),
    "right": ("7 * 4", "solved"),
}


@pytest.mark.parametrize("cheat", CHEATS)
def test_cheats_are_called_what_they_are(cheat):
    expression, wanted = CHEATS[cheat]
    assert countdown.verdict(reply(expression), [4, 7], "28") == wanted


@pytest.mark.parametrize(
    "text", ["4 * 7", reply("4 * 7") * 2, reply("4 * 7") + "\nor so", "<answer>4 * 7</answer>", ""]
)
def test_without_the_layout_nothing_is_paid(text):
    assert countdown.verdict(text, [4, 7], "28") == "no layout"
    asked = {"completions": [text], "numbers": [[4, 7]], "answer": ["28"], "prompts": ["?"]}
    assert [f(**asked) for f in countdown.REWARD_FUNCS] == [[0.0], [0.0]]


def test_every_right_expression_is_paid_not_only_the_one_in_the_data():
    found = countdown.expressions([2, 3, 6])
    assert {"2 * 3 + 6", "3 * 2 + 6", "6 + 2 * 3", "6 + 3 * 2"} <= set(found[12])
    for target, solutions in found.items():
        for expression in (*solutions, *(f"({e})" for e in solutions)):
            assert countdown.verdict(reply(expression), [6, 2, 3], str(target)) == "solved"


@pytest.mark.parametrize("numbers", list(itertools.combinations(range(2, 8), 2)))
def test_of_all_games_of_two_numbers_none_is_missing(numbers):
    a, b = sorted(numbers)
    wanted = {a + b, b - a, a * b} | ({b // a} if b % a == 0 else set())
    assert set(countdown.expressions(numbers)) == wanted


def test_games_are_the_same_every_time_and_no_set_of_numbers_is_in_both_splits():
    train, held_out = countdown.games(2)
    again, _ = countdown.games(2)
    assert train.to_list() == again.to_list() != countdown.games(2, seed=1)[0].to_list()
    sets = [{tuple(sorted(n)) for n in split["numbers"]} for split in (train, held_out)]
    assert sets[0] and sets[1] and not sets[0] & sets[1]
    assert len(set(train["question"])) == len(train)


@pytest.mark.parametrize("count", [2, 3])
def test_the_rewards_pass_their_own_validation(count):
    train, _ = countdown.games(count)
    findings = validation.validate_rewards(
        countdown.REWARD_FUNCS, train, countdown.ideal_reply, hostile={k: reply(v) for k, (v, w) in CHEATS.items()}
    )
    assert findings.empty, findings.to_string()


# --- the notebook writes the same functions out --------------------------------------


def bare(node: ast.FunctionDef) -> str:
    """A function's code without its docstring and type hints."""
    for part in ast.walk(node):
        if isinstance(part, ast.FunctionDef):
            part.returns = None
            for arg in (*part.args.args, part.args.kwarg):
                if arg:
                    arg.annotation = None
            if ast.get_docstring(part) is not None:
                part.body = part.body[1:]
    text = ast.unparse(node)
    return re.sub(r"\b(prompts|rewards)\.", "", re.sub(r"found: [^=]* = ", "found = ", text))


def functions(source: str) -> dict[str, str]:
    return {node.name: bare(node) for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}


WRITTEN_OUT = ("calculate", "expressions", "game", "ideal_reply", "verdict", "legal_reward_func", "solved_reward_func")


@pytest.fixture(scope="module")
def in_notebook() -> str:
    """All code of notebook 10."""
    cells = nbformat.read(ROOT / "notebooks" / "10_your_own_task.ipynb", as_version=4).cells
    return "\n".join(cell.source for cell in cells if cell.cell_type == "code")


@pytest.mark.parametrize("name", WRITTEN_OUT)
def test_the_notebook_and_the_module_have_the_same_code(name, in_notebook):
    assert functions(in_notebook)[name] == functions(inspect.getsource(countdown))[name]
    assert f'PROMPT = """\\\n{countdown.PROMPT}"""' in in_notebook


def test_the_notebook_and_the_record_follow_the_same_recipe(in_notebook):
    for written in (
        f"steps=min({countdown.STEPS}, profile.steps), accumulation={countdown.BATCHES} * profile.accumulation",
        f"games.select(range({countdown.DEMONSTRATIONS}))",
        f'every_weight = {{"epochs": {countdown.EPOCHS}, "learning_rate": profile.learning_rate / 2',
        f'an_adapter = {{"epochs": {countdown.ADAPTER_EPOCHS}, "learning_rate": profile.learning_rate * 2',
    ):
        assert written in in_notebook, written
