"""Fill docs/gallery and docs/gallery.md with figures of runs that scripts/verify.py made.

    python scripts/verify.py        first: the runs (seed 0 is shown)
    python scripts/gallery.py       then this; look at every picture before you commit it

The site shows the same pictures beside its starters.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

from PIL import Image
from verify import ROOT, prepared, representatives

from mihack.catalog.index import Index, load
from mihack.site.pages import figure_name

GALLERY, PAGE, RUNS = ROOT / "docs" / "gallery", ROOT / "docs" / "gallery.md", ROOT / ".verify"
WIDEST = 1400  # pixels
# starter: the experiments that stand for it, the first of them on the page
SHOWN: dict[str, list[str]] = {
    "algorithmic": ["induction", "modular"],
    "toy-lm": ["neuron"],
    "superposition": ["polygons"],
    "sae": ["planted"],
    "probe-world": ["othello"],
    "circuit": ["behaviour"],
    "heads": ["survey"],
    "training-dynamics": ["grokking", "induction"],
    "neuroscope": ["neurons"],
    "techniques": ["known-circuit"],
    "model-diff": ["finetune", "checkpoints"],
    "vision": ["neurons", "forming"],
    "rl": ["misgeneralise"],
}
HEAD = """# Gallery

One figure of each starter, or two, as its experiment drew them on seed 0 (`scripts/gallery.py`, from the runs
of `make verify`). What stands beside them is what the experiment tells its users to look at.
"""


def main() -> int:
    """Write pictures and page; 1 if a run is missing."""
    index = load()
    problems = {experiment_of(index, number): number for number in reversed(representatives(index))}
    parts, absent = [HEAD], []
    for starter, runs in SHOWN.items():
        parts.append(f"## {starter}\n\n{index.starters[starter]['summary']}\n")
        for run in runs:
            figures = figures_of(index, problems[starter, run])
            if not figures:
                absent.append(f"{starter} {run} (problem {problems[starter, run]})")
                continue
            name = figure_name(starter, run)
            (GALLERY / name).write_bytes(small(figures[0]))
            parts.append(entry(index.starters[starter]["experiments"][run], name, problems[starter, run]))
    for one in absent:
        print(f"no run of seed 0: {one}; python scripts/verify.py makes it", file=sys.stderr)
    if not absent:
        PAGE.write_text("\n".join(parts), encoding="utf-8", newline="\n")
    return 1 if absent else 0


def experiment_of(index: Index, number: str) -> tuple[str, str]:
    """Starter and experiment of a problem."""
    starter = index.problems[number]["starter"]
    return starter["name"], starter["parameters"][index.starters[starter["name"]]["selector"]]


def figures_of(index: Index, number: str) -> list[Path]:
    """The figures of the latest run on seed 0 of a problem's experiment as it is now."""
    runs = sorted(prepared(index, number, RUNS).glob("run-seed0-*/**/figures"))
    return sorted(runs[-1].glob("*.png")) if runs else []


def small(path: Path) -> bytes:
    """The picture, at most 1,400 pixels wide, in 255 colours: a third of the bytes, and no eye sees it."""
    picture = Image.open(path).convert("RGB")
    if picture.width > WIDEST:
        picture = picture.resize(
            (WIDEST, round(picture.height * WIDEST / picture.width)), Image.Resampling.LANCZOS
        )
    out = io.BytesIO()
    picture.quantize(255, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
    return out.getvalue()


def entry(about: dict[str, Any], name: str, number: str) -> str:
    """A figure with its title and what to look at."""
    return (
        f"### {about['title']}\n\n![{about['title']}: the figure of one run](gallery/{name})\n\n"
        f"{about['look_at'].strip()}\n\n`mihack new {number}`, about {about['seconds']} s.\n"
    )


if __name__ == "__main__":
    sys.exit(main())
