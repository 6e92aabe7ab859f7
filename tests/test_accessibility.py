"""Colours that colour-blind readers can tell apart, and a sentence for every figure."""

import base64
import io
import itertools
import re
from types import SimpleNamespace

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
from IPython.core.interactiveshell import InteractiveShell
from matplotlib.colors import to_rgb
from PIL import Image

from grpo_helpers import plotting
from grpo_helpers.plotting import _alt, _style
from grpo_helpers.profiles import ROOT
from grpo_helpers.records import RUNS
from tests.cells import definitions
from tests.tools.clean_notebooks import smaller

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
    c = np.array(to_rgb(colour))
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


def test_colours_can_be_told_apart_and_stand_out_from_the_page():
    for vision in VISION:
        difference, a, b = closest(COLOURS, vision)
        assert difference >= TOLD_APART, f"{a} and {b} differ by {difference:.1f} with {vision}"
    for name in COLOURS.keys() - {"white"}:
        assert 1.05 / (XYZ[1] @ linear(COLOURS[name]) + 0.05) >= ON_WHITE, name
    assert closest({"red": "#A00000", "green": "#006000"}, "deuteranopia")[0] < TOLD_APART, "the measure knows them"


HISTORY = pd.DataFrame({"step": [1, 2, 3], "reward": [0.5, 1, 2], "kl": [0, 0.1, 0.2], "loss": [0, 0.1, -0.1]})
TABLE = pd.DataFrame([[0, 1.0], [2, 0]], index=["right", "wrong"], columns=["layout", "number"])


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


