"""README and its Chinese edition have the same structure and numbers, which are those of the recorded runs."""

import json
import re
from fnmatch import fnmatch

import pandas as pd
import pytest
from PIL import Image

from grpo_helpers.profiles import ROOT

from .tools import pictures

ENGLISH, CHINESE = "README.md", "README.zh.md"
NOTEBOOKS = sorted(p.name for p in (ROOT / "notebooks").glob("*.ipynb"))
both = pytest.mark.parametrize("name", [ENGLISH, CHINESE])


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def structure(text: str) -> dict[str, list]:
    """What two languages have in common: levels of headings, links, code, the shape of tables, numbers."""
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    rows = [line for line in prose.splitlines() if line.startswith("|")]
    return {
        "headings": re.findall(r"^(#+) ", prose, re.MULTILINE),
        "bullets": re.findall(r"^- ", prose, re.MULTILINE),
        "links": [t for t in re.findall(r"\]\(([^)]+)\)", text) if t not in (ENGLISH, CHINESE)],
        "commands": re.findall(r"^(?:make|git) \w+", text, re.MULTILINE),
        "code": sorted(set(re.findall(r"`[^`\n]+`", prose))),
        "tables": [row.count("|") for row in rows],
        "percentages": re.findall(r"[\d.]+ % \([\d.-]+\)", text),
    }


def rate(run: str, column: str, row: int = 0) -> str:
    """A rate of a recorded comparison as README writes it: 32.5 % (26.4-39.3)."""
    table = pd.read_csv(ROOT / "data" / "runs" / run / "comparison.csv").iloc[row]
    share, low, high = (100 * table[f"{column}{end}"] for end in ("", "_low", "_high"))
    return f"{share:.1f} % ({low:.1f}-{high:.1f})"


def test_both_editions_have_the_same_structure():
    assert structure(read(CHINESE)) == structure(read(ENGLISH))


@both
def test_rates_are_those_of_the_recorded_runs(name):
    text = read(name)
    for row in (0, 1):
        rates = [rate("small-1", "before", row), *(rate(f"small-{seed}", "after", row) for seed in (1, 2, 3))]
        assert f"| {' | '.join(rates)} |" in text
    for column in ("before", "after"):
        assert rate("tiny-1", column) in text


@both
def test_every_notebook_is_in_the_table_and_every_link_leads_somewhere(name):
    text = read(name)
    listed = re.findall(r"^\| \[(\d\d [^]]+)\]\(notebooks/([^)]+)\)", text, re.MULTILINE)
    assert [file for _, file in listed] == NOTEBOOKS
    for title, file in listed:
        assert json.loads(read(f"notebooks/{file}"))["cells"][0]["source"][0] == f"# {title}\n", "one title everywhere"
    for target in re.findall(r"\]\(([^)]+)\)", text) + re.findall(r'src(?:set)?="([^"]+)"', text):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target
    words = re.findall(r'alt="([^"]*)"', text) + re.findall(r"!\[([^\]]*)\]\((?!http)", text)
    assert len(words) == 2 and all(len(alt) > 20 for alt in words)


@both
def test_the_picture_shows_the_records_of_today_by_day_and_by_night(name):
    files = [ROOT / file for file in re.findall(r'src(?:set)?="([^"]+png)"', read(name))]
    assert files == [pictures.path_of(look, narrow) for narrow in (True, False) for look in ("dark", "light")]
    assert {Image.open(file).info["Source"] for file in files} == {pictures.fingerprint()}


def table(text: str, first: str) -> list[list[str]]:
    """The cells of a Markdown table, row by row; `first` is how its head begins."""
    _, found, rest = text.partition(f"| {first} |")
    rows = rest.split("\n\n")[0].splitlines()[2:]
    assert found and rows, first
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]


def test_speeds_are_those_of_the_recorded_benchmarks():
    names = ("step, against TRL as it comes", "step, against TRL in the same precision")
    names += ("evaluation, against one at a time", "floor of this machine, against the step")
    files = sorted((ROOT / "data/runs").glob("bench-small*/run.json"))
    found = [json.loads(path.read_text())["ratios"] for path in files]
    rows = table(read("data/README.md"), "speed on `small`, times as fast")
    for column, three in enumerate((found[:3], found[3:]), start=1):  # AMD, Intel
        spread = [sorted(ratios[key] for ratios in three) for key in names]
        assert [row[column] for row in rows] == [f"{m:.1f} ({low:.1f}-{high:.1f})" for low, m, high in spread]


def test_every_recorded_run_is_in_the_table_with_the_notebooks_that_read_it():
    folders = [path.parent.name for path in (ROOT / "data/runs").glob("*/run.json")]
    matched = []
    for pattern, _, notebooks, command, _ in table(read("data/README.md"), "folders in `runs/`"):
        mine = [name for name in folders if fnmatch(name, pattern.strip("`"))]
        assert mine, f"nothing is recorded under {pattern}"
        matched += mine
        assert all([n for n in NOTEBOOKS if n.startswith(number)] for number in notebooks.split(", ")), pattern
        assert command.startswith(("`make ", "`python ")), pattern
    assert sorted(matched) == sorted(folders)


def test_commands_exist():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for name in (ENGLISH, CHINESE, "CONTRIBUTING.md"):
        used = set(re.findall(r"(?:`|^)make ([\w-]+)", read(name), re.MULTILINE))
        assert used and used <= targets, f"{name}: {used - targets}"
