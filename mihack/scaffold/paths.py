"""Names that may appear in a generated repo: relative, inside it, and good on every system."""

from __future__ import annotations

import re

from ..errors import MihackError

_RESERVED = {"con", "prn", "aux", "nul", "conin$", "conout$"}
_RESERVED |= {f"{port}{digit}" for port in ("com", "lpt") for digit in "0123456789¹²³"}
_FORBIDDEN = re.compile(r'[<>:"\\|?*\x00-\x1f\x7f]')


def confined(path: str) -> str:
    """``path`` itself if it is a plain relative path with portable names, else MihackError."""
    for part in path.split("/"):
        fault = name_fault(part)
        if fault:
            raise MihackError(f"the planned file {path!r} is refused: {fault}")
    return path


def name_fault(name: str) -> str:
    """What is wrong with one file or folder name, or nothing."""
    if name in {"", ".", ".."}:
        return f"{name!r} is no name"
    if _FORBIDDEN.search(name):
        return f"{name!r} has a character that some systems refuse"
    if name.endswith((" ", ".")):
        return f"{name!r} ends with a space or a full stop, which Windows drops"
    if name.split(".")[0].strip().lower() in _RESERVED:
        return f"{name!r} is a device name on Windows"
    if len(name.encode("utf-8", "surrogatepass")) > 255:
        return f"the name starting {name[:20]!r} is over 255 bytes long"
    return ""


def slug(text: str, fallback: str = "mihack-project") -> str:
    """A project name from any text: lower-case ASCII letters, digits and hyphens, at most 60."""
    import unicodedata

    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    name = re.sub(r"[^a-z0-9]+", "-", plain)[:60].strip("-")
    return name if name and not name_fault(name) else fallback
