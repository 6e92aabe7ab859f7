"""`make browser`: notebooks in a real JupyterLab, run by a headless Chromium as a reader would run them.

Checks that no cell fails, that the figure of a training run is drawn again and again, that the progress bar moves, and
that a slider changes what is shown beneath it. Works on a copy of the repository, with results in a temporary folder.

Usage: browser.py JUPYTER SCREENSHOTS [NOTEBOOK ...]; prints what it saw and exits with 1 if something is wrong.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from chromium import browser
from playwright.sync_api import Locator, Page

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ("01_grpo_concepts", "05_grpo_training", "06_evaluation")
LIVE = "train"  # the cell with a figure that grows
WITH_BAR = "05_grpo_training"
MINUTES = 15  # for a notebook, at most
SETTINGS = {
    "@jupyterlab/notebook-extension/tracker": {"windowingMode": "none"},  # cells out of sight stay in the page
    "@jupyterlab/apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}

# Notes every state that a cell's picture and progress bar go through.
WATCH = """cell => {
    window.seen = {pictures: [], percent: []}
    setInterval(() => {
        const picture = cell.querySelector('.jp-OutputArea img')?.src
        if (picture && !window.seen.pictures.includes(picture)) window.seen.pictures.push(picture)
        const percent = cell.querySelector('.jp-OutputArea')?.textContent.match(/(\\d+)%\\|/)?.[1]
        if (percent && !window.seen.percent.includes(+percent)) window.seen.percent.push(+percent)
    }, 200)
}"""
STATE = """() => {
    const failed = [...document.querySelectorAll('[data-mime-type="application/vnd.jupyter.error"]')]
    const all = [...document.querySelectorAll('.jp-Notebook .jp-CodeCell')]
    const code = all.filter(c => c.querySelector('.jp-InputPrompt') && c.querySelector('.cm-content'))  // not folded
    const prompts = code.map(c => c.querySelector('.jp-InputPrompt').textContent)
    return {
        waiting: prompts.filter(p => p.includes('*')).length,
        run: prompts.filter(p => /\\d/.test(p)).length,
        cells: code.filter(c => c.querySelector('.cm-content').textContent.trim()).length,
        errors: failed.map(e => e.innerText),
    }
}"""


@contextlib.contextmanager
def lab(jupyter: str, folder: Path) -> Iterator[str]:
    """JupyterLab on `folder`/notebooks, as somebody who has never used it finds it; gives its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = folder / "settings"
    for name, values in SETTINGS.items():
        path = settings / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    places = {"JUPYTERLAB_SETTINGS_DIR": settings, "JUPYTERLAB_WORKSPACES_DIR": folder / "workspaces"}
    places |= {"JUPYTER_CONFIG_DIR": folder / "config", "GRPO_OUTPUT": folder / "outputs"}
    environment = {"GRPO_PROFILE": "tiny"} | os.environ | {name: str(path) for name, path in places.items()}
    command = [jupyter, "lab", "--no-browser", "--allow-root", f"--port={port}", "--IdentityProvider.token="]
    command += [f"--ServerApp.root_dir={folder / 'notebooks'}", "--log-level=CRITICAL"]
    with subprocess.Popen(command, env=environment, cwd=folder) as server:
        try:
            address = f"http://127.0.0.1:{port}/lab/tree/"
            wait_for(address, server)
            yield address
        finally:
            server.terminate()


def wait_for(address: str, server: subprocess.Popen[bytes], seconds: float = 120) -> None:
    """Returns when the server answers.

    Raises:
        RuntimeError: it ended, or did not answer in time.
    """
    until = time.monotonic() + seconds
    while time.monotonic() < until and server.poll() is None:
        with contextlib.suppress(urllib.error.URLError, ConnectionError), urllib.request.urlopen(address):
            return
        time.sleep(0.5)
    raise RuntimeError(f"JupyterLab did not answer within {seconds:g} s at {address}; exit status {server.poll()}")


def choose(page: Page, *names: str) -> None:
    """Clicks through a menu."""
    for name in names:
        page.get_by_role("menuitem", name=name, exact=True).click()


