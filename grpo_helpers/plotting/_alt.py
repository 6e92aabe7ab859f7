"""A sentence for every figure, for readers who cannot see it: a notebook keeps it beside the picture."""

import math
import re
import sys
from collections.abc import Iterable
from typing import Any

from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.container import BarContainer
from matplotlib.figure import Figure

MOST_NAMES = 12  # a longer row of words under an axis is data, not names


def _kind(ax: Axes) -> str:
    """What a panel is; lines drawn right across it, such as limits, do not count."""
    bars = [c for c in ax.containers if isinstance(c, BarContainer)]
    many = [b for b in bars if len(b) > 1 and b.orientation == "vertical"]
    touching = [b for b in many if math.isclose(b[0].get_x() + b[0].get_width(), b[1].get_x())]
    lines = [line for line in ax.lines if line.get_transform() == ax.transData and line.get_linestyle() != "None"]
    if bars:
        return "histogram" if touching else "bar chart"
    mesh = [c for c in ax.collections if isinstance(c, QuadMesh)]
    drawn = {"table": mesh, "line chart": lines, "dot plot": ax.lines, "diagram": ax.patches}
    return next((kind for kind, artists in drawn.items() if artists), "")


def _names(ax: Axes) -> list[str]:
    """The words along an axis that has words in place of numbers."""
    for axis in (ax.yaxis, ax.xaxis):
        words = [label.get_text() for label in axis.get_ticklabels()]
        if len(words) <= MOST_NAMES and any(re.match(r"[^$\d]*[^\W\d]", word) for word in words):
            return words
    return []


def _listed(words: Iterable[str], between: str = ", ") -> str:
    return between.join(dict.fromkeys(word for word in words if word))


def describe(figure: Figure) -> str:
    """One sentence: kind and title, what is drawn against what, the panels, the names along an axis, the series."""
    panels = figure.axes
    title = figure.get_suptitle() or _listed(ax.get_title() for ax in panels)
    up, across = ([get(ax) for ax in panels] for get in (Axes.get_ylabel, Axes.get_xlabel))
    same = len(set(filter(None, up))) < 2
    below = _listed(across, " or ")
    parts = [" against ".join(filter(None, (_listed(up), below))) if same else f"over {below}"]
    if len(panels) > 1:
        units = [f" [{unit}]" if unit and not same else "" for unit in up]
        titles = (ax.get_title() + unit for ax, unit in zip(panels, units, strict=True))
        parts.append(f"{len(panels)} panels: {_listed(titles)}")
    if names := _listed(name for ax in panels for name in _names(ax)):
        parts.append(f"for {names}")
    if series := _listed(label for ax in panels for label in ax.get_legend_handles_labels()[1]):
        parts.append(f"series: {series}")
    kind = _listed(map(_kind, panels), " and ") or "empty figure"
    heading = f"{kind.capitalize()}, “{title}”" if title else kind.capitalize()
    return " ".join(f"{heading}: {'; '.join(filter(None, parts))}".rstrip(": ").split()) + "."


def register() -> None:
    """In a notebook, every figure shown is sharp and carries its sentence, as text and as the picture's `alt`."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is not None:
        from IPython.core.pylabtools import retina_figure

        def bundle(figure: Figure) -> tuple[dict[str, str], dict[str, dict[str, Any]]] | None:
            shell.display_formatter.formatters["image/png"].pop(Figure, None)  # matplotlib's own, which would go first
            if not figure.axes:
                return None
            picture, size = retina_figure(figure, base64=True)
            sentence = describe(figure)
            return {"text/plain": sentence, "image/png": picture}, {"image/png": {"alt": sentence} | size}

        shell.display_formatter.mimebundle_formatter.for_type(Figure, bundle)
