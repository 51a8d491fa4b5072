"""``python -m mihack``."""

from mihack.cli import main

main()
