"""Two replies to the same question beside each other, the differing part marked, as HTML for a notebook."""

import re
from collections.abc import Iterable
from difflib import SequenceMatcher
from html import escape

from IPython.display import HTML


def marked(before: str, after: str) -> tuple[str, str]:
    """Both texts as HTML: words only in the first inside <del>, words only in the second inside <ins>.

    Struck out and underlined, so that it can be read without colour and survives where styles are removed.

    >>> marked("about 3 & 4", "about 5")
    ('about <del>3 &amp; 4</del>', 'about <ins>5</ins>')
    """
    a, b = (re.findall(r"</?\w+>|\n|[^\S\n]+|[\w.,]+|[^\w\s]", text) for text in (before, after))
    sides: tuple[list[str], list[str]] = ([], [])
    for what, a0, a1, b0, b1 in SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        for side, tag, words in zip(sides, ("del", "ins"), (a[a0:a1], b[b0:b1]), strict=True):
            text = escape("".join(words)).replace("\n", "<br>")
            side.append(text if what == "equal" or not text else f"<{tag}>{text}</{tag}>")
    return "".join(sides[0]), "".join(sides[1])


def side_by_side(rows: Iterable[tuple[str, str, str]], names: tuple[str, str] = ("before", "after")) -> HTML:
    """A table of (heading, text, text): the two texts beside each other, under their heading, differences marked."""
    left = 'style="text-align: left; vertical-align: top; width: 50%"'
    cells = ["<tr>", *(f"<th {left}>{escape(name)}</th>" for name in names), "</tr>"]
    for heading, *texts in rows:
        cells.append(f'<tr><td colspan="2" style="text-align: left"><b>{escape(heading)}</b></td></tr><tr>')
        cells += [f"<td {left}>{text}</td>" for text in marked(*texts)] + ["</tr>"]
    # A dollar is money here: without the class Jupyter would set what stands between two of them as a formula.
    return HTML(f'<table class="tex2jax_ignore mathjax_ignore" style="width: 100%">{"".join(cells)}</table>')
