"""Colours that colour-blind readers can tell apart, and a sentence for every figure."""

import base64
import itertools
import json
import re
from types import SimpleNamespace

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
from IPython.core.interactiveshell import InteractiveShell

from grpo_helpers import plotting
from grpo_helpers.plotting import _alt, _style
from grpo_helpers.profiles import ROOT
from tests.tools.clean_notebooks import clean

COLOURS = {name: getattr(_style, name) for name in ("BLUE", "ORANGE", "GREEN", "PURPLE", "GREY")} | {"white": "#FFFFFF"}
# Linear RGB as seen without one kind of cone: Machado, Oliveira and Fernandes, "A Physiologically-based Model for
# Simulation of Color Vision Deficiency", 2009, table 1, severity 1.
VISION = {
    "typical": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])  # of sRGB, IEC 61966-2-1
TOLD_APART = 15  # CIE 1976 colour difference; about 2 is just noticeable side by side
ON_WHITE = 2.9  # contrast ratio (WCAG 2.2, 1.4.11 asks 3 of lines; hatches, markers and line styles help here)


def linear(colour):
    """Linear RGB of "#rrggbb"."""
    c = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    """CIE L*a*b* of linear RGB, white point D65."""
    x = XYZ @ np.clip(rgb, 0, 1) / XYZ.sum(axis=1)
    f = np.where(x > (6 / 29) ** 3, np.cbrt(x), x / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def closest(colours, vision):
    """The pair of colours that is hardest to tell apart, and its difference."""
    seen = {name: lab(np.array(VISION[vision]) @ linear(colour)) for name, colour in colours.items()}
    return min((float(np.linalg.norm(seen[a] - seen[b])), a, b) for a, b in itertools.combinations(seen, 2))


@pytest.mark.parametrize("vision", VISION)
def test_colours_can_be_told_apart(vision):
    difference, a, b = closest(COLOURS, vision)
    assert difference >= TOLD_APART, f"{a} and {b} differ by {difference:.1f} with {vision}"


@pytest.mark.parametrize("name", [name for name in COLOURS if name != "white"])
def test_colours_stand_out_from_the_page(name):
    assert 1.05 / (XYZ[1] @ linear(COLOURS[name]) + 0.05) >= ON_WHITE


def test_the_measure_knows_pure_red_and_green():
    colours = {"red": "#A00000", "green": "#006000"}
    assert closest(colours, "deuteranopia")[0] < 0.5 * closest(colours, "typical")[0]
    assert lab(linear("#FFFFFF")) == pytest.approx([100, 0, 0], abs=0.02)


# --- a sentence for every figure --------------------------------------------

HISTORY = pd.DataFrame({"step": [1, 2, 3], "reward": [0.5, 1, 2], "kl": [0, 0.1, 0.2], "loss": [0, 0.1, -0.1]})
TABLE = pd.DataFrame([[0, 1.0], [2, 0]], index=["right", "wrong"], columns=["layout", "number"])


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


@pytest.mark.parametrize(
    "figure, kind, words",
    [
        (
            lambda: plotting.plot_history(HISTORY),
            "Line chart",
            ["Training history", "optimizer step", "2 panels", "KL"],
        ),
        (lambda: plotting.plot_lengths({"prompts": [3, 4, 9]}, {"prompts": 12}), "Histogram", ["length (tokens)"]),
        (lambda: plotting.plot_reward_matrix(TABLE), "Table", ["Who pays what", "for right, wrong"]),
        (lambda: plotting.plot_bars({"a": TABLE}, "x", "points", "t"), "Bar chart", ["series: layout, number"]),
        (lambda: plotting.plot_advantages(TABLE), "Bar chart", ["completion against advantage", "right, wrong"]),
        (lambda: plotting.plot_intervals({"mine": (3, 9)}), "Dot plot", ["95 % Wilson interval", "mine 3 of 9"]),
        (
            lambda: plotting.plot_signals({"A": HISTORY}, ["reward", "entropy"]),
            "Line chart",
            ["total reward [mean reward (points)]"],
        ),
        (lambda: plt.figure("", (1, 1)).add_subplot().add_patch(plt.Circle((0, 0), 1)).figure, "Diagram", []),
        (plt.figure, "Empty figure", []),
    ],
)
def test_a_figure_says_what_it_shows(figure, kind, words):
    sentence = plotting.describe(figure())
    assert sentence.startswith(kind)
    assert all(word in sentence for word in words), sentence
    assert re.fullmatch(r"[^\n]+[^.:,;\s]\.", sentence)


def test_long_rows_of_names_are_left_out():
    short, long = (plotting.plot_tokens(["word"] * n, [1.0] * n, "nats", "t") for n in (3, _alt.MOST_NAMES + 1))
    assert "for word" in plotting.describe(short)
    assert "for word" not in plotting.describe(long)


def test_in_a_notebook_the_picture_carries_the_sentence(monkeypatch):
    shell = InteractiveShell()
    monkeypatch.setattr(_alt, "sys", SimpleNamespace(modules={"IPython": SimpleNamespace(get_ipython=lambda: shell)}))
    _alt.register()
    figure = plotting.plot_history(HISTORY)
    data, metadata = shell.display_formatter.format(figure)
    assert data["text/plain"] == metadata["image/png"]["alt"] == plotting.describe(figure)


def test_outside_a_notebook_nothing_happens(monkeypatch):
    monkeypatch.setattr(_alt, "sys", SimpleNamespace(modules={}))
    _alt.register()
    monkeypatch.setattr(_alt, "sys", SimpleNamespace(modules={"IPython": SimpleNamespace(get_ipython=lambda: None)}))
    _alt.register()


def test_cleaning_a_notebook_keeps_the_sentence():
    dot = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    assert base64.b64decode(dot).startswith(b"\x89PNG")
    output = nbformat.v4.new_output("display_data", {"image/png": dot}, metadata={"image/png": {"alt": "A dot."}})
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("", outputs=[output])])
    assert clean(notebook).cells[0].outputs[0].metadata["image/png"]["alt"] == "A dot."


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_every_committed_figure_has_its_sentence(path):
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    figures = [(cell.id, output) for cell in cells for output in cell.outputs if "image/png" in output.get("data", {})]
    mute = [cell for cell, output in figures if len(output.metadata.get("image/png", {}).get("alt", "")) < 20]
    assert not mute, f"figures without a sentence in {mute}: execute the notebook again"


# --- the glossary -----------------------------------------------------------

ENTRY = re.compile(r"^- \*\*([^*]+)\*\*: (.+?) \(\[(\d\d)\]\((\S+\.ipynb)\)\)$")


def entries():
    text = (ROOT / "notebooks" / "glossary.md").read_text()
    return [re.sub(r"\s*\n\s+", " ", item) for item in re.findall(r"^- .*(?:\n  .*)*", text, flags=re.MULTILINE)]


def test_the_glossary_is_short_sorted_and_one_sentence_each():
    found = [ENTRY.match(entry) for entry in entries()]
    assert all(found), [entry for entry, match in zip(entries(), found, strict=True) if not match]
    terms = [match[1].lower() for match in found]
    assert 20 <= len(terms) <= 40 and terms == sorted(set(terms))
    assert all(re.fullmatch(r"[^.]+\.", match[2]) for match in found)


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry[4:20])
def test_the_named_notebook_uses_the_term(entry):
    term, _, number, name = ENTRY.match(entry).groups()
    assert name.startswith(number)
    cells = json.loads((ROOT / "notebooks" / name).read_text())["cells"]
    prose = " ".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown").lower()
    assert re.search(rf"\b{re.escape(term.split()[0].lower())}", prose)
