"""`mihack submit`: check the hand-in and write its archive."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click


@click.command(
    "submit",
    epilog="Example: mihack submit --check",
    short_help="Check the hand-in and write its archive.",
)
@click.option("--check", is_flag=True, help="Only check; write nothing.")
@click.option("--output", type=click.Path(path_type=Path), help="The archive. Default: submission.zip.")
@click.option("--skip-notebook", is_flag=True, help="Do not execute the notebook; the manifest says so.")
@click.option("--json", "as_json", is_flag=True, help="Print the checks and the archive as JSON.")
def submit_command(check: bool, output: Path | None, skip_notebook: bool, as_json: bool) -> None:
    """Check the generated repo you are in, and write its archive if nothing is wrong.

    Every fault is FILE:LINE: what is wrong and what to do. Exits with 1 if there is one.
    """
    from mihack.handin import archive, checks, files
    from mihack.lab.runs import latest, runs_in
    from mihack.scaffold.generated_repo import find
    from mihack.terminal import clean

    repo = find()
    root, target = repo.root, (output or repo.root / "submission.zip").absolute()
    archive.check_place(target)
    runs = latest(runs_in(root / "results")[0])
    names = [name for name in files.listed(root) if root / name not in {target, root / "submission.zip"}]
    evidence = [path for run in runs for path in (*run.folder.glob("*.json"), *run.figures)]
    names = sorted({*names, *(path.relative_to(root).as_posix() for path in evidence)})
    page, failed = checks.made_report(root, runs)
    found = {
        "report": [*checks.report_faults(root, runs), *failed],
        "runs": checks.run_faults(root, runs),
        "files": list(files.faults(root, names)),
    }
    faulty = any(found.values())
    content = {} if faulty else {name: (root / name).read_bytes() for name in names} | {"report.html": page}
    if not faulty and not skip_notebook:
        click.echo("Executing the notebook from clean ...", err=True)
        found["notebook"] = checks.notebook_faults(root, content)
        faulty = bool(found["notebook"])
    states = {name: "failed" if told else "passed" for name, told in found.items()}
    states.setdefault("notebook", "skipped")
    wrote = None
    if not faulty and not check:
        about = {"mihack": repo.mihack, "problem": repo.problem, "title": repo.title, "checks": states}
        archive.save(archive.packed(content, about), target)
        wrote = str(target)
    if as_json:
        click.echo(json.dumps({"checks": states, "faults": found, "archive": wrote}, indent=2))
    else:
        for name, state in states.items():
            click.echo(f"{name:<10}{state}")
            for line in found.get(name, []):
                click.echo(f"  {clean(line)}")
        if wrote:
            click.echo(wrote)
    sys.exit(1 if faulty else 0)
