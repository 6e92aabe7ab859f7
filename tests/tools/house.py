"""The shape of a checkout in numbers: python tests/tools/house.py [ROOT]"""

from __future__ import annotations

import ast
import io
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import tokenize
from collections.abc import Iterable
from pathlib import Path

PACKAGE = "grpo_helpers"
COMMANDS = {"__init__", "__main__"}
PLUMBING = COMMANDS | {"run", "ledger", "adapters", "pretrained", "checkpoints", "hosted", "files"}
LAYOUT = {tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.COMMENT, tokenize.ENDMARKER}

# Runs the cells of each notebook in turn, this package forgotten in between, the libraries not.
LOADED = f"""
import contextlib, json, os, sys
found = {{}}
for notebook, source in json.load(sys.stdin).items():
    os.chdir(os.path.dirname(notebook))
    for name in [name for name in sys.modules if name.partition(".")[0] == "{PACKAGE}"]:
        del sys.modules[name]
    with contextlib.redirect_stdout(sys.stderr):
        exec(source, {{}})
    names = [name for name in sys.modules if name.partition(".")[0] == "{PACKAGE}"]
    found[notebook] = [name.removeprefix("{PACKAGE}").removeprefix(".") or "__init__" for name in names]
print(json.dumps(found))
"""


def code_cells(notebook: Path) -> list[str]:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


class House:
    """The modules of the package in a checkout, and which of them import which.

    Attributes:
        paths: module name ("plotting.runs"; "plotting" is the folder's __init__) → file.
        imports: module name → the modules it imports, in functions as well.
    """

    def __init__(self, root: Path) -> None:
        self.root, package = root, root / PACKAGE
        names = {p: ".".join(p.relative_to(package).with_suffix("").parts) for p in sorted(package.rglob("*.py"))}
        self.paths = {name.removesuffix(".__init__"): path for path, name in names.items()}
        self.imports = {
            name: self.imported(path.read_text(encoding="utf-8"), self.folder_of(name))
            for name, path in self.paths.items()
        }

    def folder_of(self, name: str) -> str:
        return name if self.paths[name].name == "__init__.py" else name.rpartition(".")[0]

    def imported(self, source: str, inside: str = "") -> set[str]:
        """Modules of the package that `source`, which lies in the folder `inside`, imports."""
        found = set()
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                here = [PACKAGE, *filter(None, inside.split("."))]
                base = ".".join(here[: len(here) - node.level + 1]) if node.level else ""
                base = ".".join(filter(None, (base, node.module)))
                names = {f"{base}.{alias.name}" for alias in node.names}
                found |= {name if name.removeprefix(f"{PACKAGE}.") in self.paths else base for name in names}
        return {name.removeprefix(f"{PACKAGE}.") for name in found} & self.paths.keys()

    def reached(self, start: Iterable[str]) -> set[str]:
        """`start` and all that it imports, itself or through others."""
        found, waiting = set(), set(start)
        while waiting:
            found |= waiting
            waiting = set().union(*(self.imports[name] for name in waiting)) - found
        return found

    def notebooks(self) -> list[Path]:
        return sorted((self.root / "notebooks").glob("*.ipynb"))

    def needed_by(self, notebook: Path) -> set[str]:
        """What all cells of a notebook import, themselves or through others, in functions as well."""
        return self.reached(set().union(*map(self.imported, code_cells(notebook))))

    def loaded_first(self) -> dict[Path, set[str]]:
        """For each notebook what is in memory once its set-up cell and its first cell of imports have been run."""
        jobs = {}
        for notebook in self.notebooks():
            setup, *others = code_cells(notebook)
            first = next(cell for cell in others if re.search("^(from|import) ", cell, re.MULTILINE))
            jobs[str(notebook)] = "\n".join((setup, first))
        with tempfile.TemporaryDirectory() as folder:
            place = {"GRPO_PROFILE": "tiny", "GRPO_OUTPUT": folder, "PYTHONPATH": str(self.root)}
            command = [sys.executable, "-c", LOADED]
            done = subprocess.run(
                command, input=json.dumps(jobs), text=True, capture_output=True, env=os.environ | place, check=True
            )
        loaded = json.loads(done.stdout)
        return {Path(notebook): set(modules) & self.paths.keys() for notebook, modules in loaded.items()}

    def circles(self) -> list[list[str]]:
        """Groups of modules that import each other."""
        found = {
            frozenset(b for b in self.reached(self.imports[a]) if a in self.reached(self.imports[b]))
            for a in self.paths
        }
        return sorted(sorted(circle) for circle in found if circle)


def lines(paths: Iterable[Path]) -> int:
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in paths)


def code_lines(paths: Iterable[Path]) -> int:
    """Lines without blank ones, comments and docstrings."""
    total = 0
    for path in paths:
        source, seen = path.read_text(encoding="utf-8"), set()
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type not in LAYOUT:
                seen |= set(range(token.start[0], token.end[0] + 1))
        for node in ast.walk(ast.parse(source)):
            if (
                isinstance(node, ast.Expr)
                and isinstance(node.value, ast.Constant)
                and isinstance(node.value.value, str)
            ):
                seen -= set(range(node.lineno, node.end_lineno + 1))
        total += len(seen)
    return total


def functions(paths: Iterable[Path]) -> dict[str, int]:
    """Name of every function → its lines, decorators and docstring included."""
    found = {}
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                found[f"{path.stem}.{node.name}:{node.lineno}"] = node.end_lineno - node.lineno + 1
    return found


def main(root: Path) -> None:
    house = House(root)
    package = list(house.paths.values())
    core = [path for path in (root / PACKAGE).glob("*.py") if path.stem not in PLUMBING]
    groups = {"package": package, "core": core, "tests": list((root / "tests").glob("*.py"))}
    groups["tests/tools"] = list((root / "tests" / "tools").glob("*.py"))
    groups["recorders"] = list((root / "data").rglob("*.py"))
    for name, paths in groups.items():
        print(f"{name:12} {len(paths):4} files {lines(paths):6,} lines {code_lines(paths):6,} of code")
    print(f"import circles: {house.circles() or 'none'}")
    found = functions(package)
    longest = max(found, key=found.get)
    median = statistics.median(found.values())
    print(f"functions: {len(found)}, median {median:g} lines, longest {longest}: {found[longest]}")
    print("lines in memory after a notebook's first cell of imports, and that all its cells need:")
    for notebook, loaded in house.loaded_first().items():
        first, needed = ([house.paths[name] for name in names] for names in (loaded, house.needed_by(notebook)))
        print(f"  {notebook.stem:26} {len(first):3} files {lines(first):6,} {len(needed):8} files {lines(needed):6,}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve())
