"""What of the reader's site can be checked without building it; `make site-check` and `make browser` do the rest."""

import re
import tomllib

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


def test_what_is_wrong_with_a_page_is_told_and_only_that():
    picture = {"src": "a.png", "width": 9, "alt": "A chart."}
    assert not list(page_problems("glossary", PAGE | {"pictures": [picture], "prose": "it costs $5"}))
    bad = {"pictures": [picture | {"width": 0}, picture | {"alt": " "}], "formulas": 3, "rendered": 2}
    bad |= {"errors": ["\\fracc"], "prose": "so $$x$$ is"}
    told = ("not loaded: a.png", "without alt text: a.png", "2 of 3 formulas", "\\fracc", "left as source")
    problems = list(page_problems("glossary", PAGE | bad))
    assert len(problems) == len(told) and all(any(part in problem for problem in problems) for part in told)
    name = next(path.stem for path in NOTEBOOKS.glob("*.ipynb") if figures_of(path.stem))
    assert list(page_problems(name, PAGE)) == [f"0 pictures, the notebook has {figures_of(name)}"]


def test_broken_links_are_told(tmp_path):
    for name in ("index.html", "b.html", "file one.txt"):
        (tmp_path / name).touch()
    good = ["https://example.org/no", BASE, *(f"{BASE}{end}" for end in ("b.html#there", "file%20one.txt"))]
    pages = {"index.html": PAGE | {"links": [*good, f"{BASE}b.html#gone", f"{BASE}c.html"]}}
    told = link_problems(BASE, pages | {"b.html": PAGE | {"ids": ["there"]}}, tmp_path)
    assert sorted(told) == ["index.html: broken link c.html", "index.html: no #gone in b.html"]
