"""Each number in a notebook's prose stands in the code, an output above it or a record that it names, or a source."""

import json
import re
from functools import cache

import nbformat
import pandas as pd
import pytest

from grpo_helpers.mistakes import false_sums
from grpo_helpers.profiles import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
THOUSANDS = r"\d{1,3}(?:,\d{3})+(?!\d)"  # 12,345: any other comma stands between two numbers
NUMBER = re.compile(rf"(?<![\w.#/^-])(?:{THOUSANDS}|\d+)(?:\.\d+)?(?![\w^])")
LONG = 300  # lines; a longer table holds every number there is
NEAR = 2  # so many cells of code above are looked at
COUNTED = 12  # whole numbers up to here are counts of things in sight, written as digits, but for per cent
NAMED = r"(?:notebooks?|[Ss]ections?|[Ee]xercises?|seeds?|questions?|version|TRL|Python|cell)"
NO_PROSE = (  # what is no claim: code, formulas, addresses, headings, names of things
    *(r"```.*?```", r"`[^`]*`", r"\$\$.*?\$\$", r"\$[^$\n]*\$", r"\]\([^)]*\)", r"^#+ .*$", r"<summary>.*?</summary>"),
    rf"\b{NAMED} \d[\d.]*(?:(?:, | and | to | or )\d[\d.]*)*",
    r"\b(?:0\d|1[0-9])(?=[,.;:)]| and \d\d\b| to \d\d\b)",
    r"\b\d+-bit\b",
)
# A sentence with its source: a paper, a thread, a site, an author with a year
SOURCE = re.compile(
    r"arXiv|theLMbook|\w#\d+|https?:|\w\.(?:io|org|com)\b|[A-Z]\w+,? (?:et al\.?,? )?\(?(?:19|20)\d\d|§|section \d"
)
# What stands in no cell: (notebook, number) → why it may be said
FORMULA, CURVE, BELOW = "the formula beside it", "the figure above", "asserted below"
ALLOWED = {
    ("02", "0.02"): FORMULA, ("02", "64"): FORMULA, ("02", "0.27"): FORMULA, ("02", "0.85"): FORMULA,
    ("03", "1.68"): "1.05 + 0.63", ("03", "0.42"): "1.05 - 0.63",
    ("04", "1.008"): "1 + 2^-7, bfloat16's next number", ("06", "3.1"): BELOW,
    ("06", "3.5"): BELOW, ("08", "252"): FORMULA, ("10", "28"): "4 * 7", ("10", "0.4"): CURVE,
    ("11", "120"): "60 + 60", ("11", "470"): "seen when it was installed",
}  # fmt: skip


def numbers(text: str) -> set[str]:
    return {found.replace(",", "") for found in NUMBER.findall(text)}


def values(text: str, thousands: str = rf"(?<![\d,.]){THOUSANDS}|") -> list[float]:  # "" for a file's columns
    found = re.findall(rf"(?:{thousands}\d+)(?:\.\d+)?(?:e[+-]?\d+)?", text)
    return [float(number.replace(",", "")) for number in found]


@cache
def recorded(pattern: str) -> tuple[float, ...]:
    """All numbers in the tables and facts of the runs that `pattern` names, as `tiny-1` and `grid_*` do."""
    files = [path for kind in ("csv", "json") for path in (ROOT / "data" / "runs").glob(f"{pattern}/*.{kind}")]
    texts = [path.read_text(encoding="utf-8") for path in files if path.name != "history.csv"]
    return tuple(number for text in texts if text.count("\n") < LONG for number in values(text, ""))


def records_named(text: str) -> list[str]:
    """Patterns of the records that a text names: `data/runs/tiny-1` to `tiny-3` are all of tiny's."""
    named = re.findall(r"data/runs/([\w-]+)|records\.load\(\"(\w+)\"|\"(grid_\w+)\"", text)
    return sorted({re.sub(r"-?\d*$", "", "".join(name)) + "*" for name in named})


