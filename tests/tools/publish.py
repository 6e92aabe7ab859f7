"""Write the repository's address, and the set-up cell, wherever they belong. `make publish REPO=owner/name`

The address lives in pyproject.toml, `[project.urls] Repository`, and is absent until the repository has been published.
From there it goes into every notebook's badge and set-up cell (setup_cell.py, beside this file), and into README and
CONTRIBUTING. Without REPO the same address is written again: after a change of the set-up cell, or with a new notebook.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[2]
HOST, BRANCH = "https://github.com", "main"
NAME = re.compile(r"[A-Za-z0-9](?:-?[A-Za-z0-9]){0,38}/(?!\.{1,2}$)[A-Za-z0-9._-]{1,100}")

BADGE = re.compile(r" ?\[!\[Open in Colab\]\([^)]*\)\]\([^)]*\)")
LINK = re.compile(r"^\|.*?\]\(notebooks/(\w+\.ipynb)\)")  # a row of README's table of notebooks
CLONE = re.compile(r"git clone [^\s`]+")
NOWHERE = "ADDRESS-OF-THIS-PAGE"  # what README clones from while there is no address
URLS = re.compile(r'^\[project\.urls\]\nRepository = "([^"\n]*)"\n\n?', re.MULTILINE)

SETUP_TEXT = """\
## Set-up

Run this cell first. In Colab and on Kaggle it fetches the repository and the pinned versions, in a minute or two (an
estimate); elsewhere it installs nothing."""
FOLDED = {"tags": ["hide-input"], "jupyter": {"source_hidden": True}, "cellView": "form"}  # site, JupyterLab, Colab


def address_of(repo: str) -> str:
    """The address of `owner/name`; a ValueError says what a name looks like."""
    if not NAME.fullmatch(repo) or repo.endswith(".git"):
        raise ValueError(f"REPO={repo!r} is not a repository's name; write owner/name, as in REPO=ada/grpo-notebooks")
    return f"{HOST}/{repo}"


def current_address(root: Path = ROOT) -> str:
    """The address in pyproject.toml, "" while there is none."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project.get("urls", {}).get("Repository", "")


def setup_cell(address: str) -> str:
    """The set-up cell's source with the address in it."""
    source = (ROOT / "tests" / "tools" / "setup_cell.py").read_text(encoding="utf-8").strip()
    return source.replace('REPOSITORY = ""', f'REPOSITORY = "{address}"', 1)


def badge(address: str, notebook: str) -> str:
    """Markdown of the badge that opens `notebook` in Colab."""
    colab = "https://colab.research.google.com"
    target = f"{colab}/github/{address.removeprefix(f'{HOST}/')}/blob/{BRANCH}/notebooks/{notebook}"
    return f"[![Open in Colab]({colab}/assets/colab-badge.svg)]({target})"


def in_pyproject(text: str, address: str) -> str:
    """pyproject.toml with this address; "" takes the address out."""
    text = URLS.sub("", text)
    table = f'[project.urls]\nRepository = "{address}"\n\n' if address else ""
    return text.replace("[project.optional-dependencies]", f"{table}[project.optional-dependencies]", 1)


def in_title(title: str, address: str, notebook: str) -> str:
    """A notebook's first cell with its badge right under the heading, or without one while there is no address."""
    heading, _, rest = BADGE.sub("", title).partition("\n")
    parts = (heading, badge(address, notebook) if address else "", rest.strip("\n"))
    return "\n\n".join(part for part in parts if part)


def in_markdown(text: str, address: str) -> str:
    """README or CONTRIBUTING: a badge after every notebook's name in the table, and the address to clone from."""
    lines = [BADGE.sub("", line) for line in text.split("\n")]
    lines = [CLONE.sub(f"git clone {address or NOWHERE}", line) for line in lines]
    if address:
        lines = [LINK.sub(lambda m: f"{m[0]} {badge(address, m[1])}", line) for line in lines]
    return "\n".join(lines)


def in_notebook(notebook: nbformat.NotebookNode, address: str, name: str) -> nbformat.NotebookNode:
    """The notebook with badge, set-up text and set-up cell; outputs stay. Changes it in place."""
    notebook.cells[0].source = in_title(notebook.cells[0].source, address, name)
    for cell in notebook.cells:
        if cell.id == "setup":
            cell.source = setup_cell(address)
            cell.metadata |= FOLDED
        elif cell.id == "setup-text":
            cell.source = SETUP_TEXT
    return notebook


def planned(root: Path, address: str) -> dict[Path, str]:
    """New text of every file that has to change so that `root` tells this address everywhere."""
    new = {root / "pyproject.toml": in_pyproject((root / "pyproject.toml").read_text(encoding="utf-8"), address)}
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        notebook = in_notebook(nbformat.read(path, as_version=4), address, path.name)
        new[path] = nbformat.writes(notebook).rstrip("\n") + "\n"
    for path in (*sorted(root.glob("README*.md")), root / "CONTRIBUTING.md"):
        if path.is_file():
            new[path] = in_markdown(path.read_text(encoding="utf-8"), address)
    return {path: text for path, text in new.items() if text != path.read_text(encoding="utf-8")}


def publish(root: Path = ROOT, repo: str | None = None) -> list[Path]:
    """Write the address of `repo` (None: the one in pyproject.toml) wherever it belongs; the files that changed."""
    changes = planned(root, address_of(repo) if repo else current_address(root))
    for path, text in changes.items():
        path.write_text(text, encoding="utf-8")
    return sorted(changes)


if __name__ == "__main__":
    try:
        changed = publish(repo=next(iter(sys.argv[1:]), None))
    except ValueError as error:
        sys.exit(str(error))
    print(f"address: {current_address() or 'none yet; set it with make publish REPO=owner/name'}")
    print("changed:", ", ".join(str(path.relative_to(ROOT)) for path in changed) or "nothing")
