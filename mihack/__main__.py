"""Where ``mihack`` and ``python -m mihack`` begin.

A command lives for a tenth of a second, of which Python would spend a fifth on looking for garbage
while modules load, and again at exit.  So the collector rests here, and what is alive at the end is
left to the system (gc.freeze); exit handlers run as ever.  In a process that imports ``mihack.cli``
for itself nothing changes.
"""

from __future__ import annotations

import gc
import os
import sys


def main() -> None:
    """Run the command line and exit: 0 done, 1 the user can fix it, 2 wrong usage."""
    gc.disable()
    _ready_streams()
    try:
        from mihack.cli import run

        code = run(sys.argv[1:])
    except KeyboardInterrupt:  # while the modules load; run() handles the rest
        code = 1
    finally:
        gc.freeze()
    sys.exit(code)


def _ready_streams() -> None:
    """A closed stream, or one whose encoding lacks a letter, is no reason to fail."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115, PTH123 (open to the end; no pathlib)
        elif stream.encoding.lower() not in {"utf-8", "utf8"}:
            stream.reconfigure(errors="replace")


if __name__ == "__main__":
    main()
