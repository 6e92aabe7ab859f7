"""`make publish`: one address, written everywhere, and nothing else touched."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st

from .tools import publish

ROOT = publish.ROOT
NOTEBOOKS = sorted(p.name for p in (ROOT / "notebooks").glob("[01]*.ipynb"))


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """What `publish` reads and writes, as it is in this repository."""
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks", ignore=shutil.ignore_patterns(".*", "_*"))
    for path in (ROOT / "pyproject.toml", ROOT / "CONTRIBUTING.md", *ROOT.glob("README*.md")):
        if path.is_file():
            shutil.copy(path, tmp_path)
    return tmp_path


def texts(root: Path) -> dict[Path, str]:
    return {p.relative_to(root): p.read_text(encoding="utf-8") for p in root.rglob("*") if p.is_file()}


def cells(root: Path, name: str) -> list[nbformat.NotebookNode]:
    return nbformat.read(root / "notebooks" / name, as_version=4).cells


def test_this_repository_tells_one_address_everywhere():
    address = publish.current_address()
    stale = sorted(path.name for path in publish.planned(ROOT, address))
    assert not stale, f"out of step with pyproject.toml and tests/tools/setup_cell.py; `make publish` mends {stale}"
    assert address == "" or publish.address_of(address.removeprefix(f"{publish.HOST}/")) == address


def test_publishing_again_and_again_changes_nothing_more(copy):
    publish.publish(copy, "ada/grpo-notebooks")
    first = texts(copy)
    assert publish.publish(copy, "ada/grpo-notebooks") == [] and publish.publish(copy) == []
    assert texts(copy) == first
    assert publish.current_address(copy) == "https://github.com/ada/grpo-notebooks"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_gets_its_own_badge_and_the_same_set_up_cell(copy, name):
    before = cells(copy, name)
    publish.publish(copy, "ada/grpo-notebooks")
    after = cells(copy, name)
    heading, empty, badge, *_ = after[0].source.split("\n")
    assert heading == before[0].source.split("\n")[0] and empty == ""
    target = f"https://colab.research.google.com/github/ada/grpo-notebooks/blob/main/notebooks/{name}"
    assert badge.startswith("[![Open in Colab](") and badge.endswith(f"]({target})")
    assert [c.source for c in after if c.id == "setup"] == [publish.setup_cell("https://github.com/ada/grpo-notebooks")]
    changed = [b.id for b, a in zip(before, after, strict=True) if b != a]
    assert set(changed) <= {"title", "setup-text", "setup"}, "outputs, ids and all other cells stay"
    assert all(c.get("outputs", []) == [] for c in after if c.id == "setup")


def test_moving_leaves_no_trace_of_the_old_address_and_nothing_doubled(copy):
    publish.publish(copy, "ada/grpo-notebooks")
    once = texts(copy)
    publish.publish(copy, "grace/moved.here")
    moved = texts(copy)
    assert not [path for path, text in moved.items() if "ada/grpo-notebooks" in text]
    assert {p: t.replace("grace/moved.here", "ada/grpo-notebooks") for p, t in moved.items()} == once


def test_taking_the_address_out_leaves_what_was_there_before_one_was_set(copy):
    publish.publish(copy)
    without = {path: publish.in_pyproject(text, "") for path, text in texts(copy).items() if path.suffix == ".toml"}
    publish.publish(copy, "ada/grpo-notebooks")
    changes = publish.planned(copy, "")
    assert changes[copy / "pyproject.toml"] == without[Path("pyproject.toml")]
    assert not any("Open in Colab" in text for text in changes.values())
    assert f"git clone {publish.NOWHERE} " in changes[copy / "README.md"]


def test_without_an_address_there_is_no_badge_and_none_to_clone_from(copy):
    for path, text in publish.planned(copy, "").items():
        (copy / path).write_text(text, encoding="utf-8")
    for name in NOTEBOOKS:
        assert "Open in Colab" not in cells(copy, name)[0].source
        assert all('REPOSITORY = ""' in c.source for c in cells(copy, name) if c.id == "setup")


def test_readme_has_a_badge_in_every_row_of_a_notebook_and_the_address_to_clone(copy):
    rows = "| [01 A](notebooks/01_a.ipynb) | teaches | 2 minutes |\n| `tiny` | no notebook |"
    text = f"See [01](notebooks/01_a.ipynb).\n\n{rows}\n\n    git clone ADDRESS grpo\n"
    new = publish.in_markdown(text, "https://github.com/ada/b")
    assert "    git clone https://github.com/ada/b grpo\n" in new and new.count("Open in Colab") == 1
    assert "/blob/main/notebooks/01_a.ipynb) | teaches | 2 minutes |" in new
    assert publish.in_markdown(new, "https://github.com/ada/b") == new
    publish.publish(copy, "ada/grpo-notebooks")
    readme = (copy / "README.md").read_text(encoding="utf-8")
    rows = [line for line in readme.splitlines() if re.match(r"\| .*\]\(notebooks/\d", line)]
    assert rows and all(line.count("Open in Colab") == 1 for line in rows)


@pytest.mark.parametrize(
    "repo",
    ["", "grpo", "ada/", "/grpo", "ada/grpo/main", "https://github.com/ada/grpo", "ada/grpo.git", "ada/..", "-ada/grpo"]
    + ["ada/gr po", "ada/grpo\n", "ada/grpo)", 'ada/"x', "ada--x/grpo", "ada/$(id)", "ada/ünï", "a" * 40 + "/grpo"],
)
def test_what_is_no_name_is_refused_with_the_remedy(copy, repo):
    before = texts(copy)
    with pytest.raises(ValueError, match="owner/name"):
        publish.address_of(repo)
    if repo:
        with pytest.raises(ValueError, match="owner/name"):
            publish.publish(copy, repo)
    assert texts(copy) == before


@given(
    owner=st.from_regex(r"[A-Za-z0-9]{1,12}(-[A-Za-z0-9]{1,12})?", fullmatch=True),
    name=st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,30}", fullmatch=True).filter(lambda n: not n.endswith(".git")),
)
def test_any_good_name_can_be_written_replaced_and_read_back(owner, name):
    address = publish.address_of(f"{owner}/{name}")
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    unset = publish.in_pyproject(pyproject, "")
    written = publish.in_pyproject(unset, address)
    assert publish.in_pyproject(written, "") == unset
    assert publish.in_pyproject(publish.in_pyproject(written, "https://github.com/x/y"), address) == written
    assert written.count(f'Repository = "{address}"') == 1
    names: dict = {}
    exec(compile(publish.setup_cell(address).split("in_cloud")[0], "cell", "exec"), names)
    assert names["REPOSITORY"] == address
    title = "# GRPO\n\n**You will learn**\n\n- a"
    assert publish.in_title(publish.in_title(title, address, "01.ipynb"), "", "01.ipynb") == title


def test_the_command_refuses_in_one_line_and_reports_without_a_name():
    command = [sys.executable, "tests/tools/publish.py", "nonsense"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "owner/name" in done.stderr


def test_the_set_up_cell_is_short_enough_to_be_read():
    assert len(publish.setup_cell("").splitlines()) <= 30
    assert json.dumps(publish.setup_cell(f"{publish.HOST}/ada/grpo")).count("ada/grpo") == 1
