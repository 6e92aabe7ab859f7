"""Tidy executed notebooks for committing: no stderr, no widgets, no timings, finished progress bars, small pictures.

    python tests/tools/clean_notebooks.py [--executed] NOTEBOOK ...

With --executed, said by whoever has just run them from top to bottom, each also gets a fingerprint of the code that
made its outputs; a test fails once the code is another.
"""

import argparse
import base64
import hashlib
import io

import nbformat
import numpy as np
from PIL import Image, ImageChops


def last_line_state(text: str) -> str:
    """What a terminal would show: of a line rewritten with carriage returns, only the last state."""
    return "\n".join(line.rstrip("\r").rsplit("\r", 1)[-1] for line in text.split("\n"))


def smaller(png: str) -> str:
    """The same picture (base64) in few colours, if that is shorter: charts have few, and notebooks a size limit.

    As many as move less than a twentieth of its pixels by more than 8 of 255. (Median cut, Pillow's default, makes one
    colour of a thin blue and a thin green line.)
    """
    buffer = io.BytesIO()
    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    for colours in (40, 96, 128, 192):
        few = picture.quantize(colours, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        if (np.asarray(ImageChops.difference(picture, few.convert("RGB"))).max(axis=2) > 8).mean() < 0.05:
            break
    few.save(buffer, "PNG", optimize=True)
    return min(png, base64.b64encode(buffer.getvalue()).decode(), key=len)


def joined(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Neighbouring pieces of one stream as one: a kernel flushes a progress bar bit by bit."""
    kept: list[nbformat.NotebookNode] = []
    for output in outputs:
        if kept and output.output_type == "stream" == kept[-1].output_type and output.name == kept[-1].name:
            kept[-1].text += output.text
        else:
            kept.append(output)
    return kept


def clean(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook with only what a reader should see; changes it in place."""
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type != "code":
            continue
        shown = [o for o in cell.outputs if o.get("name") != "stderr"]
        cell.outputs = joined([o for o in shown if not any("widget" in kind for kind in o.get("data", {}))])
        for output in cell.outputs:
            if output.output_type == "stream":
                output.text = last_line_state(output.text)
            if "image/png" in output.get("data", {}):
                output.data["image/png"] = smaller(output.data["image/png"])
    return notebook


def fingerprint(notebook: nbformat.NotebookNode) -> str:
    """Of all code but the set-up cell, which `make publish` rewrites and which shows nothing."""
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code" and cell.id != "setup"]
    return hashlib.sha256("\0".join(code).encode()).hexdigest()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--executed", action="store_true", help="they were just run, all cells, as they are")
    parser.add_argument("notebooks", nargs="+")
    arguments = parser.parse_args()
    for path in arguments.notebooks:
        notebook = clean(nbformat.read(path, as_version=4))
        if arguments.executed:
            notebook.metadata["made_by"] = fingerprint(notebook)
        nbformat.write(notebook, path)
