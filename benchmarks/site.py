"""The catalogue site: time to build it, what the first page weighs, and how fast its list answers.

    python benchmarks/site.py [--cards 10000] [--rounds 5]

Builds the site of the shipped catalogue, then of that with generated cards over it, and opens both in
a headless Chromium if there is one (with playwright installed; nothing is downloaded).  The issue's
bars are in seconds and bytes, so times are printed, and beside them what `python -c pass` takes here.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from scale import seconds, write_cards

from mihack.site.serve import server, url

FIRST = """() => performance.getEntriesByType('resource').concat(performance.getEntriesByType('navigation'))
    .reduce((sum, entry) => sum + entry.decodedBodySize, 0)"""
# from the event to a list that has been laid out; the median of all rounds
FILTER = """(rounds) => {
  const times = [];
  for (let n = 0; n < rounds; n++) {
    const choices = [["difficulty", "A"], ["compute", "laptop"], ["difficulty", ""], ["compute", ""]];
    const [name, value] = choices[n % 4];
    const select = document.getElementById(name);
    const start = performance.now();
    select.value = value;
    select.dispatchEvent(new Event("input", {bubbles: true}));
    document.body.offsetHeight;
    times.push(performance.now() - start);
  }
  return times;
}"""
SEARCH = """(words) => words.map((word) => {
  const box = document.getElementById("q");
  const start = performance.now();
  box.value = word;
  box.dispatchEvent(new Event("input", {bubbles: true}));
  document.body.offsetHeight;
  return performance.now() - start;
})"""
WORDS = [
    "i",
    "in",
    "ind",
    "indu",
    "induc",
    "induct",
    "induction",
    "induction h",
    "induction head",
    "grokking",
    "3.1",
]
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cards", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        write_cards(root / "cards", options.cards)
        build = [sys.executable, "-m", "mihack", "site", "build"]
        bare = statistics.median(
            seconds([sys.executable, "-c", "pass"], root / "home") for _ in range(options.rounds)
        )
        print("| catalogue | files | MB | build, s | over `python -c pass` |\n|---|---|---|---|---|")
        for name, extra, rounds in (
            ("shipped", [], options.rounds),
            (f"{options.cards} more", ["--catalog", str(root / "cards")], 1),
        ):
            target = root / name.split()[0]
            if extra:  # checking ten thousand cards is another measurement: scale.py
                seconds([sys.executable, "-m", "mihack", "list", *extra], root / "home")
            took = statistics.median(
                seconds([*build, str(target), *extra], root / "home") for _ in range(rounds)
            )
            files = [path for path in target.rglob("*") if path.is_file()]
            size = sum(path.stat().st_size for path in files) / 1e6
            print(f"| {name} | {len(files)} | {size:.1f} | {took:.1f} | {took / bare:.0f}x |", flush=True)
        look({"shipped": root / "shipped", f"{options.cards} more": root / str(options.cards)})
    return 0


def look(sites: dict[str, Path]) -> None:
    """The list in a browser, or a line that says why not."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        browser = None
    if browser is None:
        print("\nNo Chromium or no playwright here: the list was not measured.")
        return
    print("\n| catalogue | first page, kB | filter, ms | worst | search, ms | worst | first search, ms |")
    print("|---|---|---|---|---|---|---|")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=browser, args=FLAGS)
        for name, folder in sites.items():
            with server(folder) as made:
                threading.Thread(target=made.serve_forever, daemon=True).start()
                page = started.new_page()
                page.goto(url(made), wait_until="networkidle")
                first = page.evaluate(FIRST)
                filters = page.evaluate(FILTER, 40)
                before = page.inner_text("#count")
                start = time.perf_counter()
                page.fill("#q", "induction")
                while page.evaluate("document.getElementById('count').textContent") == before:
                    time.sleep(0.005)
                opening = 1000 * (time.perf_counter() - start)
                searches = page.evaluate(SEARCH, WORDS * 3)
                page.close()
                made.shutdown()
            numbers = [
                statistics.median(filters),
                max(filters),
                statistics.median(searches),
                max(searches),
                opening,
            ]
            print(
                f"| {name} | {first / 1000:.0f} | " + " | ".join(f"{number:.0f}" for number in numbers) + " |"
            )
        started.close()


if __name__ == "__main__":
    sys.exit(main())
