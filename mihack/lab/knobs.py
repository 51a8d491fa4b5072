"""Knobs: the UPPER_CASE settings at the top of an experiment, and their command-line flags.

An experiment is a script with plain assignments (``STEPS = 300``).  Every one of them is also a
flag (``python experiment.py --steps 600 --seed 1``), so nothing has to be declared twice.
"""

from __future__ import annotations

import argparse
import builtins
import sys
from collections.abc import MutableMapping, Sequence
from typing import Any

Knob = bool | int | float | str


def in_notebook() -> bool:
    """True inside IPython or Jupyter, where ``sys.argv`` belongs to the kernel."""
    return hasattr(builtins, "__IPYTHON__")


def read_knobs(namespace: MutableMapping[str, Any]) -> dict[str, Knob]:
    """The knobs set so far in ``namespace`` (usually ``globals()``): name -> value."""
    return {
        name: value
        for name, value in namespace.items()
        if name.isupper() and not name.startswith("_") and isinstance(value, bool | int | float | str)
    }


def _truth(text: str) -> bool:
    if text.lower() in {"1", "true", "yes", "on"}:
        return True
    if text.lower() in {"0", "false", "no", "off"}:
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is not true or false")


def parse_flags(
    knobs: dict[str, Knob], description: str, arguments: Sequence[str] | None = None
) -> argparse.Namespace:
    """Parse ``--knob value`` for each knob, and the flags that every experiment has.

    ``arguments`` defaults to ``sys.argv[1:]``, or to nothing inside a notebook.  A wrong flag ends
    the script with exit code 2 and a message, as argparse does.
    """
    if arguments is None:
        arguments = [] if in_notebook() else sys.argv[1:]
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, value in knobs.items():
        kind: Any = _truth if isinstance(value, bool) else type(value)
        flag = "--" + name.lower().replace("_", "-")
        parser.add_argument(flag, dest=name, type=kind, default=value, help=f"default: {value}")
    parser.add_argument("--device", default="auto", help="auto (CUDA if it works, else CPU), cpu, cuda, mps")
    parser.add_argument("--out", default="results", help="folder for runs (default: results)")
    parser.add_argument("--check", action="store_true", help="exit 1 if a row misses its expectation")
    return parser.parse_args(list(arguments))


def apply_flags(namespace: MutableMapping[str, Any], flags: argparse.Namespace) -> dict[str, Knob]:
    """Write the parsed knobs back into ``namespace`` and return them."""
    knobs = {name: getattr(flags, name) for name in read_knobs(namespace)}
    namespace.update(knobs)
    return knobs
