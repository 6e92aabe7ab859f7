"""The README's picture by day and by night, wide and narrow, from recorded runs: python tests/tools/pictures.py

One held-out question before and after, six of them along the training, and all of them with intervals.
"""

from __future__ import annotations

import hashlib
import textwrap
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd

from grpo_helpers.plotting import BLUE, GREY, ORANGE
from grpo_helpers.profiles import DATA

RUNS = [DATA / "runs" / f"tiny-{seed}" for seed in (1, 2, 3)]
SOURCES = [run / "comparison.csv" for run in RUNS] + [
    RUNS[0] / f"{name}.jsonl" for name in ("samples", "before", "after")
]
LOOKS = {"light": {"page": "#ffffff", "ink": "#1f2328"}, "dark": {"page": "#0d1117", "ink": "#e6edf3"}}


def path_of(look: str, narrow: bool = False) -> Path:
    return DATA / "pictures" / f"hero-{'narrow-' if narrow else ''}{look}.png"


def fingerprint() -> str:
    """SHA-256 over the records that the picture shows; kept in the picture, so that a test sees when it is old."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in SOURCES)).hexdigest()


def reply(ax: plt.Axes) -> None:
    """The first problem of three steps that went from wrong to right, and both replies to it."""
    before, after = (pd.read_json(RUNS[0] / f"{when}.jsonl", lines=True) for when in ("before", "after"))
    won = after["strict"] & ~before["flexible"] & (after["completion"].str.count("=") == 3)
    i = won.idxmax()
    ax.axis("off")
    ax.text(0, 0.97, textwrap.fill(after["question"][i], 50), va="top")
    ax.text(0, 0.70, "× before", va="top", weight="bold")
    ax.text(0, 0.63, before["completion"][i], va="top", family="monospace")
    ax.text(0, 0.52, "✓ after", va="top", weight="bold")
    ax.text(0, 0.45, after["completion"][i], va="top", family="monospace")


def grid(ax: plt.Axes, samples: pd.DataFrame) -> None:
    """A row a question, a column a moment of the training."""
    ax.grid(visible=False)
    verdicts = samples.pivot_table(index="question", columns="step", values="strict", sort=False).astype(bool)
    for y, (_, row) in enumerate(verdicts.iterrows()):
        for x, right in enumerate(row):
            look = {"color": BLUE} if right else {"color": GREY, "alpha": 0.35}
            ax.add_patch(plt.Rectangle((x + 0.06, y + 0.08), 0.88, 0.84, **look))
            ax.text(
                x + 0.5, y + 0.52, "✓" if right else "×", ha="center", va="center", color="white" if right else None
            )
    steps = list(verdicts.columns)
    ax.set(xlim=(0, len(steps)), ylim=(len(verdicts), 0), yticks=[])
    ax.set_xticks([0.5, len(steps) / 2, len(steps) - 0.5], [steps[0], steps[len(steps) // 2], steps[-1]])
    ax.set_xlabel("step of the training")
    ax.set_title("Six unseen problems at every tenth of the training", fontsize=11)
    for side in ax.spines.values():
        side.set_visible(False)
    ax.tick_params(length=0)


def rates(ax: plt.Axes) -> None:
    """Right and in the layout, of all held-out questions, with 95 % Wilson intervals."""
    tables = [pd.read_csv(run / "comparison.csv").iloc[0] for run in RUNS]
    for y, row in enumerate(tables):
        for when, colour, marker in (("before", BLUE, "o"), ("after", ORANGE, "s")):
            low, rate, high = (100 * row[f"{when}{end}"] for end in ("_low", "", "_high"))
            ax.plot([low, high], [y, y], "-", color=colour, linewidth=2)
            ax.plot(rate, y, marker, color=colour, markersize=8)
            if y == 0:
                ax.annotate(when, (rate, y), (0, 9), textcoords="offset points", ha="center", fontsize=10)
    ax.set(xlim=(0, 100), ylim=(2.5, -0.7), xlabel=f"% of {tables[0]['n']} unseen problems, 95 % interval")
    ax.set_yticks(range(3), [f"seed {seed}" for seed in (1, 2, 3)])
    ax.set_title("Right, and in the requested layout", fontsize=11)
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
    ax.grid(visible=False, axis="y")


def draw(look: str, narrow: bool = False) -> None:
    page, ink = LOOKS[look]["page"], LOOKS[look]["ink"]
    colours = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.edgecolor"), ink)
    with plt.rc_context(colours | {"figure.facecolor": page, "axes.facecolor": page, "font.size": 10}):
        samples, row = (
            pd.read_json(RUNS[0] / "samples.jsonl", lines=True),
            pd.read_csv(RUNS[0] / "comparison.csv").iloc[0],
        )
        figure = plt.figure(figsize=(4.3, 8.2) if narrow else (10, 4.6), layout="constrained")
        first, others = (
            figure.subfigures(2, 1, height_ratios=(0.85, 1))
            if narrow
            else figure.subfigures(1, 2, width_ratios=(0.8, 1))
        )
        title = (
            f"{samples['step'].max()} steps of GRPO on two CPU cores: from {100 * row['before']:.1f} to "
            f"{100 * row['after']:.1f} % right on {row['n']} unseen problems"
        )
        figure.suptitle(textwrap.fill(title, 38) if narrow else title, weight="bold")
        reply(first.subplots())
        above, below = others.subplots(2, 1, height_ratios=(1.25, 1))
        grid(above, samples)
        rates(below)
        figure.savefig(path_of(look, narrow), dpi=160, metadata={"Source": fingerprint()})
        plt.close(figure)


if __name__ == "__main__":
    for name in LOOKS:
        draw(name)
        draw(name, narrow=True)
