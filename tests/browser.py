"""A headless Chromium for tests of pages: found on this machine, never downloaded."""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mihack.site.serve import server, url

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PHONE, DESKTOP = {"width": 390, "height": 844}, {"width": 1280, "height": 900}


@contextlib.contextmanager
def launched() -> Iterator[Browser]:
    """A browser with an empty profile; skips the test where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"no browser on this machine: none of {', '.join(NAMES)} is in PATH")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=found, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address under which ``mihack site serve`` would show ``folder``."""
    with server(folder) as made:
        thread = threading.Thread(target=made.serve_forever, daemon=True)
        thread.start()
        try:
            yield url(made)
        finally:
            made.shutdown()
            thread.join()


def save(pages: dict[str, bytes], folder: Path) -> Path:
    """``pages`` as files below ``folder``."""
    for path, content in pages.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder


def until(page: Page, condition: str) -> None:
    """Wait for a JavaScript condition; playwright's own way needs eval, which the pages forbid."""
    end = time.monotonic() + 20
    while not page.evaluate(condition):
        assert time.monotonic() < end, f"never true: {condition}"
        page.wait_for_timeout(20)


@contextlib.contextmanager
def opened(browser: Browser, base: str, **context: Any) -> Iterator[Page]:
    """A page of its own, which must log no error, raise none, and ask nothing outside ``base``."""
    faults: list[str] = []
    made = browser.new_context(**{"viewport": DESKTOP, **context})
    made.set_default_timeout(10_000)
    page = made.new_page()
    page.on("console", lambda said: faults.append(said.text) if said.type in {"error", "warning"} else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda asked: faults.append(asked.url) if not asked.url.startswith(base) else None)
    page.on("requestfailed", lambda asked: faults.append(f"{asked.failure}: {asked.url}"))
    page.on("response", lambda got: faults.append(f"{got.status}: {got.url}") if got.status >= 400 else None)
    try:
        yield page
    finally:
        made.close()
    # a request that ends because the test goes on to another page is no fault
    assert [fault for fault in faults if not fault.startswith("net::ERR_ABORTED")] == [], faults
