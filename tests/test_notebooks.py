"""The notebooks' conventions, as far as a program can check them, and their solutions against the exercises' checks.

That they run is nbmake's part (`make test`), what their figures say that of test_accessibility.
"""

import ast
import json
import re
import statistics
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import nbformat
import pytest

from grpo_helpers.profiles import ROOT
from tests.tools.clean_notebooks import fingerprint

from .cells import defined_by, definitions

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TRAINING = ("05_", "06_")  # these want a GPU when opened in Colab
FIRST_RUN = "00_first_run"  # plain libraries only: no exercise, whose check is ours, and a figure drawn by pandas

MAX_LINES, MAX_MEDIAN_LINES, MAX_WORDS, MAX_BYTES = 40, 10, 200, 1_000_000

SETUP = "setup"  # the set-up cell's id
MACHINE_PATH = re.compile(r"(?<![\w.:/])/(?:home|root|work|Users|tmp|content|mnt|opt|usr|var)/|\b[A-Z]:\\\\?\w")
EMOJI = re.compile("[\U0001f000-\U0001faff\u2600-\u26ff\u2705\u2728\u274c\u2b50\ufe0f]")
LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")
SOLUTION = re.compile(r"<details>.*?```python\n(.*?)```.*?</details>", re.DOTALL)
EFFORT = re.compile(r"^### .+\((?:\d+-)?\d+ minutes, (?:easy|medium|hard)\)$", re.MULTILINE)

pytestmark = pytest.mark.filterwarnings("ignore")


@cache
def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def cells(path: Path, kind: str) -> list[nbformat.NotebookNode]:
    return [c for c in read(path).cells if c.cell_type == kind]


def prose(path: Path) -> str:
    return path.read_text() if path.suffix == ".md" else "\n\n".join(c.source for c in cells(path, "markdown"))


def code(path: Path) -> str:
    return "\n".join(c.source for c in cells(path, "code"))


def outside_code(text: str) -> str:
    """Markdown without its fenced and inline code."""
    return re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.DOTALL)


def headings(path: Path, level: int) -> list[str]:
    return re.findall(rf"^{'#' * level} +(.+)$", outside_code(prose(path)), flags=re.MULTILINE)


def output_texts(output: dict[str, Any]) -> list[str]:
    """Every text in an output: streams, and the textual forms of displayed data."""
    if output["output_type"] == "stream":
        return [output["text"]]
    data = {kind: value for kind, value in output.get("data", {}).items() if kind != "image/png"}
    return [value if isinstance(value, str) else json.dumps(value) for value in data.values()]


def exercises(path: Path) -> list[tuple[str, str, bool, str]]:
    """(cell as the learner finds it, solution, whether it trains, what the page shows) of every exercise, in order."""
    found = []
    for cell, after in zip(read(path).cells, read(path).cells[1:], strict=False):
        if cell.cell_type == "code" and "exercise" in (tags := cell.metadata.get("tags", [])):
            solution = SOLUTION.search(after.source)
            shown = "".join(text for output in cell.outputs for text in output_texts(output))
            found.append((cell.source, solution[1] if solution else "", "trains" in tags, shown))
    return found


every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def test_there_are_notebooks_with_numbers_of_their_own_and_one_set_up_cell():
    assert [p.name[:3] for p in NOTEBOOKS] == [f"{n:02}_" for n in range(len(NOTEBOOKS))] and NOTEBOOKS
    setups = [c.source for p in NOTEBOOKS for c in cells(p, "code") if c.id == SETUP]
    assert len(setups) == len(NOTEBOOKS) and len(set(setups)) == 1


