"""`make site-check`: the site in headless Chromium. Links, figures, formulas, width on a phone, search, no network.

Usage: check_site.py SITE SCREENSHOTS; prints every problem and exits with 1 if there is one.
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urldefrag, urlsplit

if TYPE_CHECKING:
    from playwright.sync_api import Page

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
SEARCHED = "advantage"  # stands in every notebook
NOT_FOUND = "zzyzxq"

READ_PAGE = """() => {
    const article = document.querySelector('article') || document.body
    const prose = article.cloneNode(true)
    prose.querySelectorAll('pre, code, script, style, mjx-container, table.dataframe').forEach(e => e.remove())
    const wrong = '[data-mml-node="merror"], mjx-container [fill="red"], .problematic'
    const pictures = [...article.querySelectorAll('img')]
    return {
        links: [...document.querySelectorAll('a[href]')].map(a => a.href),
        ids: [...document.querySelectorAll('[id]')].map(e => e.id),
        pictures: pictures.map(i => ({src: i.getAttribute('src'), width: i.naturalWidth, alt: i.alt})),
        formulas: article.querySelectorAll('.math').length,
        rendered: article.querySelectorAll('.math mjx-container').length,
        errors: [...article.querySelectorAll(wrong)].map(e => e.closest('p, div')?.textContent || e.outerHTML),
        prose: prose.textContent,
    }
}"""
# What sticks out of a phone's screen although nothing around it scrolls by itself.
STICKS_OUT = """() => [...document.querySelectorAll('article *')].filter(e => {
    if (e.getBoundingClientRect().right <= innerWidth + 1) return false
    for (let p = e; p.tagName !== 'ARTICLE'; p = p.parentElement)
        if (getComputedStyle(p).overflowX !== 'visible') return false
    return true
}).map(e => e.tagName + '.' + e.className).slice(0, 3)"""


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """The folder on a free port of this machine; gives the address."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def figures_of(name: str) -> int:
    """How many pictures the notebook of a page shows; 0 for a page that is none."""
    path = NOTEBOOKS / f"{name}.ipynb"
    cells = json.loads(path.read_text())["cells"] if path.is_file() else []
    return sum("image/png" in output.get("data", {}) for cell in cells for output in cell.get("outputs", []))


def page_problems(name: str, seen: dict[str, Any]) -> Iterator[str]:
    """What is wrong with one page by itself."""
    pictures = seen["pictures"]
    if len(pictures) < figures_of(name):
        yield f"{len(pictures)} pictures, the notebook has {figures_of(name)}"
    yield from (f"picture not loaded: {p['src']}" for p in pictures if not p["width"])
    yield from (f"picture without alt text: {p['src']}" for p in pictures if not p["alt"].strip())
    if seen["rendered"] != seen["formulas"]:
        yield f"{seen['rendered']} of {seen['formulas']} formulas rendered"
    yield from (f"error on the page: {text}" for text in seen["errors"])
    yield from (
        f"formula left as source: {mark}" for mark in ("$$", "\\(", "\\frac", "\\text") if mark in seen["prose"]
    )


def link_problems(base: str, pages: dict[str, dict[str, Any]], site: Path) -> Iterator[str]:
    """Links to files or headings of the site that are not there."""
    for name, seen in pages.items():
        for link in sorted(set(seen["links"])):
            if not link.startswith(base):
                continue
            address, fragment = urldefrag(link)
            target = unquote(urlsplit(address).path.lstrip("/")) or "index.html"
            if not (site / target).is_file():
                yield f"{name}: broken link {target}"
            elif fragment and target in pages and unquote(fragment) not in pages[target]["ids"]:
                yield f"{name}: no #{fragment} in {target}"


def search_problems(page: Page, base: str) -> Iterator[str]:
    """The search box finds a word of the series, and does not find a made-up one."""
    for word, wanted in ((SEARCHED, True), (NOT_FOUND, False)):
        page.goto(base + "index.html")
        box = page.locator("input.sidebar-search")
        box.fill(word)
        box.press("Enter")
        hits = 0
        for _ in range(20):  # the summary comes first, the pages one by one
            page.wait_for_timeout(200)
            hits = page.locator("#search-results li").count()
        if bool(hits) is not wanted:
            yield f"search for {word}: {hits} pages"


