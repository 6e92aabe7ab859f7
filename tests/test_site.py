"""What of the reader's site can be checked without building it; `make site-check` and `make browser` do the rest."""

import re
import tomllib

import pytest
from packaging.requirements import Requirement

from grpo_helpers.profiles import ROOT
from tests.tools.check_site import figures_of, link_problems, page_problems

NOTEBOOKS = ROOT / "notebooks"
SITE = NOTEBOOKS / "_site"
PAGE = {"links": [], "ids": [], "pictures": [], "formulas": 0, "rendered": 0, "errors": [], "prose": "Text."}
BASE = "http://127.0.0.1:1/"


def test_the_contents_list_every_notebook_in_order():
    listed = re.findall(r"^\d\d_\w+$", (NOTEBOOKS / "index.md").read_text(), flags=re.MULTILINE)
    assert listed == sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))


def test_what_builds_the_site_is_pinned_and_admitted_by_pyproject():
    lines = (SITE / "requirements.txt").read_text().splitlines()
    pins = dict(line.split()[0].split("==") for line in lines if "==" in line)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    admitted = {r.name: r.specifier for r in map(Requirement, project["optional-dependencies"]["site"])}
    assert pins.keys() == admitted.keys()
    assert all(pins[name] in admitted[name] for name in pins)


def test_nothing_is_executed_and_nothing_comes_from_elsewhere():
    conf, style = ((SITE / name).read_text() for name in ("conf.py", "site.css"))
    assert 'nb_execution_mode = "off"' in conf and not re.search(r"https?://|cdn|@import", conf + style)


@pytest.mark.parametrize(
    "change, told",
    [
        ({"pictures": [{"src": "a.png", "width": 9, "alt": "A chart."}]}, None),
        ({"pictures": [{"src": "a.png", "width": 0, "alt": "A chart."}]}, "not loaded: a.png"),
        ({"pictures": [{"src": "a.png", "width": 9, "alt": " "}]}, "without alt text: a.png"),
        ({"formulas": 3, "rendered": 2}, "2 of 3 formulas"),
        ({"errors": ["\\fracc"]}, "\\fracc"),
        ({"prose": "so $$x$$ is"}, "left as source"),
        ({"prose": "it costs $5"}, None),
    ],
)
def test_what_is_wrong_with_a_page_is_told(change, told):
    problems = list(page_problems("glossary", PAGE | change))
    assert len(problems) == bool(told)
    assert told is None or told in problems[0]


def test_a_page_without_its_notebooks_pictures_is_told():
    name = next(path.stem for path in NOTEBOOKS.glob("*.ipynb") if figures_of(path.stem))
    assert list(page_problems(name, PAGE)) == [f"0 pictures, the notebook has {figures_of(name)}"]


@pytest.mark.parametrize(
    "link, told",
    [
        (f"{BASE}b.html#there", None), (BASE, None), (f"{BASE}file%20one.txt", None), ("https://example.org/no", None),
        (f"{BASE}b.html#gone", "no #gone in b.html"), (f"{BASE}c.html", "broken link c.html"),
    ],
)  # fmt: skip
def test_broken_links_are_told(link, told, tmp_path):
    for name in ("index.html", "b.html", "file one.txt"):
        (tmp_path / name).touch()
    pages = {"index.html": PAGE | {"links": [link]}, "b.html": PAGE | {"ids": ["there"]}}
    assert list(link_problems(BASE, pages, tmp_path)) == ([f"index.html: {told}"] if told else [])