def is_among(number: str, shown: set[float]) -> bool:
    """Whether a value shown is the number, or rounds to it, as it is or in per cent."""
    value, digits = float(number), len(number.partition(".")[2])
    return any(abs(round(unit * x, digits) - value) < 1e-9 for x in shown for unit in (1, 100))


def unfounded(path) -> list[tuple[str, str]]:
    """(number, sentence) for each number of the notebook's prose that is found nowhere."""
    cells = nbformat.read(path, as_version=4).cells
    code = [x for cell in cells if cell.cell_type == "code" for x in values(cell.source)]
    above: list[list[float]] = []
    records: list[set[float]] = [set(), set()]  # named in the section before, and in this one
    missing = []
    for cell in cells[1:]:  # the first has times, which are estimates
        if cell.cell_type == "markdown" and re.search("^## ", cell.source, re.MULTILINE):
            records = [records[1], set()]
        records[1] |= {x for name in records_named(cell.source) for x in recorded(name)}
        if cell.cell_type == "code":
            said = [
                output.get("text", "") + str(output.get("data", {}).get("text/plain", "")) for output in cell.outputs
            ]
            above.append(values(" ".join(said)))
            continue
        if "## References" in cell.source:
            continue
        shown = {*code, *(x for part in above[-NEAR:] for x in part)}
        prose = cell.source
        for pattern in NO_PROSE:
            prose = re.sub(pattern, " ", prose, flags=re.DOTALL | re.MULTILINE)
        for sentence in re.split(r"(?<=[.!?:])\s+(?=[A-Z*|])|\n\n|\n\|", prose):
            if SOURCE.search(sentence):
                continue
            for number in sorted(numbers(sentence)):
                small = "." not in number and float(number) <= COUNTED and not re.search(rf"\b{number} ?%", sentence)
                if not small and not is_among(number, shown.union(*records)):
                    missing.append((number, " ".join(sentence.split())))
    return missing


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_every_number_of_the_prose_has_a_ground(path):
    name, found = path.stem[:2], unfounded(path)
    missing = [(number, text) for number, text in found if (name, number) not in ALLOWED]
    assert not missing, json.dumps(missing, indent=1, ensure_ascii=False)
    idle = {number for notebook, number in ALLOWED if notebook == name} - {number for number, _ in found}
    assert not idle, f"{idle}: allowed, and no longer said or found by now; take it off the list"


def test_what_is_said_and_stands_nowhere_is_found(tmp_path):
    code, markdown = nbformat.v4.new_code_cell, nbformat.v4.new_markdown_cell
    made = [markdown("# Title"), code("RATE = 0.003"), markdown("At 0.003 it ends at 76.5 %, not at 81.2 %.")]
    made[1].outputs = [nbformat.v4.new_output("stream", text="right: 0.765")]
    nbformat.write(nbformat.v4.new_notebook(cells=made), tmp_path / "00.ipynb")
    assert [number for number, _ in unfounded(tmp_path / "00.ipynb")] == ["81.2"]


def test_a_comma_belongs_to_a_number_only_before_three_digits():
    assert values("12,345 of 1,234,567.5, (1,2), 0.5,250 and 1,23") == [12345, 1234567.5, 1, 2, 0.5, 250, 1, 23]
    assert values("12,345,0.5", "") == [12, 345, 0.5]
    assert numbers("from 2,000 to 10,200.5, seeds 7,8") == {"2000", "10200.5", "7", "8"}


def test_numbers_that_are_allowed_because_they_were_counted_elsewhere():
    replies = [*ROOT.glob("data/runs/small-1/before.jsonl"), *ROOT.glob("data/runs/small-[1-3]/after.jsonl")]
    tables = [pd.read_json(path, lines=True) for path in replies]
    rates = pd.Series([table["flexible"].mean() for table in tables[1:]])
    assert (round(100 * rates.std(), 1), round((50 * rates.mean() * (1 - rates.mean())) ** 0.5, 1)) == (3.1, 3.5)
    wrong = [t["completion"][~t["flexible"] & ~t["truncated"]].map(false_sums).map(bool).sum() for t in tables]
    assert (wrong[0], min(wrong[1:]), max(wrong[1:])) == (98, 68, 72)
