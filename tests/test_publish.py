"""`make publish`: one address, written everywhere, and nothing else touched."""

import re
import shutil
from pathlib import Path

import nbformat
import pytest

from .tools import publish

ROOT = publish.ROOT
NOTEBOOKS = sorted(p.name for p in (ROOT / "notebooks").glob("[01]*.ipynb"))
ADDRESS = "https://github.com/ada/grpo-notebooks"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """What `publish` reads and writes, as it is in this repository."""
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks", ignore=shutil.ignore_patterns(".*", "_*"))
    for path in (ROOT / "pyproject.toml", ROOT / "CONTRIBUTING.md", *ROOT.glob("README*.md")):
        shutil.copy(path, tmp_path)
    return tmp_path


def texts(root: Path) -> dict[Path, str]:
    return {p.relative_to(root): p.read_text(encoding="utf-8") for p in root.rglob("*") if p.is_file()}


def cells(root: Path, name: str) -> list[nbformat.NotebookNode]:
    return nbformat.read(root / "notebooks" / name, as_version=4).cells


def test_this_repository_tells_one_address_everywhere():
    stale = sorted(path.name for path in publish.planned(ROOT, publish.current_address()))
    assert not stale, f"out of step with pyproject.toml and tests/tools/setup_cell.py; `make publish` mends {stale}"


def test_a_notebook_gets_its_own_badge_and_the_same_set_up_cell(copy):
    before = {name: cells(copy, name) for name in NOTEBOOKS}
    publish.publish(copy, "ada/grpo-notebooks")
    for name, old in before.items():
        new = cells(copy, name)
        badge = new[0].source.split("\n")[2]
        target = f"https://colab.research.google.com/github/ada/grpo-notebooks/blob/main/notebooks/{name}"
        assert badge.startswith("[![Open in Colab](") and badge.endswith(f"]({target})")
        assert [c.source for c in new if c.id == "setup"] == [publish.setup_cell(ADDRESS)]
        changed = {b.id for b, a in zip(old, new, strict=True) if b != a}
        assert changed <= {"title", "setup-text", "setup"}, "outputs, ids and all other cells stay"
    readme = (copy / "README.md").read_text(encoding="utf-8")
    rows = [line for line in readme.splitlines() if re.match(r"\| .*\]\(notebooks/\d", line)]
    assert len(rows) == len(NOTEBOOKS) and all(line.count("Open in Colab") == 1 for line in rows)
    assert f"git clone {ADDRESS} " in readme


def test_publishing_again_changes_nothing_and_the_address_can_be_moved_and_taken_away(copy):
    publish.publish(copy, "ada/grpo-notebooks")
    once = texts(copy)
    assert publish.publish(copy, "ada/grpo-notebooks") == publish.publish(copy) == []
    assert publish.current_address(copy) == ADDRESS
    publish.publish(copy, "grace/moved.here")
    moved = texts(copy)
    assert not [path for path, text in moved.items() if "ada/grpo-notebooks" in text]
    assert {p: t.replace("grace/moved.here", "ada/grpo-notebooks") for p, t in moved.items()} == once
    for path, text in publish.planned(copy, "").items():
        path.write_text(text, encoding="utf-8")
    assert publish.current_address(copy) == ""
    assert not [path for path, text in texts(copy).items() if "Open in Colab" in text or "moved.here" in text]
    assert f"git clone {publish.NOWHERE} " in (copy / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "repo",
    ["grpo", "ada/grpo/main", "ada/grpo.git", "ada/..", "-ada/grpo", "ada/grpo\n", 'ada/"x', "ada--x/grpo", "ada/ünï"],
)
def test_what_is_no_name_is_refused_with_the_remedy(repo):
    with pytest.raises(ValueError, match="owner/name"):
        publish.address_of(repo)
