"""The report: your words from REPORT.md, and the newest runs from results/, as one HTML file.

    python report.py                       the newest run and its other seeds -> report.html
    python report.py results/A results/B   these runs instead (folders, or folders of runs)

For a PDF open report.html in a browser and print it. REPORT.md is only read: what you write there stays.
"""

import argparse
import json
import os
import sys
from pathlib import Path

from lab import report_page
from lab.comparison import NotComparable
from lab.report_text import read_text, unwritten
from lab.runs import latest, named, runs_in

HERE = Path(__file__).resolve().parent
flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
flags.add_argument("runs", nargs="*", metavar="RUN", help="default: the newest run and its other seeds")
flags.add_argument("--output", type=Path, default=HERE / "report.html", help="default: report.html")
asked = flags.parse_args()

# 1. The runs. Several seeds of the same settings belong together; any other run stays out.
os.chdir(HERE)
try:
    runs = named(asked.runs) if asked.runs else latest(runs_in(Path("results"))[0])
except NotComparable as fault:
    sys.exit(str(fault))
if asked.output.suffix != ".html" or not asked.output.parent.is_dir():
    sys.exit(f"{asked.output}: give a file that ends in .html, in a folder that is there")
if not runs:
    sys.exit("No finished run in results/ yet. First: python experiment.py")

# 2. Your words. ![caption](figures/name.png) shows a figure of the newest run where you want it.
words = read_text(HERE / "REPORT.md", pictures=[run.folder for run in reversed(runs)])
missing = unwritten(HERE / "REPORT.md", words)
problem = read_text(HERE / "PROBLEM.md")
original = json.loads((HERE / "expected.json").read_text(encoding="utf-8"))

# 3. What comes from the files, by the section that it stands under.
question = problem.section("Problem")
lead = question.html.partition("</p>")[0] if question else ""
made = {
    "Introduction": f"<h3>The question, as it was posed</h3>\n{lead}</p>\n" if question else "",
    "Methods": report_page.methods(runs, original["knobs"]),
    "Results": report_page.results(runs, shown=words.pictures),
    "Discussion": report_page.limits(runs, original["knobs"], HERE / "experiment.py"),
    "Appendix": report_page.appendix(runs),
}

# 4. The page, through a temporary file: a report is whole or not there.
day = runs[-1].stamp
subtitle = f"Problem {original['problem']} · runs of {day[:4]}-{day[4:6]}-{day[6:8]}"
page = report_page.page(words, made, subtitle, missing)
temporary = asked.output.with_name(asked.output.name + ".writing")
temporary.write_text(page, encoding="utf-8", newline="\n")
os.replace(temporary, asked.output)
print(f"{asked.output}: {len(runs)} run{'s' * (len(runs) > 1)}, {len(page) / 1000:.0f} kB. Print it for a PDF.")
for line in [*words.faults, *missing]:
    print(line, file=sys.stderr)
