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
from PIL import Image

AREA = 0.0005  # of a picture: a colour that fills as much is not changed


def last_line_state(text: str) -> str:
    """What a terminal would show: of a line rewritten with carriage returns, only the last state."""
    return "\n".join(line.rstrip("\r").rsplit("\r", 1)[-1] for line in text.split("\n"))


def smaller(png: str) -> str:
    """The same picture (base64) in few colours, if that is shorter: charts have few, and notebooks a size limit.

    The colours of areas stay as they are, so that a pale band keeps its hue, with as many others as move less than a
    twentieth of the pixels by more than 8 of 255. (Median cut makes one colour of a thin blue and green line.)
    """
    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    found, place, count = np.unique(np.asarray(picture) @ (1 << 16, 1 << 8, 1), return_inverse=True, return_counts=True)
    found = found[:, None] >> (16, 8, 0) & 255
    areas = found[count > AREA * count.sum()][:64]
    for others in (16, 40, 72, 104, 168):
        rest = picture.quantize(others, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).getpalette()
        palette = np.vstack([areas, np.reshape(rest[: 3 * others], (-1, 3))])
        apart = np.abs(found[:, None] - palette).max(axis=2)  # Pillow's own search is off by some: white turns grey
        if count[apart.min(axis=1) > 8].sum() < 0.05 * count.sum():
            break
    few = Image.fromarray(apart.argmin(axis=1)[place].reshape(picture.size[::-1]).astype(np.uint8))
    few.putpalette(palette.flatten().tolist())
    few.save(buffer := io.BytesIO(), "PNG", optimize=True)
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