@every_notebook
def test_it_is_a_valid_notebook_for_any_python_kernel(path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert len({c.id for c in notebook.cells}) == len(notebook.cells)
    if path.name.startswith(TRAINING):
        assert notebook.metadata.accelerator == "GPU" and notebook.metadata.colab.gpuType == "T4"
    assert not re.search(r"^\s*[%!]", code(path), flags=re.MULTILINE), "nothing depends on IPython or on a shell"


@every_notebook
def test_it_opens_with_what_a_reader_must_know_and_ends_with_the_next_notebook(path):
    first, last = read(path).cells[0].source, read(path).cells[-1].source
    assert first.startswith("# ") and len(headings(path, 1)) == 1
    learn, before_you_start, needs = first.partition("You will learn")[2].partition("Before you start")
    assert 3 <= len(re.findall(r"^- ", learn, flags=re.MULTILINE)) <= 5 and before_you_start
    assert all(word in needs for word in ("time", "hardware", "downloads"))
    assert all("estimate" in line or "measured" in line for line in first.splitlines() if line.startswith("| `t4`"))
    order = [h for h in headings(path, 2) if h.startswith(("Exercise", "Recap", "References"))]
    assert order == (["Exercises"] if path.stem != FIRST_RUN else []) + ["Recap", "References"]
    following = [p.name for p in NOTEBOOKS if int(p.name[:2]) == int(path.name[:2]) + 1]
    assert "**Next:**" in last and all(f"({name})" in last for name in following)


@pytest.mark.parametrize("path", [*NOTEBOOKS, *(ROOT / "notebooks").glob("*.md")], ids=lambda path: path.stem)
def test_links_lead_to_pages_and_headings_that_exist_and_images_are_described(path):
    text = outside_code(prose(path))
    assert not re.search(r"!\[\s*\]\(|<img(?![^>]*alt=.\w)|<summary>[^<]*[`*]", prose(path))  # a summary is HTML
    for target in LINK.findall(text):
        if not re.match(r"(https?|mailto):", target):
            page, _, heading = target.partition("#")
            assert (path.parent / page).exists(), target
            there = "\n".join(h for level in (1, 2, 3) for h in headings(path.parent / page if page else path, level))
            assert heading in ["", *re.sub(r"[^\w\n -]", "", there.lower()).replace(" ", "-").split("\n")], target


@every_notebook
def test_code_comes_in_small_pieces_prose_before_it_and_results_asserted_and_explained_after_it(path):
    lengths = {c.id: len(c.source.splitlines()) for c in cells(path, "code") if c.id != SETUP}
    assert max(lengths.values()) <= MAX_LINES, max(lengths, key=lengths.get)
    assert statistics.median(lengths.values()) <= MAX_MEDIAN_LINES
    for before, cell in zip(read(path).cells, read(path).cells[1:], strict=False):
        if before.id in lengths and cell.id in lengths:
            assert lengths[before.id] + lengths[cell.id] <= MAX_MEDIAN_LINES + 5, cell.id
    words = {c.id: len(c.source.split()) for c in cells(path, "markdown")}
    assert max(words.values()) <= MAX_WORDS, max(words, key=words.get)
    assert not EMOJI.search(prose(path))
    assert len(re.findall(r"^assert ", code(path), flags=re.MULTILINE)) >= 3, "executing a notebook tests it"
    assert prose(path).count("**What you should see:**") >= 3


COMPREHENSION = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp


def bound(node):
    """The names that a statement gives to values in its notebook; those of functions and comprehensions stay inside."""
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        yield node.id
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | COMPREHENSION):
        yield from (name for child in ast.iter_child_nodes(node) for name in bound(child))


@every_notebook
def test_no_value_takes_the_name_of_a_function_or_a_module(path):
    body = [node for cell in cells(path, "code") if cell.id != SETUP for node in ast.parse(cell.source).body]
    named = {name for node in body for name, by in defined_by(node).items() if not isinstance(by, ast.Assign)}
    assert not named & {name for node in body for name in bound(node)}


@every_notebook
def test_what_exercises_take_from_their_notebook_is_given_by_one_cell(path):
    given = Counter(name for cell in cells(path, "code") for name in {*bound(ast.parse(cell.source))})
    for block in re.findall(r"```python\n(.*?)```", prose(path).partition("\n## Exercises")[2], re.DOTALL):
        nodes = [*ast.walk(ast.parse(block))]
        own = {node.arg for node in nodes if isinstance(node, ast.arg)}
        own |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
        assert not {node.id for node in nodes if isinstance(node, ast.Name) and given[node.id] > 1} - own