@pytest.mark.parametrize(
    "figure, kind, words",
    [
        (lambda: plotting.plot_history(HISTORY, "A run"), "Line chart", ["A run", "optimizer step", "2 panels", "KL"]),
        (lambda: TABLE.plot.hist(title="t").figure, "Histogram", ["series: layout, number"]),
        (lambda: plotting.plot_reward_matrix(TABLE, "Who pays what"), "Table", ["Who pays what", "for right, wrong"]),
        (lambda: TABLE.plot.barh(title="t").figure, "Bar chart", ["for right, wrong", "series: layout, number"]),
        (lambda: plotting.plot_kinds(TABLE.set_axis(["before", "after"], axis=1), "t"), "Bar chart", ["replies, of 2"]),
        (lambda: plotting.plot_intervals({"mine": (3, 9)}, "t"), "Dot plot", ["95 % Wilson interval", "mine 3 of 9"]),
        (
            lambda: plotting.plot_signals({"A": HISTORY, "B": HISTORY}, "t", ["reward", "entropy"]),
            "Line chart",
            ["total reward [mean reward (points)]", "series: A, B"],
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


@pytest.mark.parametrize(("more", "named"), [(0, True), (1, False)])
def test_long_rows_of_names_are_left_out(more, named):
    words = ["word"] * (_alt.MOST_NAMES + more)
    sentence = plotting.describe(pd.Series(1.0, words).plot.bar(title="t", ylabel="nats").figure)
    assert sentence.startswith("Bar chart") and ("for word" in sentence) is named


def test_series_are_told_apart_without_colour():
    ax = TABLE.plot.bar()
    plotting.hatch(ax)
    assert len({bars[0].get_hatch() for bars in ax.containers}) == 2 and ax.get_legend()
    rates = pd.DataFrame({f"{name}{end}": [0.5] for name in "ab" for end in ("", "_low", "_high")})
    marks = plotting.plot_rates(rates, {"a": "one", "b": "two"}).axes[0].containers
    assert len({bar.lines[0].get_marker() for bar in marks}) == 2
    assert len({line.get_linestyle() for line in TABLE.plot.line().lines}) == 2
    assert len(plotting.LOOKS) == len({str(look["linestyle"]) for look in plotting.LOOKS}) == 6


def test_a_rate_is_drawn_with_its_interval_in_per_cent():
    table = pd.DataFrame({"a": [0.5, 1.0], "a_low": [0.25, 0.75], "a_high": [0.75, 1.0]}, index=["x", "y"])
    (ax,) = plotting.plot_rates(table, {"a": "right"}).axes
    dots, _, (bars,) = ax.containers[0].lines
    assert dots.get_xydata().tolist() == [[50, 0], [100, 1]]
    assert [segment[:, 0].tolist() for segment in bars.get_segments()] == [[25, 75], [75, 100]]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["x", "y"]


def test_a_panel_says_that_nothing_was_logged_and_a_single_run_shows_every_step():
    reward, entropy = plotting.plot_signals({"A": HISTORY}, "t", ["reward", "entropy"]).axes
    assert [line.get_ydata().tolist() for line in reward.lines] == [[0.5, 1, 2], [3.5 / 3] * 3]
    assert [text.get_text() for text in entropy.texts] == ["not logged"]
    (eight,) = plotting.plot_signals({f"run {i}": HISTORY for i in range(8)}, "t", ["reward"]).axes
    assert len(eight.lines) == 16, "more runs than line styles"


def test_the_figure_of_a_run_begins_with_what_was_learned_and_marks_the_most_there_is():
    history = pd.read_csv(RUNS / "tiny-1" / "history.csv")
    panels = {ax.get_title(): ax for ax in plotting.plot_rewards(history, "t").axes}
    assert list(panels)[:3] == ["correctness", "mean completion length", "completions with a calculation"]
    dashed = {n: [x.get_ydata()[0] for x in ax.lines if x.get_linestyle() == "--"] for n, ax in panels.items()}
    assert dashed["correctness"] == [2.0] and dashed["total reward"] == [4.0] and dashed["int"] == [0.5]
    assert dashed["mean completion length"] == []
    other = history.rename(columns={"rewards/int_reward_func/mean": "rewards/mine/mean"})
    assert not [line for line in plotting.plot_rewards(other, "t").axes[3].lines if line.get_linestyle() == "--"]


def test_a_grid_shows_the_mean_of_its_seeds_and_their_range():
    draw = definitions("08_experiments", "plot_grid").plot_grid
    runs = {"seed": [1, 1, 2, 2], "completions": [0, 64] * 2, "seconds": [0, 0.64] * 2, "flexible": [0, 0.5, 0.1, 0.9]}
    curves = pd.DataFrame(runs).assign(setting="usual", tokens=9)
    rates, lengths = draw(curves, "t", ("flexible", "tokens"), x="seconds").axes
    assert rates.lines[0].get_xydata().ravel() == pytest.approx([0, 5, 0.64, 70]) and "(s)" in rates.get_xlabel()
    assert rates.collections[0].get_datalim(rates.transData).y1 == pytest.approx(90)
    assert lengths.lines[0].get_ydata().tolist() == [9, 9]


def test_in_a_notebook_the_picture_carries_the_sentence(monkeypatch):
    shell = InteractiveShell()
    monkeypatch.setattr(_alt, "sys", SimpleNamespace(modules={"IPython": SimpleNamespace(get_ipython=lambda: shell)}))
    _alt.register()
    figure = plotting.plot_history(HISTORY, "A run")
    data, metadata = shell.display_formatter.format(figure)
    assert data["text/plain"] == metadata["image/png"]["alt"] == plotting.describe(figure)
    pixels = Image.open(io.BytesIO(base64.b64decode(data["image/png"]))).width
    assert pixels // 2 == metadata["image/png"]["width"] > 400, "twice as sharp as it is large"


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_every_committed_figure_has_its_sentence(path):
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    # a title and what is drawn against what; notebook 00 writes its own
    told = r"Two line charts over .+: .+" if path.stem.startswith("00") else r"[^“]+“[^”]+”: [^;]{3,}.*"
    figures = [(cell.id, output) for cell in cells for output in cell.outputs if "image/png" in output.get("data", {})]
    mute = [cell for cell, x in figures if not re.fullmatch(told, x.metadata.get("image/png", {}).get("alt", ""))]
    assert not mute, f"figures without a whole sentence in {mute}: execute the notebook again"


ENTRY = re.compile(r"^- \*\*([^*]+)\*\*: (.+?) \(\[(\d\d)\]\((\S+\.ipynb)\)\)$")


def test_the_glossary_is_short_sorted_one_sentence_each_and_names_a_notebook_that_uses_the_term():
    text = (ROOT / "notebooks" / "glossary.md").read_text()
    entries = [re.sub(r"\s*\n\s+", " ", item) for item in re.findall(r"^- .*(?:\n  .*)*", text, flags=re.MULTILINE)]
    assert [entry for entry in entries if not ENTRY.match(entry)] == []
    found = [ENTRY.match(entry).groups() for entry in entries]
    terms = [term.lower() for term, *_ in found]
    assert 20 <= len(terms) <= 55 and terms == sorted(set(terms))
    for term, sentence, number, name in found:
        assert re.fullmatch(r"[^.]+\.", sentence) and name.startswith(number)
        cells = nbformat.read(ROOT / "notebooks" / name, as_version=4).cells
        prose = " ".join(cell.source for cell in cells if cell.cell_type == "markdown").lower()
        assert re.search(rf"\b{re.escape(term.split()[0].lower())}", prose), f"{term} in {name}"


def test_a_stored_picture_keeps_the_colours_of_thin_lines_and_pale_bands():
    figure, ax = plt.subplots()
    for height, look in enumerate(plotting.LOOKS):
        ax.plot([0, 1], [height, height + 1], **look)
        ax.fill_between([0, 1], height, height + 0.3, color=look["color"], alpha=0.13, linewidth=0)
    figure.savefig(png := io.BytesIO())
    stored = Image.open(io.BytesIO(base64.b64decode(smaller(base64.b64encode(png.getvalue()).decode()))))
    found = np.array([colour for _, colour in stored.convert("RGB").getcolors()])
    for colour, alpha in itertools.product(COLOURS.values(), (1, 0.13)):  # lines, and bands
        there = 255 * (1 - alpha + alpha * np.array(to_rgb(colour)))
        assert np.abs(found - there).max(axis=1).min() <= 2, (colour, alpha)