def run_all(page: Page) -> dict[str, Any]:
    """Runs all cells, waits for the end or the first error, and returns the last state."""
    choose(page, "Run", "Run All Cells")
    page.locator(".jp-InputPrompt", has_text="*").first.wait_for(state="attached")  # a folded cell is not visible
    until = time.monotonic() + 60 * MINUTES
    state = page.evaluate(STATE)
    while time.monotonic() < until and state["waiting"] and not state["errors"]:
        page.wait_for_timeout(1000)
        state = page.evaluate(STATE)
    return state


def slider_problem(cell: Locator) -> str | None:
    """Moves the first slider of a cell by one step; what is shown beneath must change."""
    area = cell.locator(".widget-interact .jp-OutputArea").first
    area.wait_for()
    before = area.inner_html()
    handle = cell.locator(".noUi-handle").first
    handle.scroll_into_view_if_needed()
    handle.focus()
    at_end = handle.get_attribute("aria-valuenow") == handle.get_attribute("aria-valuemax")
    handle.press("ArrowLeft" if at_end else "ArrowRight")
    for _ in range(50):
        cell.page.wait_for_timeout(200)
        now = area.inner_html()
        if now not in (before, ""):
            return None
    return "the slider was moved, and nothing changed in 10 s"


def check(page: Page, name: str, cells: list[dict[str, Any]]) -> list[str]:
    """Runs one open notebook and returns what is wrong."""
    shown = page.locator(".jp-Notebook .jp-Cell")
    places = {cell["id"]: shown.nth(i) for i, cell in enumerate(cells)}
    choose(page, "Edit", "Clear Outputs of All Cells")
    if LIVE in places:
        places[LIVE].evaluate(WATCH)
    state = run_all(page)
    problems = [f"error: {text}" for text in state["errors"]]
    if state["run"] != state["cells"]:
        problems.append(f"{state['run']} of {state['cells']} cells have run")
    if LIVE in places:
        seen = page.evaluate("window.seen")
        print(f"{name}: {len(seen['pictures'])} states of the live figure, {len(seen['percent'])} of the progress bar")
        if len(seen["pictures"]) < 4:
            problems.append(f"the live figure had only {len(seen['pictures'])} states")
        if name == WITH_BAR and (len(seen["percent"]) < 5 or seen["percent"] != sorted(seen["percent"])):
            problems.append(f"the progress bar showed {seen['percent']}")
    for cell in cells:
        if "widgets.interactive" in "".join(cell["source"]):
            problem = slider_problem(places[cell["id"]])
            print(f"{name}: slider of cell {cell['id']}: {problem or 'moved, and the output followed'}")
            problems += [f"{cell['id']}: {problem}"] if problem else []
    return problems


def main(jupyter: str, shots: Path, names: tuple[str, ...]) -> list[str]:
    """Every problem of every notebook, as lines; a screenshot of each is left in `shots`."""
    shots.mkdir(parents=True, exist_ok=True)
    problems = []
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place) / "copy"
        shutil.copytree(
            ROOT, copy, ignore=shutil.ignore_patterns(".*", "outputs", "build", "*.egg-info", "__pycache__")
        )
        with lab(jupyter, copy) as address, browser() as chromium:
            for name in names:
                start = time.monotonic()
                cells = json.loads((copy / f"notebooks/{name}.ipynb").read_text())["cells"]
                page = chromium.new_page(viewport={"width": 1280, "height": 1000})
                page.goto(f"{address}{name}.ipynb?reset")
                page.locator(".jp-Notebook .jp-Cell").nth(len(cells) - 1).wait_for(state="attached", timeout=120_000)
                page.locator('.jp-Notebook-ExecutionIndicator[data-status="idle"]').wait_for(timeout=120_000)
                problems += [f"{name}: {problem}" for problem in check(page, name, cells)]
                page.screenshot(path=shots / f"{name}.png")
                choose(page, "Kernel", "Shut Down Kernel")
                page.close()
                print(f"{name}: {time.monotonic() - start:.0f} s", flush=True)
    return problems


if __name__ == "__main__":
    found = main(str(Path(sys.argv[1]).absolute()), Path(sys.argv[2]), tuple(sys.argv[3:]) or NOTEBOOKS)
    print("\n".join(found) or "no problem found")
    sys.exit(bool(found))
