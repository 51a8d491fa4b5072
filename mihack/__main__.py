"""Where ``mihack`` and ``python -m mihack`` begin.

A command lives for a tenth of a second, of which Python would spend a fifth on looking for garbage
while modules load, and again at exit.  So the collector rests here, and what is alive at the end is
left to the system (gc.freeze); exit handlers run as ever.  In a process that imports ``mihack.cli``
for itself nothing changes.
"""

from __future__ import annotations

import gc
import sys


def main() -> None:
    """Run the command line and exit: 0 done, 1 the user can fix it, 2 wrong usage."""
    gc.disable()
    from mihack.cli import run

    try:
        code = run(sys.argv[1:])
    finally:
        gc.freeze()
    sys.exit(code)


if __name__ == "__main__":
    main()
