"""The notebooks' conventions, as far as a program can check them.

That they run is nbmake's part (`make test`); here they are read, and the
solutions of their exercises are executed against their checks.
"""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path
from typing import Any

import nbformat
import pytest

from grpo_helpers.profiles import ROOT
from tests.tools.clean_notebooks import fingerprint

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TRAINING = ("05_", "06_")  # these want a GPU when opened in Colab
FIRST_RUN = "00_first_run"  # plain libraries only: no exercise, whose check is ours, and a figure drawn by pandas

MAX_BYTES = 500_000
MAX_LINES, MAX_MEDIAN_LINES, MAX_WORDS = 40, 10, 200

SETUP = "setup"  # the set-up cell's id
MACHINE_PATH = re.compile(r"(?<![\w.:/])/(?:home|root|work|Users|tmp|content|mnt|opt|usr|var)/|\b[A-Z]:\\\\?\w")
EMOJI = re.compile("[\U0001f000-\U0001faff\u2600-\u26ff\u2705\u2728\u274c\u2b50\ufe0f]")
LINK = re.compile(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)")
IMAGE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+)\)")
SOLUTION = re.compile(r"<details>.*?```python\n(.*?)```.*?</details>", re.DOTALL)
EFFORT = re.compile(r"^### .+\((?:\d+-)?\d+ minutes, (?:easy|medium|hard)\)$", re.MULTILINE)

pytestmark = pytest.mark.filterwarnings("ignore")


def name(path: Path) -> str:
    return path.stem


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def cells(path: Path, kind: str) -> list[nbformat.NotebookNode]:
    return [c for c in read(path).cells if c.cell_type == kind]


def prose(path: Path) -> str:
    return "\n\n".join(c.source for c in cells(path, "markdown"))


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


def exercises(path: Path) -> list[tuple[str, str]]:
    """(cell as the learner finds it, solution) of every exercise, in order."""
    all_cells, found = read(path).cells, []
    for i, cell in enumerate(all_cells):
        if cell.cell_type == "code" and "exercise" in cell.metadata.get("tags", []):
            after = all_cells[i + 1].source if i + 1 < len(all_cells) else ""
            solution = SOLUTION.search(after)
            found.append((cell.source, solution[1] if solution else ""))
    return found


every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=name)


def test_there_are_notebooks_and_their_numbers_are_their_own():
    numbers = [p.name[:2] for p in NOTEBOOKS]
    assert numbers and len(set(numbers)) == len(numbers)
    assert all(re.fullmatch(r"\d\d_[a-z0-9_]+\.ipynb", p.name) for p in NOTEBOOKS)


def test_the_set_up_cell_is_the_same_everywhere():
    sources = {c.source for p in NOTEBOOKS for c in cells(p, "code") if c.id == SETUP}
    assert len(sources) == 1
    assert all(sum(c.id == SETUP for c in cells(p, "code")) == 1 for p in NOTEBOOKS)


