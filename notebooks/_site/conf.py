"""The reader's site: Sphinx renders the notebooks with the outputs they were committed with; nothing is executed.

Sphinx with MyST-NB and Furo, because all of it is Python from one package index, it is kept up, its search runs in the
browser without a server, and its links between notebooks are checked. (Jupyter Book needs Node since its version 2.)
"""

import base64
import csv
import functools
import html
import json
import re
import sys
import tomllib
from importlib.metadata import distribution
from pathlib import Path

from myst_nb.core.render import NbElementRenderer

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from grpo_helpers.rewards import MAX_REWARD  # noqa: E402

DATA = HERE.parents[1] / "data"
MATHJAX = "mathjax/static/mathjax/es5/tex-svg.js"  # one file, glyphs included: pages work without a network
PROJECT = tomllib.loads((HERE.parents[1] / "pyproject.toml").read_text())["project"]
REPOSITORY = PROJECT.get("urls", {}).get("Repository")  # absent until published

# the cell whose figure is on a notebook's card
CARDS = {
    "00_first_run": "curves",
    "01_grpo_concepts": "def-clip",
    "02_prompts_and_data": "e51a2f86",
    "03_reward_design": "train-patched",
    "04_lora_and_memory": "code-42",
    "05_grpo_training": "code-47",
    "06_evaluation": "b85e02c4",
    "07_reading_training_runs": "length-tiny",
    "08_experiments": "fair-rate",
    "09_scaling_out": "code-12",
    "10_your_own_task": "evaluate",
    "11_tools_and_turns": "code-21",
    "12_rewards_beyond_exact_match": "learned-figure-code",
    "13_alternatives": "costs",
}

project = "GRPO, from the idea to a model you trained"
extensions = ["myst_nb", "sphinx.ext.mathjax", "sphinx_design", "sphinx_copybutton"]
exclude_patterns = ["_site", "**.ipynb_checkpoints", "outputs"]

nb_execution_mode = "off"
nb_render_markdown_format = "myst"  # links in what a cell prints lead to pages, too
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = "GRPO notebooks"
html_static_path = [
    "site.css",
    "play.js",
    str(DATA / "pictures"),
    str(distribution("django-static-mathjax").locate_file(MATHJAX)),
]
html_css_files = ["site.css"]
html_copy_source = html_show_sourcelink = html_show_sphinx = html_show_copyright = html_use_index = False
if REPOSITORY:
    html_theme_options = {"source_repository": REPOSITORY, "source_branch": "main", "source_directory": "notebooks/"}
mathjax_path = "tex-svg.js"
mathjax3_config = {"options": {"enableMenu": False}}  # the menu would load what is not there


def adapt_links(app, docname, source):
    """Links to files of the repository lead to it once it is published, and to a copy on the site until then.

    A picture from elsewhere (a badge) becomes its words, so that the pages need no network.
    """
    outside, elsewhere = r"\]\(\.\./(?=[\w.])", r"!\[([^\]]*)\]\(https?:[^)]*\)"
    text = re.sub(outside, f"]({REPOSITORY}/blob/main/" if REPOSITORY else "](path:../", source[0])
    source[0] = re.sub(elsewhere, r"\1", text)


@functools.cache  # for the card, and for its file
def figure_of(name):
    """The picture of a notebook's card, in base64, and its title in words."""
    cells = json.loads((HERE.parent / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    outputs = next(cell["outputs"] for cell in cells if cell["id"] == CARDS[name])
    png, alt = next(
        (output["data"]["image/png"], output["metadata"]["image/png"]["alt"])
        for output in outputs
        if "image/png" in output.get("data", {})
    )
    title = re.search("“(.+?)”", alt)
    return png, title[1] if title else alt


def add_pictures(app, docname, source):
    """Each card of a notebook on the first page gets its picture."""
    if docname == "index":
        for name in CARDS:
            head = f":link: {name}\n:link-type: doc\n"
            picture = f'<img class="card-picture" src="_static/{name}.png" alt="{html.escape(figure_of(name)[1])}">\n\n'
            before, found, after = source[0].rpartition(head)  # the cards of "Three ways in" come first
            source[0] = before + found + "\n" + picture + after


def write_pictures(app, error):
    for name in CARDS:
        Path(app.outdir, "_static", f"{name}.png").write_bytes(base64.b64decode(figure_of(name)[0]))


def write_recorded(app, error):
    """What "Try it here" shows of a recorded run, as a script, because a page opened from disk may not read files."""
    run = DATA / "runs" / "tiny-1"
    with (run / "history.csv").open() as file:
        rewards = [round(float(row["reward"]), 3) for row in csv.DictReader(file)]
    replies = [json.loads(line) for line in (run / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    text = json.dumps({"rewards": rewards, "best": MAX_REWARD, "replies": replies}, ensure_ascii=False)
    Path(app.outdir, "_static", "play-data.js").write_text(f"window.RECORDED = {text}\n", encoding="utf-8")


def setup(app):
    app.connect("source-read", adapt_links)
    app.connect("source-read", add_pictures)
    app.connect("build-finished", write_recorded)
    app.connect("build-finished", write_pictures)


def with_alt(render):
    """myst-nb takes the text and size of a picture from its cell; ours stand beside it, in the output's metadata."""

    def render_image(self, data):
        nodes = render(self, data)
        for node in nodes:
            drawn = re.search("<desc[^>]*>(.*?)</desc>", str(data.content), re.DOTALL)
            stored = data.output_metadata.get(data.mime_type, {})
            node["alt"] = drawn[1] if drawn else stored.get("alt", "")
            if "width" in stored:
                node["width"] = f"{stored['width']}px"
        return nodes

    return render_image


NbElementRenderer.render_image = with_alt(NbElementRenderer.render_image)