@every_notebook
def test_profiles_decide_and_figures_come_from_plotting(path):
    by_hand = re.search(r"profile\.(?:name|task)\s*(?:[!=]=|(?:not\s+)?in\b)", code(path) + prose(path))
    assert not by_hand, f"branches on the profile by hand: {by_hand[0]}"
    assert ("plt." in code(path) or "matplotlib" in code(path)) == (path.stem == FIRST_RUN)


@every_notebook
def test_outputs_are_clean_and_made_by_this_code_in_one_run(path):
    assert path.stat().st_size <= MAX_BYTES
    assert "widgets" not in read(path).metadata
    for cell in cells(path, "code"):
        for output in cell.outputs:
            assert output.output_type != "error", cell.id
            assert output.get("name") != "stderr", f"{cell.id}: {output.get('text', '')[:200]}"
            assert not any("widget" in kind for kind in output.get("data", {})), cell.id
            for text in output_texts(output):
                assert not MACHINE_PATH.search(text) and str(ROOT) not in text, f"{cell.id}: path of a machine"
                assert not re.search(r"%\|.*%\|", text), f"{cell.id}: a progress bar in two states on one line"
    counts = [c.execution_count for c in cells(path, "code") if c.source.strip()]
    assert counts == list(range(1, len(counts) + 1)), "run all cells in a fresh kernel before committing"
    assert read(path).metadata.get("made_by") == fingerprint(read(path)), "`make notebooks` executes and stamps them"


TRAIN = {"10": ("ex3-data", "ex3-train"), "11": ("part-2", "code-18", "ex2-train"), "12": ("s2-warmed", "ex2-train")}


def checked(path: Path, source: str, stub: str) -> None:
    """Run what a learner hands in, and the check that ends the exercise's cell."""
    imports = "import math, torch, pandas as pd\nfrom grpo_helpers import data, evaluation, prompts, records, rewards\n"
    imports += f"import json\nfrom grpo_helpers.checks import notebook_{path.stem[:2]} as checks\n"
    assert (check := stub.strip().splitlines()[-1]).startswith("checks.")
    space = dict.fromkeys(re.findall(r"\w+", check), lambda: None)  # an unsolved exercise asks for no training
    handed = [name for name in space if name.endswith("_reward_func")]
    if source != stub and ("train_with" in space or handed):
        space = vars(definitions(path.stem, *handed, run=TRAIN.get(path.stem[:2], ()) if "train_with" in space else ()))
    exec(compile(f"{imports}{source}\n{check if source != stub else ''}", f"{path.name}, exercise", "exec"), space)


@every_notebook
def test_unsolved_exercises_say_so_and_solutions_pass(path, capsys):
    found = exercises(path)
    assert 2 <= len(found) <= 4 or (path.stem == FIRST_RUN and not found)
    assert len(EFFORT.findall(prose(path))) == len(found), "minutes and difficulty"
    for stub, solution, trains, shown in found:
        checked(path, stub, stub)
        assert capsys.readouterr().out == shown and shown.startswith("Not yet: ")
        if not trains:
            checked(path, solution, stub)
            assert capsys.readouterr().out == "Solved.\n", stub


@pytest.mark.trains
@pytest.mark.parametrize("path", [p for p in NOTEBOOKS if any(t for *_, t, _ in exercises(p))], ids=lambda p: p.stem)
def test_solutions_that_train_pass(path, capsys):
    for stub, solution, trains, _ in exercises(path):
        if trains:
            checked(path, solution, stub)
            assert capsys.readouterr().out.endswith("Solved.\n"), stub


def test_paths_of_a_machine_are_recognised():
    assert all(map(MACHINE_PATH.search, ("saved to /home/ada/x", "C:\\Users\\ada")))
    assert not any(map(MACHINE_PATH.search, ("see https://github.com/home/x", "data/tiny_policy", "</answer>")))