@every_notebook
def test_it_is_a_valid_notebook_for_any_python_kernel(path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    ids = [c.id for c in notebook.cells]
    assert len(set(ids)) == len(ids)
    if path.name.startswith(TRAINING):
        assert notebook.metadata.accelerator == "GPU"
        assert notebook.metadata.colab.gpuType == "T4"


@every_notebook
def test_it_opens_with_the_only_h1_and_what_a_reader_must_know(path):
    first = read(path).cells[0]
    assert first.cell_type == "markdown" and first.source.startswith("# ")
    assert len(headings(path, 1)) == 1
    learn = first.source.partition("You will learn")[2].partition("Before you start")[0]
    assert 3 <= len(re.findall(r"^- ", learn, flags=re.MULTILINE)) <= 5
    assert "Before you start" in first.source
    for word in ("time", "hardware", "downloads"):
        assert word in first.source
    for line in first.source.splitlines():
        if line.startswith("| `t4`"):
            assert "estimate" in line or "measured" in line


@every_notebook
def test_it_ends_with_recap_references_and_the_next_notebook(path):
    order = [h for h in headings(path, 2) if h.startswith(("Exercise", "Recap", "References"))]
    assert order == (["Exercises"] if path.stem != FIRST_RUN else []) + ["Recap", "References"]
    last = read(path).cells[-1].source
    assert "**Next:**" in last
    following = [p.name for p in NOTEBOOKS if int(p.name[:2]) == int(path.name[:2]) + 1]
    assert all(f"({f})" in last for f in following)


@every_notebook
def test_links_lead_somewhere_and_images_are_described(path):
    text = outside_code(prose(path))
    for target in LINK.findall(text):
        if not re.match(r"(https?|mailto):|#", target):
            assert (path.parent / target.partition("#")[0]).exists(), target
    for alt, target in IMAGE.findall(text):
        assert alt.strip(), f"image without alt text: {target}"
    for image in re.findall(r"<img\b[^>]*>", text):
        assert re.search(r"alt=[\"'][^\"']+", image), image


@every_notebook
def test_code_cells_are_small(path):
    lengths = {c.id: len(c.source.splitlines()) for c in cells(path, "code") if c.id != SETUP}
    assert max(lengths.values()) <= MAX_LINES, max(lengths, key=lengths.get)
    assert statistics.median(lengths.values()) <= MAX_MEDIAN_LINES


@every_notebook
def test_prose_stands_before_code_and_comes_in_small_pieces(path):
    all_cells = read(path).cells
    for before, cell in zip(all_cells, all_cells[1:], strict=False):
        if cell.cell_type == "code" and cell.id != SETUP and before.cell_type == "code":
            assert len(before.source.splitlines()) + len(cell.source.splitlines()) <= MAX_MEDIAN_LINES + 5, cell.id
    for cell in cells(path, "markdown"):
        assert len(cell.source.split()) <= MAX_WORDS, cell.id
    assert not EMOJI.search(prose(path))


@every_notebook
def test_no_code_of_a_model_repository_is_run(path):
    sources = "\n".join(c.source for c in read(path).cells)
    assert not re.search(r"trust_remote_code\s*=\s*True", sources)
    by_hand = re.search(r"profile\.(?:name|task)\s*(?:[!=]=|(?:not\s+)?in\b)", sources)
    assert not by_hand, f"branches on the profile by hand: {by_hand[0]}"


@every_notebook
def test_outputs_are_clean_and_whole(path):
    notebook = read(path)
    assert path.stat().st_size <= MAX_BYTES
    assert "widgets" not in notebook.metadata
    for cell in cells(path, "code"):
        for output in cell.outputs:
            assert output.output_type != "error", cell.id
            assert output.get("name") != "stderr", f"{cell.id}: {output.get('text', '')[:200]}"
            assert not any("widget" in kind for kind in output.get("data", {})), cell.id
            for text in output_texts(output):
                assert not MACHINE_PATH.search(text) and str(ROOT) not in text, f"{cell.id}: path of a machine"
                assert not re.search(r"%\|.*%\|", text), f"{cell.id}: a progress bar in two states on one line"


@every_notebook
def test_outputs_come_from_one_run_from_top_to_bottom(path):
    counts = [c.execution_count for c in cells(path, "code") if c.source.strip()]
    assert counts == list(range(1, len(counts) + 1)), "run all cells in a fresh kernel before committing"


@every_notebook
def test_outputs_were_made_by_this_code(path):
    notebook = read(path)
    assert notebook.metadata.get("made_by") == fingerprint(notebook), "`make notebooks` executes and stamps them"


@every_notebook
def test_results_are_asserted_and_explained(path):
    """Executing a notebook tests it; a reader is told what to expect."""
    sources = "\n".join(c.source for c in cells(path, "code"))
    assert len(re.findall(r"^assert ", sources, flags=re.MULTILINE)) >= 3
    assert len(re.findall(r"\*\*What you should see:\*\*", prose(path))) >= 3


@every_notebook
def test_plain_python_runs_it(path):
    """No magics, no shell lines: nothing depends on IPython's ways or on a shell."""
    assert not re.search(r"^\s*[%!]", "\n".join(c.source for c in cells(path, "code")), flags=re.MULTILINE)


@every_notebook
def test_every_figure_says_what_it_shows(path):
    for cell in cells(path, "code"):
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                sentence = output.metadata.get("image/png", {}).get("alt", "")
                assert len(sentence.split()) >= 5 and sentence.endswith("."), f"{cell.id}: {sentence!r}"


@every_notebook
def test_exercises_have_minutes_difficulty_and_solutions(path):
    found = exercises(path)
    assert 2 <= len(found) <= 4 or (path.stem == FIRST_RUN and not found)
    assert all(solution for _, solution in found), "the cell after an exercise holds its solution in <details>"
    assert len(EFFORT.findall(prose(path))) == len(found)


@every_notebook
def test_unsolved_exercises_say_so_and_solutions_pass(path, capsys):
    imports = "import math\nimport pandas as pd\nimport torch\n"
    imports += "from grpo_helpers import checks, data, evaluation, prompts, records, rewards\n"
    for stub, solution in exercises(path):
        check = stub.strip().splitlines()[-1]
        assert check.startswith("checks.")
        exec(compile(imports + stub, f"{path.name}, exercise", "exec"), {})
        assert capsys.readouterr().out.startswith("Not yet: ")
        exec(compile(f"{imports}{solution}\n{check}", f"{path.name}, solution", "exec"), {})
        assert capsys.readouterr().out == "Solved.\n", check


@every_notebook
def test_figures_come_from_plotting(path):
    sources = "\n".join(c.source for c in cells(path, "code"))
    assert ("plt." in sources or "matplotlib" in sources) == (path.stem == FIRST_RUN)


@pytest.mark.parametrize(
    "text, is_path",
    [
        ("saved to /home/ada/x", True),
        ("'/home/me/course/data'", True),
        ("C:\\Users\\ada", True),
        ("see https://github.com/home/x", False),
        ("data/tiny_policy", False),
        ("</answer>", False),
    ],
)
def test_paths_of_a_machine_are_recognised(text, is_path):
    assert bool(MACHINE_PATH.search(text)) is is_path
