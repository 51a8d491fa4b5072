"""What can go wrong for the user, with what to do about it."""

from __future__ import annotations


class MihackError(Exception):
    """The user can fix it: a message, and a hint that says how."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
