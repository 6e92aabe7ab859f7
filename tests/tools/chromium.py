"""A headless Chromium for `make site-check` and `make browser`: the system's, or the one that CHROMIUM names."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator

from playwright.sync_api import Browser, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = ("--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync")


def executable() -> str:
    """Path of the browser.

    Raises:
        FileNotFoundError: none is installed.
    """
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if not found:
        raise FileNotFoundError(f"no browser among {', '.join(NAMES)}: install Chromium, or set CHROMIUM to its path")
    return found


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """Started without a sandbox, which root in a container needs; it only sees pages made here."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable(), args=["--no-sandbox", *FLAGS])
        yield chromium
        chromium.close()
