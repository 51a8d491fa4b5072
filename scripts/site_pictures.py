"""Take the pictures of docs/site.md: the site in a headless Chromium, at the width of a desk and of a phone.

    python scripts/site_pictures.py

Needs playwright and a Chromium in PATH.  Look at every picture before you commit it.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from mihack.catalog.index import load_shipped
from mihack.shipped import gallery_dir
from mihack.site.pages import pages, read_figures
from mihack.site.write import write

TARGET = Path(__file__).resolve().parent.parent / "docs" / "images"
DESK, PHONE = {"width": 1200, "height": 900}, {"width": 390, "height": 844}
PICTURES: dict[str, tuple[str, dict[str, int], str]] = {
    "site-list": ("index.html#q=induction+heads&difficulty=B", DESK, "light"),
    "site-home": ("index.html", DESK, "light"),
    "site-list-phone": ("index.html#difficulty=A&compute=laptop", PHONE, "dark"),
    "site-problem": ("problems/3.16.html", DESK, "light"),
    "site-problem-phone": ("problems/3.16.html", PHONE, "dark"),
    "site-starters": ("starters.html", DESK, "dark"),
}


def main() -> int:
    """Take them all."""
    index = load_shipped()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    TARGET.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as place, sync_playwright() as playwright:
        folder = Path(place) / "site"
        write(pages(index, read_figures(index, gallery_dir())), folder)
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for name, (path, size, scheme) in PICTURES.items():
            target = TARGET / f"{name}.png"
            take(browser, f"{folder.as_uri()}/{path}", target, viewport=size, color_scheme=scheme)
            print(f"{target.name}: {target.stat().st_size} bytes")
        browser.close()
    return 0


def take(browser: Browser, address: str, target: Path, **context: Any) -> None:
    """One picture, in 128 colours."""
    page = browser.new_page(**context)
    page.goto(address)
    page.wait_for_timeout(1000)  # the search reads its texts
    if "problems/3.16" in address and context["viewport"] == DESK:
        page.locator("a.term").nth(1).hover()
    if "#difficulty" in address:
        page.evaluate("scrollTo(0, 480)")  # below the filters, which fill a phone's screen
    page.screenshot(path=target)
    page.close()
    with Image.open(target) as opened:
        opened.convert("RGB").quantize(128).save(target, optimize=True)


if __name__ == "__main__":
    sys.exit(main())
