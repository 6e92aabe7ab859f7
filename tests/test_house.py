"""The shape of `grpo_helpers`: what enters the core, no import circles, sizes that only go down (CONTRIBUTING.md)."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from grpo_helpers.profiles import ROOT

PACKAGE = "grpo_helpers"
COMMANDS = {"__init__", "__main__"}
# ceilings, in steps of 50; the aims are 2,000, 5,500 and 7,000
LINES = {f"{PACKAGE}/*.py": 3200, f"{PACKAGE}/**/*.py": 8100, "tests/*.py": 10300}
STEP = 50


def module_name(path: Path) -> str:
    """grpo_helpers/plotting/__init__.py → "plotting"."""
    return ".".join(path.relative_to(ROOT / PACKAGE).with_suffix("").parts).removesuffix(".__init__")


PATHS = {module_name(path): path for path in sorted((ROOT / PACKAGE).rglob("*.py"))}


def imported(source: str, inside: str = "") -> set[str]:
    """Modules of the package that `source`, which lies in the folder `inside`, imports, in functions as well."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            here = [PACKAGE, *filter(None, inside.split("."))]
            base = ".".join(here[: len(here) - node.level + 1]) if node.level else ""
            base = ".".join(filter(None, (base, node.module)))
            names = {f"{base}.{alias.name}" for alias in node.names}
            found |= {name if name.removeprefix(f"{PACKAGE}.") in PATHS else base for name in names}
    return {name.removeprefix(f"{PACKAGE}.") for name in found} & PATHS.keys()


def folder_of(name: str) -> str:
    return name if PATHS[name].name == "__init__.py" else name.rpartition(".")[0]


IMPORTS = {name: imported(path.read_text(encoding="utf-8"), folder_of(name)) for name, path in PATHS.items()}


def reached(start: Iterable[str], without: Iterable[str] = ()) -> set[str]:
    """`start` and all that it imports, itself or through others."""
    found, waiting = set(), set(start) - set(without)
    while waiting:
        found |= waiting
        waiting = set().union(*(IMPORTS[name] for name in waiting)) - found - set(without)
    return found


def needed_by(notebook: Path) -> set[str]:
    """What a notebook imports, itself or through others. The checks of other notebooks' exercises are not its own."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    direct = set().union(*(imported("".join(c["source"])) for c in cells if c["cell_type"] == "code"))
    own = f"checks.notebook_{notebook.name[:2]}"
    return reached(direct, [name for name in PATHS if name.startswith("checks.notebook_") and name != own])


def test_the_core_holds_what_two_notebooks_need():
    needs = [needed_by(path) for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]
    core = {path.stem for path in (ROOT / PACKAGE).glob("*.py")} - COMMANDS
    counts = {name: sum(name in need for need in needs) for name in core}
    assert max(counts.values()) >= 10, "notebooks are read as they should be"
    lonely = sorted(name for name in core if counts[name] < 2)
    assert not lonely, f"{lonely}: no second notebook needs it, so it belongs into the cells of the one that does"


def test_no_import_circle():
    circles = {frozenset(b for b in reached(IMPORTS[a]) if a in reached(IMPORTS[b])) for a in PATHS} - {frozenset()}
    assert not circles, f"these import each other: {[sorted(circle) for circle in circles]}"


def test_figures_exercises_and_tables_do_not_wait_for_trl():
    code = "import sys\nfrom grpo_helpers import checks, evaluation, plotting, records\nprint('trl' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize("files", LINES)
def test_lines_only_get_fewer(files):
    lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in ROOT.glob(files))
    assert lines <= LINES[files], f"{lines} lines in {files}: something has to go before this comes"
    lowest = -(-lines // STEP) * STEP
    assert LINES[files] <= lowest + 2 * STEP, f"{lines} lines in {files}: lower its ceiling to {lowest}"


@pytest.mark.parametrize(
    "source, inside, modules",
    [
        ("from grpo_helpers import data, run as job\nimport torch", "", {"data", "run"}),
        ("def f():\n    from .data import load_task", "", {"data"}),
        ("from ..profiles import DATA\nfrom . import trial", "experiments", {"profiles", "experiments.trial"}),
        ("from . import load", "experiments", {"experiments"}),
        (
            "import grpo_helpers.fast.sampling\nfrom grpo_helpers.experiments import grids",
            "",
            {"fast.sampling", "experiments.grids"},
        ),
        ("from .nowhere import data", "", set()),
    ],
)
def test_imports_are_found(source, inside, modules):
    assert imported(source, inside) == modules
