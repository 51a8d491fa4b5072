"""The neuroscope page: from the last key to the coloured sentence, in a real browser.

    python benchmarks/neuroscope.py                              # gelu-1l
    python benchmarks/neuroscope.py --model smollm2-135m --layer 12

Needs gradio, playwright and a Chromium on this machine; nothing is downloaded.  Prints the median and
the largest of 20 answers, beside the model's own pass over the same sentence, and as a share of the
300 ms that are promised for the embedded model.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROUNDS, BAR = 20, 300.0  # answers, milliseconds
SENTENCE = "My fellow citizens, the government of the United States and that of Mexico are at war"
# the clock starts at the last key and stops when the page shows the word that it ends
WATCH = """() => {
  const clock = {start: 0, waiting: null};
  window.clock = clock;
  document.querySelector("#typed textarea").addEventListener("input", () => {
    clock.start = performance.now();
  });
  const shown = document.querySelector("#lit");
  new MutationObserver(() => {
    const text = shown.textContent.replace(/\\s/g, "");
    if (clock.waiting && text.includes(clock.waiting.word)) {
      clock.waiting.done(performance.now() - clock.start);
      clock.waiting = null;
    }
  }).observe(shown, {childList: true, subtree: true, characterData: true});
}"""
AWAIT = "(word) => { window.answer = new Promise((done) => { window.clock.waiting = {word, done}; }); }"


def answers(page: Any) -> list[float]:
    """Milliseconds of each answer."""
    page.locator("#typed textarea").click()
    page.keyboard.press("Control+a")
    page.keyboard.type(SENTENCE)
    page.wait_for_timeout(1000)
    page.evaluate(WATCH)
    found = []
    for number in range(ROUNDS):
        word = f"q{number}z"
        page.evaluate(AWAIT, word)
        page.keyboard.type(f" {word}")
        found.append(page.evaluate("window.answer"))
        page.wait_for_timeout(100)
    return [float(value) for value in found]


def passes(scope: Any, site: Any) -> list[float]:
    """Milliseconds of the model's own pass over the sentence, up to the site."""
    found = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        scope.read(SENTENCE, site)
        found.append(1000 * (time.perf_counter() - start))
    return found


def main() -> None:
    from playwright.sync_api import sync_playwright

    from mihack.lab import neuroscope
    from mihack.lab.scope import open_scope

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="gelu-1l")
    parser.add_argument("--layer", type=int, default=0)
    flags = parser.parse_args()
    browser = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
    if browser is None:
        sys.exit("No Chromium here: nothing was measured.")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        scope = open_scope(flags.model, tokens=10_000, layers=[flags.layer], folder=Path(folder))
        started = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-gpu"])
        made = neuroscope.page(scope, flags.model)
        try:
            page = started.new_page()
            page.goto(neuroscope.launch(made, block=False))
            page.locator("#places .ns-head").first.wait_for()
            found = answers(page)
        finally:
            made.close()
            started.close()
        alone = statistics.median(passes(scope, next(iter(scope.sites.values()))))
    middle = statistics.median(found)
    print(f"answer: median {middle:.0f} ms, largest {max(found):.0f} ms of {len(found)}")
    print(f"the model's own pass {alone:.1f} ms; median is {middle / BAR:.2f} of {BAR:.0f} ms")


if __name__ == "__main__":
    main()
