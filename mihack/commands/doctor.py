"""`mihack doctor`: the check that also ships in each repo as check_gpu.py."""

from __future__ import annotations

import click


@click.command(
    "doctor",
    epilog="Example: mihack doctor --offline",
    short_help="Check Python, packages, GPU, memory and network.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with every fact behind the checks.")
@click.option("--offline", is_flag=True, help="Ask nothing of the network.")
def doctor_command(as_json: bool, offline: bool) -> int:
    """Check whether this machine is ready for experiments, and whether its device computes correctly.

    One line per check: green is fine, yellow works with less, red must be fixed first and makes
    the exit code 1. mihack itself needs no torch, so here a missing torch is only yellow.
    """
    from mihack import doctor
    from mihack.terminal import plain

    return doctor.run(offline=offline, json_wanted=as_json, needs_torch=False, plain=plain())
