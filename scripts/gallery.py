"""Run experiments and keep their figures for the starter gallery of the site.

    python scripts/gallery.py                           one for each starter that has none yet
    python scripts/gallery.py algorithmic/induction     these

A figure is what the experiment of a freshly made repo saves, scaled down and reduced to 256 colours
so that it stays under 200 kB; it goes to docs/gallery/<starter>-<experiment>.png.  An experiment that
does not meet its expectations gives no figure.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from PIL import Image

from mihack.catalog.index import Index, load_shipped
from mihack.shipped import gallery_dir
from mihack.site.pages import figure_name

MOST_BYTES = 200_000
WIDTH = 1100


def main(arguments: list[str]) -> int:
    """Make the figures; 1 if an experiment gave none."""
    index = load_shipped()
    problems = exact(index)
    wanted = [(word.split("/")[0], word.split("/")[1]) for word in arguments] or missing(index, problems)
    failed = 0
    for starter, experiment in wanted:
        target = gallery_dir() / figure_name(starter, experiment)
        with tempfile.TemporaryDirectory() as place:
            figure = run(problems[starter, experiment], Path(place) / "repo")
            if figure is None:
                failed = 1
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            shrink(figure, target)
        print(f"{target.name}: {target.stat().st_size} bytes, problem {problems[starter, experiment]}")
    return failed


def exact(index: Index) -> dict[tuple[str, str], str]:
    """(starter, experiment) -> the first problem that it fits exactly."""
    found: dict[tuple[str, str], str] = {}
    for key, item in index.problems.items():
        reference = item["starter"]
        if reference and reference["fit"] == "exact":
            selector = index.starters[reference["name"]]["selector"]
            found.setdefault((reference["name"], reference["parameters"][selector]), key)
    return found


def missing(index: Index, problems: dict[tuple[str, str], str]) -> list[tuple[str, str]]:
    """For each starter without a figure, the experiment that most problems start from."""
    uses = Counter(
        (
            item["starter"]["name"],
            item["starter"]["parameters"][index.starters[item["starter"]["name"]]["selector"]],
        )
        for item in index.problems.values()
        if item["starter"]
    )
    have = {pair for pair in uses if (gallery_dir() / figure_name(*pair)).is_file()}
    bare = [name for name in index.starters if name not in {starter for starter, _ in have}]
    ranked = [pair for pair, _ in uses.most_common() if pair in problems]
    firsts = (next((pair for pair in ranked if pair[0] == name), None) for name in bare)
    return [pair for pair in firsts if pair is not None]


def run(problem: str, repo: Path) -> Path | None:
    """Make the repo, run its experiment, and give its first figure if every expectation is met."""
    subprocess.run(
        [sys.executable, "-m", "mihack", "new", problem, str(repo)], check=True, stdout=subprocess.DEVNULL
    )
    done = subprocess.run([sys.executable, "experiment.py", "--check"], cwd=repo)
    figures = sorted(repo.glob("results/*/figures/*.png"))
    return figures[0] if done.returncode == 0 and figures else None


def shrink(figure: Path, target: Path) -> None:
    """A PNG of at most MOST_BYTES."""
    with Image.open(figure) as opened:
        picture = opened.convert("RGB")
    picture.thumbnail((WIDTH, 2 * WIDTH), Image.Resampling.LANCZOS)
    colours = 256
    while True:
        picture.quantize(colours).save(target, optimize=True)
        if target.stat().st_size <= MOST_BYTES or colours <= 16:
            return
        colours //= 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