def menu_problems(page: Page, base: str) -> Iterator[str]:
    """On a phone the contents are behind a button, and lead to a notebook."""
    page.goto(base + "index.html")
    link = page.locator(".sidebar-tree a").first
    if link.bounding_box()["x"] >= 0:
        yield "menu: it covers the page before it is asked for"
    page.locator("label.nav-overlay-icon").click()
    page.wait_for_timeout(500)
    link.click()
    if page.url == base + "index.html":
        yield "menu: its first entry leads nowhere"


def play_problems(page: Page, base: str) -> Iterator[str]:
    """The page of things to try, by the keyboard: the numbers are those of the formulas and of the recorded run."""
    page.goto(base + "play.html")
    first, table = page.locator("#play-advantages input").first, page.locator("#play-advantages tbody")
    first.focus()
    for key, advantages in (("", [0.87, -0.87, -0.87, 0.87]), ("Home", [-1.48, 0.37, 0.37, 0.74])):
        if key:
            first.press(key)  # the least: a reward of -10
        seen = [float(cell) for cell in table.locator("td:nth-child(2)").all_inner_texts()]
        if seen != advantages:
            yield f"play: advantages {seen}, not {advantages}"
    shares = [int(text.split()[-2]) for text in table.locator("td:nth-child(4)").all_inner_texts()]
    if sum(shares) not in range(98, 103) or shares[0] >= 25:
        yield f"play: the probabilities are {shares} % after the step"
    moment, replies = page.locator("#play-replies input"), page.locator("#play-replies section")
    right = page.locator("#play-replies section.right")
    moment.focus()
    for key, wanted in (("Home", 0), ("End", 3)):  # as data/runs/tiny-1 has it
        moment.press(key)
        if (replies.count(), right.count()) != (6, wanted):
            yield f"play: {right.count()} of {replies.count()} replies are right, not {wanted} of 6"


def check(site: Path, shots: Path) -> list[str]:
    """Every problem of the site, as lines; screenshots of all pages are left in `shots`."""
    from chromium import browser  # only here: the rest can be tested without a browser

    problems, pages = [], {}
    shots.mkdir(parents=True, exist_ok=True)
    with served(site) as base, browser() as chromium:
        context = chromium.new_context(viewport=DESKTOP, color_scheme="light")
        page = context.new_page()
        page.on("request", lambda r: r.url.startswith((base, "data:")) or problems.append(f"asks the network: {r.url}"))
        page.on("response", lambda r: r.status < 400 or problems.append(f"answered {r.status}: {r.url}"))
        page.on("pageerror", lambda error: problems.append(f"script error on {page.url}: {error}"))
        for path in sorted(site.glob("*.html")):
            page.set_viewport_size(DESKTOP)
            page.goto(base + path.name)
            page.evaluate("() => window.MathJax?.startup?.promise")
            pages[path.name] = page.evaluate(READ_PAGE)
            problems += [f"{path.stem}: {problem}" for problem in page_problems(path.stem, pages[path.name])]
            page.screenshot(path=shots / f"{path.stem}-desktop.png")
            page.set_viewport_size(PHONE)
            width = page.evaluate("document.documentElement.scrollWidth")
            if width > PHONE["width"]:
                problems.append(f"{path.stem}: {width} pixels wide on a phone of {PHONE['width']}")
            problems += [f"{path.stem}: sticks out on a phone: {what}" for what in page.evaluate(STICKS_OUT)]
            page.screenshot(path=shots / f"{path.stem}-phone.png", full_page=True)
        problems += link_problems(base, pages, site)
        problems += menu_problems(page, base)
        page.set_viewport_size(DESKTOP)
        problems += play_problems(page, base)
        for look in ("light", "dark"):
            page.emulate_media(color_scheme=look)
            for name in ("index", "play"):
                page.goto(f"{base}{name}.html")
                page.screenshot(path=shots / f"{name}-{look}.png", full_page=True)
        problems += search_problems(page, base)
        page.screenshot(path=shots / "search-desktop.png")
    formulas, pictures = (
        sum(n) for n in zip(*((p["rendered"], len(p["pictures"])) for p in pages.values()), strict=True)
    )
    print(f"{len(pages)} pages, {pictures} pictures, {formulas} formulas; screenshots in {shots}")
    return problems


if __name__ == "__main__":
    found = check(Path(sys.argv[1]).resolve(), Path(sys.argv[2]))
    print("\n".join(found) or "no problem found")
    sys.exit(bool(found))
