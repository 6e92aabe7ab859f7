"""Tidy executed notebooks for committing: no stderr, no widget state, no timings, finished progress bars only."""

import sys

import nbformat


def last_line_state(text: str) -> str:
    """What a terminal would show: of a line rewritten with carriage returns, only the last state."""
    return "\n".join(line.rstrip("\r").rsplit("\r", 1)[-1] for line in text.split("\n"))


def clean(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook with only what a reader should see; changes it in place."""
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type != "code":
            continue
        cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
        for output in cell.outputs:
            if output.output_type == "stream":
                output.text = last_line_state(output.text)
    return notebook


if __name__ == "__main__":
    for path in sys.argv[1:]:
        nbformat.write(clean(nbformat.read(path, as_version=4)), path)
